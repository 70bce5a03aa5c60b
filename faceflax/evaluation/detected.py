"""Evaluation along the path of a live frame: a dataset's images as the detector finds and cuts them.

A dataset's images are already cut around the face, by another detector. Here each one is resized to 192x192 pixels
(FER-2013's 48x48 are enlarged four times) and put in the middle of a 384x384 frame that repeats its border pixels
outwards, then the frame is searched and the face found is cut out as :class:`faceflax.FaceAnalyzer` does it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

from faceflax.faces.crop import crop_face
from faceflax.faces.detection import Detection, Detector, search
from faceflax.faces.square import Square, square_of
from faceflax.opencv import cv2

SIDE = 192
"""Height and width of an image in its frame, in pixels."""
BORDER = 96
"""Pixels around it on each side: the face may fill the image, and a box may reach beyond it."""


class View(NamedTuple):
    """A face in its frame.

    Attributes:
        image: grey, uint8 ``[height, width]``.
        face: where it is.
    """

    image: UInt8[np.ndarray, "height width"]
    face: Detection

    @property
    def square(self) -> Square:
        """What is cut out of the frame, without the margin."""
        return square_of(self.face.box, self.face.landmarks)

    def cut(self, margin: float, size: int) -> UInt8[np.ndarray, "size size"]:
        """Cuts the face out; see :func:`faceflax.faces.crop.crop_face`."""
        return crop_face(self.image, np.rint(self.face.box).astype(int), margin, size, self.face.landmarks)


@dataclass(frozen=True)
class FoundFaces:
    """The images of a dataset in which a detector found a face.

    Attributes:
        index: which images they are.
        views: the face of the highest score in each.
        count: of all images.
    """

    index: Int[np.ndarray, " faces"]
    views: Sequence[View]
    count: int

    def cut(self, margin: float, size: int) -> UInt8[np.ndarray, "faces size size 1"]:
        """Cuts all faces out."""
        return np.stack([view.cut(margin, size) for view in self.views])[..., None]


def frame_of(image: UInt8[np.ndarray, "side side"]) -> UInt8[np.ndarray, "frame frame 3"]:
    """Puts a grey image of :data:`SIDE` pixels into a frame as a camera gives it."""
    frame = cv2.copyMakeBorder(image, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_REPLICATE)
    return cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)


def search_frames(images: UInt8[np.ndarray, "n side side 1"], detector: Detector) -> list[list[Detection]]:
    """Returns all faces found in the frame of each image, the highest score first.

    Each frame on one thread, as they are small, and as many together as there are processors.

    Args:
        images: grey, of :data:`SIDE` pixels.
        detector: finds faces.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(lambda image: search(detector, frame_of(image[:, :, 0])), images)
            return list(tqdm(found, "detecting", len(images), unit=" images", leave=False, disable=None))
    finally:
        cv2.setNumThreads(threads)


def find_faces(images: UInt8[np.ndarray, "n side side 1"], detector: Detector) -> FoundFaces:
    """Finds the face of the highest score in the frame of each image; arguments as for :func:`search_frames`."""
    found = search_frames(images, detector)
    index = np.flatnonzero([len(faces) > 0 for faces in found])
    views = [View(cv2.cvtColor(frame_of(images[i, :, :, 0]), cv2.COLOR_BGR2GRAY), found[i][0]) for i in index]
    return FoundFaces(index, views, len(images))
