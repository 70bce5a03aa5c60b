"""Pixels in and out: images, videos and cameras; annotated copies, tables, the window, the timeline."""
