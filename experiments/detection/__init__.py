"""How well faces are found: in photographs (``python -m experiments.detection``) and in videos (``.clips``)."""
