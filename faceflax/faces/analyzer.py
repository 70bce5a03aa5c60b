"""From a frame to its faces and their perceived labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from faceflax.errors import FaceflaxError
from faceflax.faces.crop import crop_face
from faceflax.faces.detection import Detector
from faceflax.faces.face import Crops, Face
from faceflax.faces.frame import Image, as_frames
from faceflax.faces.haar import HaarDetector
from faceflax.inference import Classifiers, folding
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.pretrained import WeightsInfo

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float32, Int


class FaceAnalyzer:
    """Finds the faces of an image and predicts the perceived emotion and the perceived gender of each.

    Both networks run in one call for all faces (:class:`~faceflax.inference.Classifiers`), and the constructor makes
    all that they need, so that the first frame is as fast as the others. For the frames of a video or a camera
    :class:`~faceflax.VideoAnalyzer` is faster and its labels are steadier.

    Args:
        emotion: name of shipped weights or path of a weights file, with the labels ``faceflax.EMOTIONS``.
        gender: the same, with the labels ``faceflax.GENDERS``.
        detector: finds the faces: any callable that takes a uint8 ``[height, width, 3]`` BGR image and returns integer
            boxes ``[faces, 4]`` (x, y, width, height in pixels); a new
            :class:`~faceflax.faces.haar.HaarDetector` if not given.

    Raises:
        FaceflaxError: weights that cannot be loaded or predict something else.

    Example:
        >>> from faceflax.media.demo import photograph
        >>> (face,) = FaceAnalyzer()(photograph())
        >>> face.emotion in EMOTIONS, face.emotion_probabilities.shape
        (True, (7,))
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
        self._cuts = [(info.crop_margin, info.image_size) for info in self._infos]
        self._classify = Classifiers(
            [folded for folded, _ in networks],
            [info.temperature for info in self._infos],
            [info.image_size for info in self._infos],
        )

    def __call__(self, frame: Image) -> list[Face]:
        """Returns the faces of one image, in the order of the detector: by default the one with the most hits first.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR, as ``cv2.imread`` gives it.

        Raises:
            FaceflaxError: ``frame`` is not such an array, as where ``cv2.imread`` could not read the image.
        """
        return self.analyze_batch([frame])[0]

    def analyze_batch(self, frames: Sequence[Image]) -> list[list[Face]]:
        """Returns the faces of each image; all faces of all images go through the networks together.

        Args:
            frames: uint8 ``[height, width, 3]`` BGR each; their sizes may differ.

        Raises:
            FaceflaxError: a frame is not such an array.
        """
        frames = as_frames(frames)
        return self.label_batch(frames, [self.detector(frame) for frame in frames])

    def label_batch(self, frames: Sequence[Image], boxes: Sequence[Int[np.ndarray, "faces 4"]]) -> list[list[Face]]:
        """Labels the faces in given boxes; all faces of all images go through the networks together.

        Args:
            frames: uint8 ``[height, width, 3]`` BGR each; their sizes may differ.
            boxes: of each frame: x, y, width, height in pixels; they may reach beyond the frame.

        Returns:
            For each frame a face a box, in order, with the crops that the networks saw.

        Raises:
            FaceflaxError: a frame is not such an array, or a box is empty.
        """
        frames = as_frames(frames)
        faces = [
            {cut: crop_face(frame.grey, box, *cut) for cut in self._cuts}
            for frame, found in zip(frames, boxes, strict=True)
            for box in found
        ]
        if not faces:
            return [[] for _ in frames]
        emotions, genders = self._classify(*(np.stack([face[cut] for face in faces]) for cut in self._cuts))
        answers = zip(emotions, genders, faces, strict=True)
        return [[make_face(box, *next(answers)) for box in found] for found in boxes]

    def probabilities(
        self, frame: Image, boxes: Int[np.ndarray, "faces 4"]
    ) -> tuple[Float32[np.ndarray, "faces 7"], Float32[np.ndarray, "faces 2"]]:
        """Returns the calibrated probabilities of perceived emotion and perceived gender in boxes of one image.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.
            boxes: x, y, width, height in pixels; they may reach beyond the frame.

        Returns:
            A row for each box, in the order of ``faceflax.EMOTIONS`` and of ``faceflax.GENDERS``; each sums to 1.

        Raises:
            FaceflaxError: ``frame`` is not such an array, or a box is empty.
        """
        (faces,) = self.label_batch([frame], [boxes])
        return (
            np.array([face.emotion_probabilities for face in faces], np.float32).reshape(-1, len(EMOTIONS)),
            np.array([face.gender_probabilities for face in faces], np.float32).reshape(-1, len(GENDERS)),
        )


def make_face(
    box: Sequence[int] | np.ndarray,
    emotions: Float32[np.ndarray, " 7"],
    genders: Float32[np.ndarray, " 2"],
    crops: Crops,
    track_id: int | None = None,
) -> Face:
    """Returns a face with its most probable labels; the arguments are as in :class:`~faceflax.Face`."""
    x, y, width, height = (int(value) for value in box)
    return Face(
        box=(x, y, width, height),
        emotion=EMOTIONS[int(np.argmax(emotions))],
        emotion_probabilities=emotions,
        gender=GENDERS[int(np.argmax(genders))],
        gender_probabilities=genders,
        track_id=track_id,
        crops=crops,
    )


def _load(field: str, weights: str | Path, labels: tuple[str, ...]) -> tuple[folding.Program, WeightsInfo]:
    try:
        info, program = folding.load(weights)
    except FaceflaxError as error:
        raise error.renamed(field) from None
    if info.labels != labels:
        raise FaceflaxError(
            field, weights, f"predicts {', '.join(info.labels)}", f"give weights that predict {', '.join(labels)}"
        )
    if program is None:
        raise FaceflaxError(
            field,
            weights,
            f"is a {info.arch}, which FaceAnalyzer does not run",
            "give weights of mini_xception or sequential_cnn, or use faceflax.compile",
        )
    return program, info
