"""Folders, archives and videos into one table."""
