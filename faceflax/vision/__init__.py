"""Faces in pictures: where frames come from, where the faces are, and how the answer is drawn."""
