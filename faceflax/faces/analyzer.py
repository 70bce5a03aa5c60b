"""From a frame to its faces and their perceived labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int, UInt8

from faceflax import native, pretrained
from faceflax.errors import FaceflaxError
from faceflax.faces.crop import crop_face
from faceflax.faces.detection import Detector, HaarDetector
from faceflax.faces.face import Face
from faceflax.inference import program
from faceflax.inference.compiled import BatchFunction
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.opencv import cv2
from faceflax.preprocessing import normalize

__all__ = ["Face", "FaceAnalyzer"]

_BATCH_SIZES = (1, 4, 16)  # a frame holds few faces, and each size adds to the start


class FaceAnalyzer:
    """Finds the faces of a frame and estimates perceived emotion and perceived gender of each.

    Both networks run in one call for all faces. Where the C++ kernels do not compute them (:mod:`faceflax.native`),
    everything is compiled in the constructor, or loaded where an earlier process has compiled it, so that the first
    frame is as fast as the others.

    Args:
        emotion: shipped weights or the path of a weights file, with the labels ``faceflax.labels.EMOTIONS``.
        gender: the same, with the labels ``faceflax.labels.GENDERS``.
        detector: what finds the faces; :class:`~faceflax.faces.detection.HaarDetector` if not given.

    Raises:
        FaceflaxError: weights that cannot be loaded or predict something else.
    """

    def __init__(
        self,
        emotion: str | Path = "mini_xception-fer2013",
        gender: str | Path = "mini_xception-fairface",
        detector: Detector | None = None,
    ) -> None:
        networks = (_load("emotion", emotion, EMOTIONS), _load("gender", gender, GENDERS))
        self.detector = HaarDetector() if detector is None else detector
        self._infos = [info for _, info in networks]
        programs = [folded for folded, _ in networks]
        made = [program.network(folded) for folded in programs]
        self._networks = [network for network in made if network is not None]
        if self._networks:
            return

        def probabilities(*crops: jax.Array) -> list[jax.Array]:
            return [
                jax.nn.softmax(program.evaluate(folded, normalize(faces[..., None])) / info.temperature)
                for folded, faces, info in zip(programs, crops, self._infos, strict=True)
            ]

        key = f"probabilities {[(program.digest(folded), info.temperature) for folded, info in networks]}"
        self._compiled = BatchFunction(probabilities, _BATCH_SIZES, key)
        self._compiled.warm_up(
            *(jax.ShapeDtypeStruct((info.image_size, info.image_size), jnp.uint8) for info in self._infos)
        )

    def __call__(self, frame: UInt8[np.ndarray, "height width 3"]) -> list[Face]:
        """Returns the faces of one frame (uint8 ``[height, width, 3]`` BGR), the surest detection first.

        Raises:
            FaceflaxError: ``frame`` is not such an array.
        """
        return self.analyze_batch([frame])[0]

    def analyze_batch(self, frames: Sequence[UInt8[np.ndarray, "height width 3"]]) -> list[list[Face]]:
        """Returns the faces of each frame; all faces of all frames go through the networks together.

        Args:
            frames: uint8 ``[height, width, 3]`` BGR each; their sizes may differ.

        Raises:
            FaceflaxError: a frame is not such an array.
        """
        for frame in frames:
            check_frame(frame)
        boxes = [self.detector(frame) for frame in frames]
        emotions, genders = self.probabilities_batch(frames, boxes)
        answers = iter(zip(emotions, genders, strict=True))
        return [[make_face(box, *next(answers)) for box in found] for found in boxes]

    def probabilities(
        self, frame: UInt8[np.ndarray, "height width 3"], boxes: Int[np.ndarray, "faces 4"]
    ) -> tuple[Float32[np.ndarray, "faces 7"], Float32[np.ndarray, "faces 2"]]:
        """Returns the calibrated probabilities of perceived emotion and perceived gender in boxes of one frame.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.
            boxes: x, y, width, height in pixels; they may reach beyond the frame.

        Raises:
            FaceflaxError: ``frame`` is not such an array.
        """
        return self.probabilities_batch([frame], [boxes])

    def probabilities_batch(
        self, frames: Sequence[UInt8[np.ndarray, "height width 3"]], boxes: Sequence[Int[np.ndarray, "faces 4"]]
    ) -> tuple[Float32[np.ndarray, "faces 7"], Float32[np.ndarray, "faces 2"]]:
        """Like :meth:`probabilities`, of several frames' boxes together: a row for each box, in order.

        Args:
            frames: uint8 ``[height, width, 3]`` BGR each; their sizes may differ.
            boxes: of each frame.

        Raises:
            FaceflaxError: a frame is not such an array.
        """
        for frame in frames:
            check_frame(frame)
        greys = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]
        faces = [(grey, box) for grey, found in zip(greys, boxes, strict=True) for box in found]
        if not faces:
            return np.empty((0, len(EMOTIONS)), np.float32), np.empty((0, len(GENDERS)), np.float32)
        crops = [
            np.stack([crop_face(grey, box, info.crop_margin, info.image_size) for grey, box in faces])
            for info in self._infos
        ]
        if self._networks:
            images = [normalize(each[..., None]) for each in crops]
            logits = native.run(list(zip(self._networks, images, strict=True)))
            emotions, genders = (
                _softmax(x / np.float32(info.temperature)) for x, info in zip(logits, self._infos, strict=True)
            )
        else:
            emotions, genders = self._compiled(*crops)
        return emotions, genders


def _softmax(x: Float32[np.ndarray, "faces classes"]) -> Float32[np.ndarray, "faces classes"]:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def make_face(
    box: Sequence[int] | np.ndarray,
    emotions: Float32[np.ndarray, " 7"],
    genders: Float32[np.ndarray, " 2"],
    track_id: int | None = None,
) -> Face:
    """Returns a face with the likeliest labels."""
    x, y, width, height = (int(value) for value in box)
    return Face(
        box=(x, y, width, height),
        emotion=EMOTIONS[int(np.argmax(emotions))],
        emotion_probabilities=emotions,
        gender=GENDERS[int(np.argmax(genders))],
        gender_probabilities=genders,
        track_id=track_id,
    )


def _load(
    argument: str, weights: str | Path, labels: tuple[str, ...]
) -> tuple[program.Program, pretrained.WeightsInfo]:
    try:
        info = pretrained.weights_info(weights)
        if info.labels != labels:
            raise FaceflaxError(
                f"weights: {str(weights)!r} predicts {', '.join(info.labels)}; "
                f"give weights that predict {', '.join(labels)}"
            )
        folded = program.fold(*pretrained.load(weights))
        if folded is None:
            raise FaceflaxError(
                f"weights: {str(weights)!r} is a {info.arch}, which FaceAnalyzer does not run; give weights of "
                "mini_xception or sequential_cnn, or use faceflax.compile"
            )
        return folded, info
    except FaceflaxError as error:
        raise FaceflaxError(f"{argument} {error}") from None


def check_frame(frame: object) -> None:
    """Refuses what is not uint8 ``[height, width, 3]``.

    Raises:
        FaceflaxError: ``frame`` is not such an array.
    """
    if not isinstance(frame, np.ndarray):
        raise FaceflaxError(f"frame: a {type(frame).__name__} is not a NumPy array; read it with cv2.imread")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise FaceflaxError(
            f"frame: type {frame.dtype}, shape {frame.shape} is not uint8 [height, width, 3]; "
            "convert it to BGR, as cv2.imread gives it"
        )
