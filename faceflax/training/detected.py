"""The faces of a dataset as a detector finds them and the analyzers cut them out, to train on and to choose by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

from faceflax import data
from faceflax.errors import FaceflaxError
from faceflax.evaluation.corruptions import CORRUPTIONS
from faceflax.evaluation.detected import SIDE, FoundFaces, find_faces
from faceflax.evaluation.robustness import corrupted
from faceflax.faces import make_detector

T = TypeVar("T")
TOGETHER = 512
"""Images whose frames are in memory together."""


@dataclass(frozen=True)
class Crops:
    """Faces that were found.

    Attributes:
        images: cut out.
        index: of which of the split's images.
    """

    images: UInt8[np.ndarray, "faces size size 1"]
    index: Int[np.ndarray, " faces"]


def training_crops(detector: str, dataset: str, image_size: int, data_dir: Path | None) -> Crops:
    """Returns the faces found in the training split.

    Args:
        detector: as for :func:`faceflax.faces.make_detector`.
        dataset: as for :func:`faceflax.data.load`.
        image_size: of the result.
        data_dir: as for :func:`faceflax.data.load`.

    Raises:
        FaceflaxError: no such detector, or it finds a face in none of the images.
    """
    margin = data.crop_margin(dataset)
    parts = list(_find(detector, dataset, "train", data_dir, lambda faces: faces.cut(margin, image_size)))
    return Crops(np.concatenate([images for _, images in parts]), np.concatenate([index for index, _ in parts]))


def validation_crops(
    detector: str, dataset: str, image_size: int, data_dir: Path | None
) -> tuple[Crops, list[UInt8[np.ndarray, "faces size size 1"]]]:
    """Returns the faces found in the validation split, and the same of each common corruption.

    They are what :mod:`faceflax.evaluation.robustness` measures. Arguments and errors as for :func:`training_crops`.
    """
    margin = data.crop_margin(dataset)
    again = make_detector(detector)
    kinds = [each for each in CORRUPTIONS if each.common]

    def cut(faces: FoundFaces) -> list[UInt8[np.ndarray, "faces size size 1"]]:
        hurt = (corrupted(faces, each, again, margin=margin, size=image_size)[0] for each in kinds)
        return [faces.cut(margin, image_size), *hurt]

    parts = list(_find(detector, dataset, "validation", data_dir, cut))
    clean, *hurt = map(np.concatenate, zip(*(images for _, images in parts), strict=True))
    return Crops(clean, np.concatenate([index for index, _ in parts])), hurt


def _find(
    detector: str, dataset: str, split: str, data_dir: Path | None, use: Callable[[FoundFaces], T]
) -> Iterator[tuple[Int[np.ndarray, " faces"], T]]:
    """Yields what ``use`` makes of some of the split's faces and which images they are of, until all had their turn."""
    images = data.load(dataset, split, image_size=SIDE, data_dir=data_dir).images
    finder = make_detector(detector)
    found = 0
    with tqdm(total=len(images), desc=f"finding faces of {dataset} {split}", unit=" images", leave=False) as bar:
        for first in range(0, len(images), TOGETHER):
            faces = find_faces(images[first : first + TOGETHER], finder)
            found += len(faces.index)
            if faces.views:
                faces = replace(faces, index=faces.index + first)
                yield faces.index, use(faces)
            bar.update(faces.count)
    if not found:
        problem = f"finds a face in none of the {len(images)} images of {dataset} {split}"
        raise FaceflaxError("detector", detector, f"{{}} {problem}", "leave it out, or name another dataset")
