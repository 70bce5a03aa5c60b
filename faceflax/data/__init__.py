"""Datasets of faces: TFDS builders over the publishers' files, and :func:`load`, which reads a prepared one."""

from __future__ import annotations

from faceflax.data.loading import DATASETS, SPLITS, Examples, load

__all__ = ["DATASETS", "SPLITS", "Examples", "load"]
