"""Faces by OpenCV's YuNet, a small convolutional network whose model file the user supplies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from faceflax.errors import FaceflaxError
from faceflax.faces.crop import crop_face, square_around
from faceflax.faces.detection import Detection, boxes_of, clip_to_frame, iou
from faceflax.faces.frame import Image, as_frame
from faceflax.opencv import cv2

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Int32

_FACE, _MARGIN = 64, 0.5
_SIDE = round(_FACE * (1 + 2 * _MARGIN))
"""A close look is 128 pixels wide, its face about 64."""
_LIKELY = 0.5
"""Share of the score asked of a face that is enough where a face was a frame ago."""
_DOWNLOAD = "download face_detection_yunet_2023mar.onnx from OpenCV's model zoo (opencv_zoo on GitHub)"


class YuNetDetector:
    """OpenCV's ``FaceDetectorYN``; it finds turned and half-covered faces that a cascade does not.

    Wu, Peng and Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research, 2023.

    Args:
        model: the ONNX file, such as ``face_detection_yunet_2023mar.onnx`` of OpenCV's model zoo; none is shipped here.
        min_score: the least score of a face, in (0, 1].
        max_side: a frame whose longer side has more pixels is reduced to this before the search; ``None``
            never reduces.

    Raises:
        FaceflaxError: no such file, a file that is not such a model, or an argument out of its range.
    """

    def __init__(self, model: str | Path, min_score: float = 0.7, max_side: int | None = 640) -> None:
        if not 0 < min_score <= 1:
            raise FaceflaxError("min_score", min_score, "is not a score", "give a number above 0 and up to 1")
        if max_side is not None and max_side < 1:
            raise FaceflaxError("max_side", max_side, "is not a number of pixels", "give 1 or more, or None")
        if not Path(model).is_file():
            raise FaceflaxError("model", Path(model), "there is no model file {}", f"{_DOWNLOAD} and give its path")
        self.min_score = min_score
        self.max_side = max_side
        try:
            self._whole, self._close = (
                cv2.FaceDetectorYN.create(str(model), "", (_SIDE, _SIDE), score_threshold=min_score * _LIKELY)
                for _ in range(2)  # one for each size of image: a change of size costs as much as a search
            )
            self._close.detect(np.zeros((_SIDE, _SIDE, 3), np.uint8))
        except cv2.error as error:
            reason = " ".join(error.err.split())
            problem = f"is not a YuNet model that OpenCV {cv2.__version__} can run ({reason})"
            raise FaceflaxError("model", Path(model), problem, _DOWNLOAD) from None

    def __call__(self, frame: Image) -> Int32[np.ndarray, "faces 4"]:
        """Returns boxes x, y, width, height in pixels, inside the frame, the one with the highest score first.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.

        Raises:
            FaceflaxError: ``frame`` is not such an array.
        """
        frame = as_frame(frame)
        height, width = frame.shape[:2]
        scale = min(1.0, (self.max_side or np.inf) / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        self._whole.setInputSize(size)
        found = self._search(self._whole, cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
        sizes = np.array([width, height] * 2) / np.array(size * 2)
        return clip_to_frame(boxes_of([face for face in found if face.confident]) * sizes, height, width)

    def follow(self, frame: Image, expected: Sequence[Detection]) -> list[Detection | None]:
        """Looks closely where faces should be, and returns each one's detection or None.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.
            expected: where faces should be.

        Raises:
            FaceflaxError: ``frame`` is not such an array.
        """
        frame = as_frame(frame)
        return [self._look(frame, face) for face in expected]

    def _look(self, frame: np.ndarray, face: Detection) -> Detection | None:
        place = np.rint(face.box).astype(int)
        place[2:] = place[2:].clip(1)
        left, top, side = square_around(place, _MARGIN)
        found = self._search(self._close, crop_face(frame, place, _MARGIN, _SIDE))
        boxes = boxes_of(found) * (side / _SIDE) + [left, top, 0, 0]
        overlap = iou(place[None].astype(np.float64), boxes)[0]
        near = [replace(seen, box=box) for seen, box, o in zip(found, boxes, overlap, strict=True) if o > 0.3]
        return near[0] if near else None

    def _search(self, network: cv2.FaceDetectorYN, image: np.ndarray) -> list[Detection]:
        """The faces of an image, those with the highest score first."""
        _, rows = network.detect(image)
        if rows is None:
            return []
        rows = rows[np.argsort(-rows[:, 14], kind="stable")].astype(np.float64)
        eyes = rows[:, 6:8] - rows[:, 4:6]  # from the person's right eye, on the left of the image, to the left one
        rolls = np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0]))
        return [
            Detection(row[:4], float(roll), bool(row[14] >= self.min_score))
            for row, roll in zip(rows, rolls, strict=True)
        ]
