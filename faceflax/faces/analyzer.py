"""From a frame to its faces and their perceived labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from faceflax.errors import FaceflaxError, unknown
from faceflax.faces.choosing import DEFAULT, make_detector
from faceflax.faces.crop import crop_face
from faceflax.faces.detection import Detection, Detections, Detector, as_detections, search
from faceflax.faces.face import Crops, Face
from faceflax.faces.frame import Image, as_frames
from faceflax.faces.spares import Process
from faceflax.inference import Classifiers, folding
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.pretrained import WeightsInfo

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float32


class Preset(NamedTuple):
    """Which networks an analyzer runs, and how.

    Attributes:
        emotion: weights for perceived emotion.
        gender: weights for perceived gender.
        mirrored: an image is searched as it is and mirrored, and so is each face read; the answers are averaged.
        detail: how many times finer than usual an image is searched for faces.
    """

    emotion: str
    gender: str
    mirrored: bool
    detail: float


PRESETS: dict[str, Preset] = {
    "fast": Preset(
        "mini_xception_antialiased-fer2013", "mini_xception_antialiased-fairface", mirrored=False, detail=1.0
    ),
    "accurate": Preset("sequential_cnn-fer2013", "mini_xception_antialiased-fairface", mirrored=True, detail=1.4),
}
"""``fast`` is for video; ``accurate`` takes many times as long for a face and is right more often. Its networks have
the highest mean of the accuracies on the validation faces that the detector finds, as they are and corrupted."""


class FaceAnalyzer:
    """Finds the faces of an image and predicts the perceived emotion and the perceived gender of each.

    With weights of one's own it labels a third task too. All networks run in one call for all faces
    (:class:`~faceflax.inference.Classifiers`), and the constructor makes all that they need, so that the first frame is
    as fast as the others. Any number of threads may use it at once, and get what one gets. For the frames of a video or
    a camera :class:`~faceflax.VideoAnalyzer` is faster and its labels are steadier.

    Args:
        emotion: name of shipped weights or path of a weights file, with the labels ``faceflax.EMOTIONS``; the preset's
            if not given.
        gender: the same, with the labels ``faceflax.GENDERS``.
        detector: finds the faces: a name or file that :func:`~faceflax.faces.make_detector` knows, or any callable that
            takes a uint8 ``[height, width, 3]`` BGR image and returns detections, or integer boxes ``[faces, 4]``: x,
            y, width, height in pixels.
        preset: ``accurate``, for single images, or ``fast``: the networks, whether mirrored copies are averaged, and
            how finely a detector that is named searches (:data:`~faceflax.faces.analyzer.PRESETS`).
        task: a weights file with any labels, such as ``faceflax train --dataset folder/NAME`` makes.

    Raises:
        FaceflaxError: an unknown preset or detector, or weights that cannot be loaded or predict something else.

    Example:
        >>> from faceflax.media.demo import photograph
        >>> (face,) = FaceAnalyzer(preset="fast")(photograph())
        >>> face.emotion in EMOTIONS, face.emotion_probabilities.shape
        (True, (7,))
    """

    def __init__(
        self,
        emotion: str | Path | None = None,
        gender: str | Path | None = None,
        detector: str | Path | Detector | None = None,
        *,
        preset: Literal["fast", "accurate"] = "accurate",
        task: str | Path | None = None,
    ) -> None:
        if preset not in PRESETS:
            raise unknown("preset", preset, PRESETS)
        chosen = PRESETS[preset]
        networks = [
            _load("emotion", chosen.emotion if emotion is None else emotion, EMOTIONS),
            _load("gender", chosen.gender if gender is None else gender, GENDERS),
        ]
        self.task_labels: tuple[str, ...] = ()
        """The labels of the third task; none without one."""
        if task is not None:
            networks.append(_load("task", task, None))
            self.task_labels = networks[-1][1].labels
        finder = DEFAULT if detector is None else detector
        self.detector: Detector = make_detector(finder, detail=chosen.detail, mirrored=chosen.mirrored)
        self._process = Process("this FaceAnalyzer")
        self._mirrored = chosen.mirrored
        infos = [info for _, info in networks]
        self.sure_from = tuple(info.sure["confidence"] if info.sure else 0.0 for info in infos)
        """The probabilities of an emotion, of a gender and of a task's label from which on the analyzer is sure."""
        self._cuts = [(info.crop_margin, info.image_size) for info in infos]
        self._classify = Classifiers(
            [folded for folded, _ in networks],
            [info.temperature for info in infos],
            [info.image_size for info in infos],
        )

    def __call__(self, frame: Image) -> list[Face]:
        """Returns the faces of one image, in the order of the detector: the one with the highest score first.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR, as ``cv2.imread`` gives it.

        Raises:
            FaceflaxError: ``frame`` is not such an array, as where ``cv2.imread`` could not read the image; the
                detector returned something else than faces; or this is a forked child of the process that made the
                analyzer.
        """
        return self.analyze_batch([frame])[0]

    def analyze_batch(self, frames: Sequence[Image]) -> list[list[Face]]:
        """Returns the faces of each image; all faces of all images go through the networks together.

        Args:
            frames: uint8 ``[height, width, 3]`` BGR each; their sizes may differ.

        Raises:
            FaceflaxError: a frame is not such an array.
        """
        self._process.check()
        frames = as_frames(frames)
        return self.label_batch(frames, [search(self.detector, frame) for frame in frames])

    def label_batch(self, frames: Sequence[Image], boxes: Sequence[Detections]) -> list[list[Face]]:
        """Labels given faces; all faces of all images go through the networks together.

        Args:
            frames: uint8 ``[height, width, 3]`` BGR each; their sizes may differ.
            boxes: of each frame: detections, or x, y, width, height in whole pixels; they may reach beyond the frame.

        Returns:
            For each frame a face a box, in order, with the crops that the networks saw.

        Raises:
            FaceflaxError: a frame is not such an array, or a box is empty.
        """
        self._process.check()
        frames = as_frames(frames)
        detections = [as_detections(found) for found in boxes]
        different = dict.fromkeys(self._cuts)  # networks mostly share their crops
        faces = [
            {cut: crop_face(frame.grey, _whole(face), *cut, face.landmarks) for cut in different}
            for frame, found in zip(frames, detections, strict=True)
            for face in found
        ]
        if not faces:
            return [[] for _ in frames]
        crops = [np.stack([face[cut] for face in faces]) for cut in self._cuts]
        predicted = self._classify(*crops)
        if self._mirrored:
            mirrored = self._classify(*(np.ascontiguousarray(faces[:, :, ::-1]) for faces in crops))
            predicted = [(one + other) / 2 for one, other in zip(predicted, mirrored, strict=True)]
        answers = zip(zip(*predicted, strict=True), faces, strict=True)
        return [[self.make_face(face, *next(answers)) for face in found] for found in detections]

    def make_face(
        self,
        face: Detection,
        probabilities: Sequence[Float32[np.ndarray, " classes"]],
        crops: Crops,
        track_id: int | None = None,
        labels: Sequence[int] | None = None,
    ) -> Face:
        """Returns a detected face with its labels.

        Args:
            face: where it is.
            probabilities: of emotion and gender, and of the third task where there is one.
            crops: as in :class:`~faceflax.Face`.
            track_id: as there.
            labels: which of each task's labels it gets; the most probable if not given.
        """
        if labels is None:
            labels = [int(np.argmax(values)) for values in probabilities]
        chosen = [float(values[label]) for values, label in zip(probabilities, labels, strict=True)]
        sure = [probability >= low for probability, low in zip(chosen, self.sure_from, strict=True)]
        emotions, genders, *others = probabilities
        made = Face(
            box=_whole(face),
            emotion=EMOTIONS[labels[0]],
            emotion_probabilities=emotions,
            gender=GENDERS[labels[1]],
            gender_probabilities=genders,
            track_id=track_id,
            score=face.score,
            landmarks=face.landmarks,
            crops=crops,
            sure_emotion=sure[0],
            sure_gender=sure[1],
        )
        if not others:
            return made
        (task,) = others
        name = self.task_labels[labels[2]]
        return replace(made, task=name, task_probabilities=task, task_probability=chosen[2], sure_task=sure[2])

    def probabilities(
        self, frame: Image, boxes: Detections
    ) -> tuple[Float32[np.ndarray, "faces 7"], Float32[np.ndarray, "faces 2"]]:
        """Returns the calibrated probabilities of perceived emotion and perceived gender in boxes of one image.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.
            boxes: detections, or x, y, width, height in whole pixels; they may reach beyond the frame.

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


def _whole(face: Detection) -> tuple[int, int, int, int]:
    x, y, width, height = (round(float(value)) for value in face.box)
    return x, y, width, height


def _load(field: str, weights: str | Path, labels: tuple[str, ...] | None) -> tuple[folding.Program, WeightsInfo]:
    try:
        info, program = folding.load(weights)
    except FaceflaxError as error:
        raise error.renamed(field) from None
    if labels is not None and info.labels != labels:
        remedy = f"give weights that predict {', '.join(labels)}"
        if program is not None:
            remedy += ", or give these as task, beside them"
        raise FaceflaxError(field, weights, f"predicts {', '.join(info.labels)}", remedy)
    if program is None:
        raise FaceflaxError(
            field,
            weights,
            f"is a {info.arch}, which FaceAnalyzer does not run",
            "give weights of another network, or use faceflax.compile",
        )
    return program, info
