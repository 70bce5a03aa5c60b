"""A larger or longer trained detector as teacher: what YuNet says of each place of a crop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from faceflax.errors import FaceflaxError
from faceflax.faces.yunet import YuNetDetector
from faceflax.models.architectures import DETECTOR_STRIDES
from faceflax.opencv import cv2

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float32, UInt8

_OUTPUTS = [f"{kind}_{stride}" for kind in ("cls", "obj", "kps") for stride in DETECTOR_STRIDES]


class YuNetTeacher:
    """What YuNet says of the places of a crop, which are those of ``face_detector``: strides of 8, 16 and 32 pixels.

    Wu, Peng and Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research, 2023.

    Args:
        model: the ONNX file of OpenCV's model zoo.

    Raises:
        FaceflaxError: no such file, or a file that is not such a model (its field is ``model``).
    """

    def __init__(self, model: str | Path) -> None:
        YuNetDetector(model)  # refuses other files
        self._network = cv2.dnn.readNet(str(model))
        missing = set(_OUTPUTS) - set(self._network.getUnconnectedOutLayersNames())
        if missing:
            problem = f"{{}} gives no {min(missing)}"
            raise FaceflaxError("model", Path(model), problem, "give a YuNet of OpenCV's model zoo from 2023 or later")

    def __call__(self, image: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, "places 11"]:
        """Returns for each place, in the order of the network's output, the score and x, y of the landmarks in pixels.

        Args:
            image: BGR; both sides a multiple of 32.
        """
        self._network.setInput(cv2.dnn.blobFromImage(image))
        outputs = dict(zip(_OUTPUTS, self._network.forward(_OUTPUTS), strict=True))
        parts = []
        for stride in DETECTOR_STRIDES:
            certain, there, points = (outputs[f"{kind}_{stride}"][0] for kind in ("cls", "obj", "kps"))
            score = np.sqrt(certain.clip(0, 1) * there.clip(0, 1))
            rows, columns = np.mgrid[: image.shape[0] // stride, : image.shape[1] // stride]
            corners = np.stack([columns, rows], -1).reshape(-1, 1, 2)
            places = (points.reshape(-1, 5, 2) + corners) * stride
            parts.append(np.concatenate([score, places.reshape(-1, 10)], 1))
        return np.concatenate(parts).astype(np.float32)
