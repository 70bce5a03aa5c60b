"""Evaluation along the path of a live frame: a dataset's images as the detector finds and cuts them.

A dataset's images are already cut around the face, by another detector. Here each one is resized to 192x192 pixels
(FER-2013's 48x48 are enlarged four times) and put in the middle of a 384x384 frame that repeats its border pixels
outwards, then the frame is searched and the face found is cut out as :class:`faceflax.FaceAnalyzer` does it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from faceflax.faces.crop import crop_face
from faceflax.faces.detection import Detection, Detector, search
from faceflax.opencv import cv2

SIDE = 192
"""Height and width of an image in its frame, in pixels."""
BORDER = 96
"""Pixels around it on each side: the face may fill the image, and a box may reach beyond it."""


def frame_of(image: UInt8[np.ndarray, "side side"]) -> UInt8[np.ndarray, "frame frame 3"]:
    """Puts a grey image of :data:`SIDE` pixels into a frame as a camera gives it."""
    frame = cv2.copyMakeBorder(image, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_REPLICATE)
    return cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)


def find_faces(images: UInt8[np.ndarray, "n side side 1"], detector: Detector) -> list[list[Detection]]:
    """Returns the faces found in the frame of each image, the highest score first.

    On one OpenCV thread, as the frames are small.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return [
            search(detector, frame_of(image[:, :, 0]))
            for image in tqdm(images, "detecting", unit=" images", leave=False, disable=None)
        ]
    finally:
        cv2.setNumThreads(threads)


def crop_faces(
    images: UInt8[np.ndarray, "n side side 1"], faces: Iterable[Detection], margin: float, size: int
) -> UInt8[np.ndarray, "n size size 1"]:
    """Cuts one face out of the frame of each image.

    Args:
        images: of :data:`SIDE` pixels.
        faces: one for each image, in its frame.
        margin: as for :func:`faceflax.faces.crop.crop_face`.
        size: as for :func:`faceflax.faces.crop.crop_face`.
    """
    frames = (cv2.cvtColor(frame_of(image[:, :, 0]), cv2.COLOR_BGR2GRAY) for image in images)
    cut = zip(frames, faces, strict=True)
    return np.stack(
        [crop_face(frame, np.rint(face.box).astype(int), margin, size, face.landmarks) for frame, face in cut]
    )[..., None]
