"""Datasets of faces: TFDS builders over the publishers' files, and :func:`load`, which reads a prepared one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from faceflax.errors import needing_extras

if TYPE_CHECKING:
    from faceflax.data.augment import Augmentation
    from faceflax.data.loading import DATASETS, SPLITS, Examples, crop_margin, load
    from faceflax.data.synthetic import SyntheticFaces, render_face, render_faces

__all__ = [
    "DATASETS",
    "SPLITS",
    "Augmentation",
    "Examples",
    "SyntheticFaces",
    "crop_margin",
    "load",
    "render_face",
    "render_faces",
]

_HOMES = {
    "faceflax.data.augment": ("Augmentation",),
    "faceflax.data.loading": ("DATASETS", "SPLITS", "Examples", "crop_margin", "load"),  # imports TFDS
    "faceflax.data.synthetic": ("SyntheticFaces", "render_face", "render_faces"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            with needing_extras():
                return getattr(import_module(module), name)
    raise AttributeError(f"module 'faceflax.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
