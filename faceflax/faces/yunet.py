"""Faces by OpenCV's YuNet, a small convolutional network whose model file the user supplies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from faceflax.errors import FaceflaxError
from faceflax.faces.crop import crop_face, square_around
from faceflax.faces.detection import Detection, boxes_of, clip_to_frame, iou
from faceflax.faces.frame import Image, as_frame
from faceflax.faces.spares import Process, Spares
from faceflax.files import check_file
from faceflax.opencv import cv2

_FACE, _MARGIN = 64, 0.5
_SIDE = round(_FACE * (1 + 2 * _MARGIN))
"""A close look is 128 pixels wide, its face about 64."""
_LEAST_SIDE = 64
"""OpenCV makes faces of what happens to be in memory where an image is no larger than 32 pixels in one direction."""
_LIKELY = 0.5
"""Share of the score asked of a face that is enough where a face was a frame ago."""
_MOST_BYTES = 2**28
_DOWNLOAD = "download face_detection_yunet_2023mar.onnx from OpenCV's model zoo (opencv_zoo on GitHub)"


class YuNetDetector:
    """OpenCV's ``FaceDetectorYN``; it finds turned and half-covered faces that a cascade does not.

    Wu, Peng and Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research, 2023.

    Args:
        model: the ONNX file, such as ``face_detection_yunet_2023mar.onnx`` of OpenCV's model zoo; none is shipped here.
        min_score: the least score of a face, in (0, 1].
        max_side: a frame whose longer side has more pixels is reduced to this before the search; ``None``
            never reduces.
        min_size: smaller faces are left out; the longer side of their boxes, in pixels of the frame.

    Raises:
        FaceflaxError: no such file, a file that is not such a model, or an argument out of its range.
    """

    def __init__(
        self, model: str | Path, min_score: float = 0.7, max_side: int | None = 640, min_size: int = 1
    ) -> None:
        if not 0 < min_score <= 1:
            raise FaceflaxError("min_score", min_score, "is not a score", "give a number above 0 and up to 1")
        if max_side is not None and max_side < 1:
            raise FaceflaxError("max_side", max_side, "is not a number of pixels", "give 1 or more, or None")
        if min_size < 1:
            raise FaceflaxError("min_size", min_size, "is not a number of pixels", "give 1 or more")
        if not os.path.isfile(model):  # Path.is_file raises for names that are too long
            raise FaceflaxError("model", Path(model), "there is no model file {}", f"{_DOWNLOAD} and give its path")
        check_file("model", Path(model), most=_MOST_BYTES, remedy=_DOWNLOAD)
        self.min_score = min_score
        self.max_side = max_side
        self.min_size = min_size
        self._process = Process("this YuNetDetector")

        def make() -> cv2.FaceDetectorYN:
            return cv2.FaceDetectorYN.create(str(model), "", (_SIDE, _SIDE), score_threshold=min_score * _LIKELY)

        try:  # a kind for each size of image: a change of size costs as much as a search
            self._whole, self._close = Spares(make), Spares(make)
            with self._close.borrow() as network:
                network.detect(np.zeros((_SIDE, _SIDE, 3), np.uint8))
        except cv2.error as error:
            reason = " ".join(error.err.split())
            problem = f"is not a YuNet model that OpenCV {cv2.__version__} can run ({reason})"
            raise FaceflaxError("model", Path(model), problem, _DOWNLOAD) from None

    def __call__(self, frame: Image) -> list[Detection]:
        """Returns the faces, the one with the highest score first; boxes are inside the frame.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.

        Raises:
            FaceflaxError: ``frame`` is not such an array.
        """
        self._process.check()
        frame = as_frame(frame)
        height, width = frame.shape[:2]
        scale = min(1.0, (self.max_side or np.inf) / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        right, below = (max(0, _LEAST_SIDE - side) for side in size)
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
        with self._whole.borrow() as network:
            network.setInputSize((size[0] + right, size[1] + below))
            found = _search(network, image)
        sizes = np.array([width, height]) / np.array(size)
        found = [_moved(face, sizes, np.zeros(2)) for face in found if face.score >= self.min_score]
        boxes = clip_to_frame(boxes_of(found), height, width).astype(np.float64)
        return [
            Detection(box, face.score, face.landmarks)
            for box, face in zip(boxes, found, strict=True)
            if box[2:].all() and box[2:].max() >= self.min_size
        ]

    def follow(self, frame: Image, expected: Sequence[Detection]) -> list[Detection | None]:
        """Looks closely where faces should be, and returns each one's detection or None.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.
            expected: where faces should be.

        Raises:
            FaceflaxError: ``frame`` is not such an array.
        """
        self._process.check()
        frame = as_frame(frame)
        with self._close.borrow() as network:
            return [_look(network, frame, face) for face in expected]


def _look(network: cv2.FaceDetectorYN, frame: np.ndarray, face: Detection) -> Detection | None:
    place = np.rint(face.box).astype(int)
    place[2:] = place[2:].clip(1)
    left, top, side = square_around(place, _MARGIN)
    found = _search(network, crop_face(frame, place, _MARGIN, _SIDE))
    found = [_moved(seen, np.full(2, side / _SIDE), np.array([left, top])) for seen in found]
    overlap = iou(place[None].astype(np.float64), boxes_of(found))[0]
    return next((seen for seen, common in zip(found, overlap, strict=True) if common > 0.3), None)


def _moved(face: Detection, scale: np.ndarray, offset: np.ndarray) -> Detection:
    """A face of a part of the frame that was resized, where it is in the frame."""
    box = np.concatenate([face.box[:2] * scale + offset, face.box[2:] * scale])
    assert face.landmarks is not None
    return Detection(box, face.score, (face.landmarks * scale + offset).astype(np.float32))


def _search(network: cv2.FaceDetectorYN, image: np.ndarray) -> list[Detection]:
    """The faces of an image, those with the highest score first."""
    _, rows = network.detect(image)
    if rows is None:
        return []
    rows = rows[np.argsort(-rows[:, 14], kind="stable")]
    # Their first eye is the person's right one, on the left of the image.
    return [Detection(row[:4].astype(np.float64), float(row[14]), row[4:14].reshape(5, 2)) for row in rows]
