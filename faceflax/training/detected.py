"""The faces of a dataset as a detector finds them and the analyzers cut them out, to train on and to choose by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from faceflax import data
from faceflax.errors import FaceflaxError
from faceflax.evaluation.corruptions import CORRUPTIONS
from faceflax.evaluation.detected import SIDE, FoundFaces, find_faces
from faceflax.evaluation.robustness import corrupted
from faceflax.faces import make_detector


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
    faces = _find(detector, dataset, "train", data_dir)
    return Crops(faces.cut(data.crop_margin(dataset), image_size), faces.index)


def validation_crops(
    detector: str, dataset: str, image_size: int, data_dir: Path | None
) -> tuple[Crops, list[UInt8[np.ndarray, "faces size size 1"]]]:
    """Returns the faces found in the validation split, and the same of each common corruption.

    They are what :mod:`faceflax.evaluation.robustness` measures. Arguments and errors as for :func:`training_crops`.
    """
    faces = _find(detector, dataset, "validation", data_dir)
    margin = data.crop_margin(dataset)
    again = make_detector(detector)
    kinds = [each for each in CORRUPTIONS if each.common]
    hurt = [corrupted(faces, each, again, margin=margin, size=image_size)[0] for each in kinds]
    return Crops(faces.cut(margin, image_size), faces.index), hurt


def _find(detector: str, dataset: str, split: str, data_dir: Path | None) -> FoundFaces:
    images = data.load(dataset, split, image_size=SIDE, data_dir=data_dir).images
    faces = find_faces(images, make_detector(detector))
    if not faces.views:
        problem = f"finds a face in none of the {len(images)} images of {dataset} {split}"
        raise FaceflaxError("detector", detector, f"{{}} {problem}", "leave it out, or name another dataset")
    return faces
