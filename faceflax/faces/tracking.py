"""Which face of a frame is which face of the frames before.

Bewley et al., "Simple Online and Realtime Tracking", ICIP 2016, with an alpha-beta filter for each face.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from faceflax.errors import FaceflaxError
from faceflax.faces.detection import Detection, boxes_of, clip_to_frame, iou, non_max_suppression

_GAIN = np.array([0.5, 0.5, 0.2, 0.2])
"""What share of the difference between a detection and the predicted centre and log-size is applied: a head moves
faster than it changes its size, and Haar's sizes are noisier than its positions."""
_SPEED_GAIN = _GAIN**2 / (2 - _GAIN)
"""Benedict and Bordner, "Synthesis of an Optimal Set of Radar Track-While-Scan Smoothing Equations", 1962."""
_DRAG = 0.8
"""Share of a face's speed that is kept after a frame in which it was not seen."""


@dataclass(frozen=True)
class Track:
    """A face that is followed, as it is in one frame.

    Attributes:
        id: its number, which no other face has or had.
        box: x, y, width, height in pixels, inside the frame, smoothed over time.
        seen: it was found in this frame; otherwise the box is a prediction.
    """

    id: int
    box: tuple[int, int, int, int]
    seen: bool


class _State:
    """What is known of a face: its position, speed, tilt and score."""

    def __init__(self, number: int, detection: Detection) -> None:
        self.id = number
        self.place = _place(detection.box)
        self.speed = np.zeros(4)
        self.roll = detection.roll
        self.score, self.missed = 1.0, 0

    def move(self) -> Detection:
        self.place = self.place + self.speed
        return Detection(self.box(), self.roll)

    def see(self, detection: Detection, memory: int) -> None:
        error = _place(detection.box) - self.place
        self.place = self.place + _GAIN * error
        self.speed = self.speed + _SPEED_GAIN * error
        self.roll = detection.roll
        self.score = min(self.score + 1, memory) if detection.confident else self.score - 0.25
        self.missed = 0

    def miss(self) -> None:
        self.speed = _DRAG * self.speed
        self.score -= 1
        self.missed += 1

    def box(self) -> np.ndarray:
        sides = np.exp(self.place[2:])
        return np.concatenate([self.place[:2] - sides / 2, sides])


def _place(box: np.ndarray) -> np.ndarray:
    return np.concatenate([box[:2] + box[2:] / 2, np.log(box[2:])])


class Tracker:
    """Numbers faces, by how far each overlaps with where a steady motion would have brought it.

    Each face has a score. It begins with 1, goes up by 1 in a frame with a confident detection of the face, and down by
    a quarter with one that is not confident, or by 1 with none; at 0 the face is forgotten.

    Args:
        confirm: the lowest score of a face that is shown, so that a false detection in a single frame never is.
        show_missed: for how many frames a face that is not seen is still shown, at its predicted position.
        memory: the highest score, and so for how many frames a face that was seen for long is remembered. If it is seen
            again by then it keeps its number.
        min_iou: the lowest intersection over union of a detection with a face's predicted box at which the detection is
            that face.

    Raises:
        FaceflaxError: an argument out of its range.

    Example:
        >>> tracker = Tracker(confirm=2)
        >>> for x in (10.0, 12.0):
        ...     _ = tracker.predict()
        ...     tracker.update([], [Detection(np.array([x, 10, 40, 40]))], height=99, width=99)
        >>> tracker.tracks()
        [Track(id=0, box=(11, 10, 40, 40), seen=True)]
    """

    def __init__(self, confirm: int = 2, show_missed: int = 3, memory: int = 15, min_iou: float = 0.3) -> None:
        if not 1 <= confirm <= memory:
            raise FaceflaxError("confirm", confirm, f"is not from 1 to memory, which is {memory}")
        if not 0 <= show_missed <= memory:
            raise FaceflaxError("show_missed", show_missed, f"is not from 0 to memory, which is {memory}")
        if not 0 < min_iou <= 1:
            raise FaceflaxError("min_iou", min_iou, "is not an overlap", "give a number above 0 and up to 1")
        self.confirm = confirm
        self.show_missed = show_missed
        self.memory = memory
        self.min_iou = min_iou
        self._faces: list[_State] = []
        self._size = 0, 0
        self._next = 0

    def reset(self) -> None:
        """Forgets all faces. Their numbers are not given again."""
        self._faces = []

    def predict(self) -> list[Detection]:
        """Advances all faces by one frame and returns their predicted positions."""
        return [face.move() for face in self._faces]

    def update(
        self, detections: Sequence[Detection], new: Sequence[Detection], height: int, width: int, cut: bool = False
    ) -> None:
        """Takes the detections in the frame that :meth:`predict` advanced to.

        Args:
            detections: those at predicted positions.
            new: those elsewhere; one that is none of the known faces becomes a new one.
            height: of the frame, in pixels.
            width: of the frame, in pixels.
            cut: a new scene begins with this frame; faces that are not in it are forgotten.
        """
        found = [*detections, *new]
        kept = non_max_suppression(boxes_of(found))
        overlap = iou(boxes_of([Detection(face.box()) for face in self._faces]), boxes_of(found)[kept])
        seen = {
            row: column
            for row, column in zip(*linear_sum_assignment(overlap, maximize=True), strict=True)
            if overlap[row, column] >= self.min_iou
        }
        for row, face in enumerate(self._faces):
            if row in seen:
                face.see(found[kept[seen[row]]], self.memory)
            else:
                face.miss()
        unknown = [i for column, i in enumerate(kept) if column not in seen.values() and i >= len(detections)]
        self._faces += [_State(self._next + number, found[i]) for number, i in enumerate(unknown)]
        self._next += len(unknown)
        self._faces = [face for face in self._faces if self._alive(face, height, width, cut)]
        self._size = height, width

    def _alive(self, face: _State, height: int, width: int, cut: bool) -> bool:
        x, y = face.place[:2]
        return bool(face.score > 0 and not (cut and face.missed) and 1 <= x <= width - 1 and 1 <= y <= height - 1)

    def tracks(self) -> list[Track]:
        """Returns the faces to show, the one known longest first."""
        shown = [f for f in self._faces if f.score >= self.confirm and f.missed <= self.show_missed]
        boxes = clip_to_frame(boxes_of([Detection(face.box()) for face in shown]), *self._size).tolist()
        return [Track(face.id, tuple(box), face.missed == 0) for face, box in zip(shown, boxes, strict=True)]
