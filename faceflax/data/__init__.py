"""Datasets of faces: TFDS builders over the publishers' files, and :func:`load`, which reads a prepared one."""

from __future__ import annotations

from faceflax.data.loading import DATASETS, SPLITS, Examples, crop_margin, load

__all__ = ["DATASETS", "SPLITS", "Examples", "crop_margin", "load"]
