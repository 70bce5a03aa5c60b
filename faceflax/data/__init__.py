"""Datasets of faces: TFDS builders over the publishers' files, and :func:`load`, which reads a prepared one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faceflax.lazy import attach

if TYPE_CHECKING:
    from faceflax.data.augment import Augmentation
    from faceflax.data.loading import (
        DATASETS,
        SPLITS,
        Examples,
        Images,
        Index,
        crop_margin,
        load,
        load_index,
        load_scenes,
        memory_needed,
    )
    from faceflax.data.scene_augmentation import SceneAugmentation
    from faceflax.data.scenes import Scene, Scenes
    from faceflax.data.synthetic import SyntheticFaces, render_face, render_faces

__all__ = [
    "DATASETS",
    "SPLITS",
    "Augmentation",
    "Examples",
    "Images",
    "Index",
    "Scene",
    "SceneAugmentation",
    "Scenes",
    "SyntheticFaces",
    "crop_margin",
    "load",
    "load_index",
    "load_scenes",
    "memory_needed",
    "render_face",
    "render_faces",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "augment": ("Augmentation",),
        "loading": (  # imports TFDS
            *("DATASETS", "SPLITS", "Examples", "Images", "Index"),
            *("crop_margin", "load", "load_index", "load_scenes", "memory_needed"),
        ),
        "scene_augmentation": ("SceneAugmentation",),
        "scenes": ("Scene", "Scenes"),
        "synthetic": ("SyntheticFaces", "render_face", "render_faces"),
    },
)
