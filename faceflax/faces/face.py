"""What the analyzer says about one face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from faceflax.faces.crop import crop_face
from faceflax.faces.frame import Image, as_frame
from faceflax.faces.square import Square, square_of
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.opencv import cv2

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float32, UInt8

    Crops = Mapping[tuple[float, int], UInt8[np.ndarray, "size size"]]
else:
    Crops = Mapping
"""Grey crops of a face by margin and size, as :func:`~faceflax.faces.crop.crop_face` takes them."""


LANDMARKS: tuple[str, ...] = ("eye_left", "eye_right", "nose", "mouth_left", "mouth_right")
"""The landmarks in their order; left is left in the image."""

FACE_COLUMNS: dict[str, type] = {
    **{"track": int, "score": float, "x": int, "y": int, "width": int, "height": int},
    **{f"{name}_{axis}": float for name in LANDMARKS for axis in "xy"},
    **{"size": float, "sharpness": float},
    **{"emotion": str, "sure_emotion": bool, **{f"emotion_{name}": float for name in EMOTIONS}},
    **{"gender": str, "sure_gender": bool, **{f"gender_{name}": float for name in GENDERS}},
    **{"task": str, "sure_task": bool, "task_probability": float},
}
"""What tables say about a face, with the types: the keys of :meth:`Face.to_dict`."""


@dataclass(frozen=True, eq=False)
class Face:
    """One face of a frame and its perceived labels.

    Attributes:
        box: x, y, width, height in pixels of the frame.
        emotion: the most probable of ``faceflax.EMOTIONS``; in a video the one shown before, until another leads it
            (:class:`~faceflax.VideoAnalyzer`). So of the gender and the task.
        emotion_probabilities: float32 ``[7]`` in the order of ``EMOTIONS``; they sum to 1.
        gender: the more probable of ``faceflax.GENDERS``.
        gender_probabilities: float32 ``[2]`` in the order of ``GENDERS``; they sum to 1.
        track_id: which face of the frames before this is, where faces are tracked.
        score: how sure the detector is that this is a face, in [0, 1]; 1 from one that does not say.
        landmarks: x, y in pixels of the eyes, the nose and the corners of the mouth, float32 ``[5, 2]``, the left one
            of two first as the image shows them; None from a detector that does not find them.
        crops: the grey crops of the face that the networks saw, uint8 ``[size, size]``, by margin and size; see
            :meth:`crop`. Empty where none was cut, as for a tracked face that is not seen in this frame.
        sure_emotion: whether the emotion's probability is high enough that the network is usually right: see
            :attr:`faceflax.WeightsInfo.sure`, which has the threshold. Always of weights that state none.
        sure_gender: the same of the gender.
        task: the most probable label of a task of one's own, where the analyzer has weights for one.
        task_probabilities: of its labels, float32 ``[classes]``; they sum to 1.
        task_probability: that of ``task``.
        sure_task: the same of the task.
    """

    box: tuple[int, int, int, int]
    emotion: str
    emotion_probabilities: Float32[np.ndarray, " 7"]
    gender: str
    gender_probabilities: Float32[np.ndarray, " 2"]
    track_id: int | None = None
    score: float = 1.0
    landmarks: Float32[np.ndarray, "5 2"] | None = None
    crops: Crops = field(default_factory=dict, repr=False)
    sure_emotion: bool = True
    sure_gender: bool = True
    task: str | None = None
    task_probabilities: Float32[np.ndarray, " classes"] | None = None
    task_probability: float | None = None
    sure_task: bool = True

    @property
    def square(self) -> Square:
        """Where the face is and how it is turned; crops are this square and a margin."""
        return square_of(self.box, self.landmarks)

    def crop(self, frame: Image, margin: float, size: int) -> UInt8[np.ndarray, "size size"]:
        """Returns the face in grey: what was cut already, or else :func:`~faceflax.faces.crop.crop_face` of ``frame``.

        With landmarks the face is upright in it.

        Args:
            frame: the face's own frame, uint8 ``[height, width, 3]`` BGR.
            margin: share of the box's side to add on each side, at least 0.
            size: side of the result in pixels.

        Raises:
            FaceflaxError: an argument out of its range.
        """
        known = self.crops.get((margin, size))
        if known is not None:
            return known
        return crop_face(as_frame(frame).grey, self.box, margin, size, self.landmarks)

    @property
    def sharpness(self) -> float | None:
        """How sharp the crop for the emotion network is, the variance of its Laplacian; None where none was cut.

        The crop has a fixed size, so that it can be compared from face to face: below about 50 a face is blurred or was
        enlarged.
        """
        if not self.crops:
            return None
        crop = next(iter(self.crops.values()))
        return float(cv2.Laplacian(crop, cv2.CV_32F).var())

    def to_dict(self, scale: tuple[float, float] = (1.0, 1.0)) -> dict[str, Any]:
        """Returns all that tables say about the face: plain numbers and text by :data:`FACE_COLUMNS`.

        Args:
            scale: what x and y in pixels are multiplied by, where the frame had been reduced.

        Example:
            >>> face = Face((1, 2, 30, 40), "sad", np.eye(7, dtype=np.float32)[4], "man", np.float32([0, 1]))
            >>> row = face.to_dict()
            >>> row["x"], row["emotion"], row["emotion_sad"], row["track"]
            (1, 'sad', 1.0, None)
        """
        across, down = scale
        x, y, width, height = self.box
        left, top = round(x * across), round(y * down)
        right, bottom = round((x + width) * across), round((y + height) * down)
        row: dict[str, Any] = dict.fromkeys(FACE_COLUMNS)
        row |= {"track": self.track_id, "score": float(self.score)}
        row |= {"x": left, "y": top, "width": right - left, "height": bottom - top}
        if self.landmarks is not None:
            for name, point in zip(LANDMARKS, self.landmarks, strict=True):
                row |= {f"{name}_x": float(point[0]) * across, f"{name}_y": float(point[1]) * down}
        row |= {"size": float(self.square.side) * across, "sharpness": self.sharpness}
        row |= {"emotion": self.emotion, "sure_emotion": self.sure_emotion}
        row |= {"gender": self.gender, "sure_gender": self.sure_gender}
        if self.task is not None:
            row |= {"task": self.task, "sure_task": self.sure_task, "task_probability": self.task_probability}
        for prefix, labels, values in (
            ("emotion", EMOTIONS, self.emotion_probabilities),
            ("gender", GENDERS, self.gender_probabilities),
        ):
            row |= {f"{prefix}_{label}": float(value) for label, value in zip(labels, values, strict=True)}
        return row
