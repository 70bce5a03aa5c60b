"""Which face of a frame is which face of the frames before.

Bewley et al., "Simple Online and Realtime Tracking", ICIP 2016, with an alpha-beta filter for each face; detections
with a low score come second, as in Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box",
ECCV 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from faceflax.errors import FaceflaxError
from faceflax.faces.crop import crop_face
from faceflax.faces.detection import Detection, boxes_of, clip_to_frame, iou, non_max_suppression

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float32, UInt8

_GAIN = np.array([0.5, 0.5, 0.2, 0.2])
"""What share of the difference between a detection and the predicted centre and log-size is applied: a head moves
faster than it changes its size, and Haar's sizes are noisier than its positions."""
_SPEED_GAIN = _GAIN**2 / (2 - _GAIN)
"""Benedict and Bordner, "Synthesis of an Optimal Set of Radar Track-While-Scan Smoothing Equations", 1962."""
_DRAG = 0.8
"""Share of a face's speed that is kept after a frame in which it was not seen."""

_LOOK = 8
"""Side of the crops by which faces are told apart, in pixels."""
_ALIKE, _ALIKE_AFTER_CUT = 0.5, 0.85
"""Least correlation of looks in successive frames of one face, and where a cut makes another likely. In four videos it
was 0.78 and more, 0.90 in 95 of 100 frames; of 245 people 95 of 100 pairs have less than 0.72, three quarters 0.45."""
_SURE = 0.5
"""How far from the least score to 1 the score of a face lies that is shown at once."""
_LANDMARK_GAIN = 0.35
"""What share of the difference between landmarks found and expected, in the box, is applied: they jitter, and with them
would the crops' tilt and size."""


@dataclass(frozen=True, eq=False)
class Track:
    """A face that is followed, as it is in one frame.

    Attributes:
        id: its number, which no other face has or had.
        box: x, y, width, height in pixels, inside the frame, smoothed over time.
        seen: it was found in this frame; otherwise the box is a prediction.
        score: of the detection in this frame, or in the last frame with one.
        landmarks: as in :class:`~faceflax.faces.Detection`, smoothed like the box.
    """

    id: int
    box: tuple[int, int, int, int]
    seen: bool
    score: float = 1.0
    landmarks: Float32[np.ndarray, "5 2"] | None = None


class _State:
    """What is known of a face: its position, speed, last detection and look, and how well it is known."""

    def __init__(self, number: int, detection: Detection, look: np.ndarray | None, life: float) -> None:
        self.id = number
        self.place = _place(detection.box)
        self.speed = np.zeros(4)
        self.last, self.look = detection, look
        self.points = _in_box(detection)
        self.life, self.missed = life, 0

    def move(self) -> Detection:
        self.place = self.place + self.speed
        return Detection(self.box(), self.last.score, self.landmarks(), self.last.tilt)

    def see(self, detection: Detection, look: np.ndarray | None, change: float, memory: int) -> None:
        error = _place(detection.box) - self.place
        self.place = self.place + _GAIN * error
        self.speed = self.speed + _SPEED_GAIN * error
        self.last, self.look = detection, look
        points = _in_box(detection)
        if points is not None and self.points is not None:
            points = self.points + _LANDMARK_GAIN * (points - self.points)
        self.points = points
        self.life = min(self.life + change, memory)
        self.missed = 0

    def miss(self) -> None:
        self.speed = _DRAG * self.speed
        self.life -= 1
        self.missed += 1

    def box(self) -> np.ndarray:
        sides = np.exp(self.place[2:])
        return np.concatenate([self.place[:2] - sides / 2, sides])

    def landmarks(self) -> np.ndarray | None:
        box = self.box()
        return None if self.points is None else (self.points * box[2:] + box[:2]).astype(np.float32)


def _in_box(face: Detection) -> np.ndarray | None:
    """Landmarks as shares of the box."""
    return None if face.landmarks is None else (face.landmarks - face.box[:2]) / face.box[2:]


def _place(box: np.ndarray) -> np.ndarray:
    return np.concatenate([box[:2] + box[2:] / 2, np.log(box[2:])])


def look_of(grey: UInt8[np.ndarray, "height width"], face: Detection) -> Float32[np.ndarray, "look"]:
    """Returns what a face looks like: a small crop without its brightness and contrast.

    The product of two looks is their correlation; that of an even surface, 0, says nothing.

    Args:
        grey: the face's frame.
        face: where it is.
    """
    x, y, width, height = np.rint(face.box).astype(int)
    crop = crop_face(grey, (x, y, max(1, width), max(1, height)), 0.0, _LOOK, face.landmarks)
    values = crop.ravel() - crop.mean(dtype=np.float32)
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-6), np.float32)


class Tracker:
    """Numbers faces, by how far each overlaps with where a steady motion would have brought it.

    Faces are given the detections with a sufficient score first, and those left over the ones with a low score. How
    well a face is known is counted: from 1, up by 1 in a frame with a sufficient detection, down by a quarter with a
    low one, or by 1 with none; at 0 the face is forgotten. Another face at the same place, as after a cut, is told by
    its look and gets a number of its own.

    Args:
        confirm: the lowest count of a face that is shown, so that a false detection in a single frame is not; one whose
            score is halfway to 1 or more begins with one more, and so is shown at once, in a video's first frame too.
        show_missed: for how many frames a face that is not seen is still shown, at its predicted position.
        memory: the highest count, and so for how many frames a face that was seen for long is remembered. If it is seen
            again by then it keeps its number.
        min_iou: the lowest intersection over union of a detection with a face's predicted box at which the detection is
            that face.

    Raises:
        FaceflaxError: an argument out of its range.

    Example:
        >>> tracker = Tracker(confirm=2)
        >>> for x in (10.0, 12.0):
        ...     _ = tracker.predict()
        ...     tracker.update([], [Detection(np.array([x, 10, 40, 40]), 0.6)], height=99, width=99)
        ...     len(tracker.tracks())
        0
        1
        >>> tracker.tracks()[0].box
        (11, 10, 40, 40)
    """

    def __init__(
        self,
        confirm: int = 2,
        show_missed: int = 3,
        memory: int = 15,
        min_iou: float = 0.3,
    ) -> None:
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
        self,
        detections: Sequence[Detection],
        new: Sequence[Detection],
        height: int,
        width: int,
        cut: bool = False,
        *,
        min_score: float = 0.5,
        grey: UInt8[np.ndarray, "height width"] | None = None,
    ) -> None:
        """Takes the detections in the frame that :meth:`predict` advanced to.

        Args:
            detections: those at predicted positions.
            new: those elsewhere; one that is none of the known faces becomes a new one.
            height: of the frame, in pixels.
            width: of the frame, in pixels.
            cut: a new scene begins with this frame; faces that are not in it are forgotten.
            min_score: the score from which a detection is sufficient.
            grey: the frame, which tells another face at the same place; without it one is not told.
        """
        found = [*detections, *new]
        boxes = boxes_of(found)
        looks = [None if grey is None else look_of(grey, face) for face in found]
        overlap = iou(boxes_of([Detection(face.box()) for face in self._faces]), boxes)
        near = overlap >= self.min_iou
        others = np.array([[not _alike(face.look, look, cut) for look in looks] for face in self._faces], bool)
        others = others.reshape(near.shape) & near
        kept = non_max_suppression(boxes)
        sufficient = [i for i in kept if found[i].score >= min_score]
        seen: dict[int, int] = {}
        for candidates in (sufficient, [i for i in kept if i not in sufficient]):
            rows = [row for row in range(len(self._faces)) if row not in seen]
            allowed = (overlap * (near & ~others))[np.ix_(rows, candidates)]
            for row, column in zip(*linear_sum_assignment(allowed, maximize=True), strict=True):
                if allowed[row, column] > 0:
                    seen[rows[row]] = candidates[column]
        for row, face in enumerate(self._faces):
            if row in seen:
                i = seen[row]
                face.see(found[i], looks[i], 1.0 if found[i].score >= min_score else -0.25, self.memory)
            else:
                face.miss()
        taken = set(seen.values())
        replaced: set[int] = set()
        for i in sufficient:
            if i in taken or not (i >= len(detections) or others[:, i].any()):
                continue
            replaced.update(row for row in range(len(others)) if others[row, i] and row not in seen)
            sure = found[i].score >= min_score + _SURE * (1 - min_score)
            life = min(self.confirm + 1, self.memory) if sure else 1
            self._faces.append(_State(self._next, found[i], looks[i], life))
            self._next += 1
        self._faces = [
            face
            for row, face in enumerate(self._faces)
            if row not in replaced and self._alive(face, height, width, cut)
        ]
        self._size = height, width

    def _alive(self, face: _State, height: int, width: int, cut: bool) -> bool:
        x, y = face.place[:2]
        return bool(face.life > 0 and not (cut and face.missed) and 1 <= x <= width - 1 and 1 <= y <= height - 1)

    def tracks(self) -> list[Track]:
        """Returns the faces to show, the one known longest first."""
        shown = [f for f in self._faces if f.life >= self.confirm and f.missed <= self.show_missed]
        boxes = clip_to_frame(boxes_of([Detection(face.box()) for face in shown]), *self._size).tolist()
        return [
            Track(face.id, tuple(box), face.missed == 0, face.last.score, face.landmarks())
            for face, box in zip(shown, boxes, strict=True)
        ]


def _alike(look: np.ndarray | None, other: np.ndarray | None, cut: bool) -> bool:
    """Whether two looks may be of one face, seen in successive frames."""
    if look is None or other is None or not look.any() or not other.any():
        return True
    return float(look @ other) >= (_ALIKE_AFTER_CUT if cut else _ALIKE)
