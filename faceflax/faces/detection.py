"""Where the faces are.

A detector searches a whole frame, or follows faces: it looks closely where each should be, which is faster by far, and
tells faces from furniture better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float, Int32, UInt8

from faceflax.errors import FaceflaxError, unknown
from faceflax.faces.crop import crop_face, square_around
from faceflax.opencv import cv2, load_cascade


@dataclass(frozen=True, eq=False)
class Detection:
    """A face in a frame.

    Attributes:
        box: x, y, width, height in pixels of the frame; it may reach beyond it.
        roll: by how many degrees the head is tilted, clockwise as seen; 0 from a detector that does not tell.
        sure: it is a face by itself; otherwise a face that was seen here a frame ago may well be this.
    """

    box: Float[np.ndarray, " 4"]
    roll: float = 0.0
    sure: bool = True


class Detector(Protocol):
    """Anything that finds faces in a frame, uint8 ``[height, width, 3]`` BGR as OpenCV gives it.

    One thread at a time may use it.
    """

    def __call__(self, frame: UInt8[np.ndarray, "height width 3"]) -> Int32[np.ndarray, "faces 4"]:
        """Returns the boxes x, y, width, height of all faces in pixels, inside the frame, the surest first."""
        ...

    def follow(
        self, frame: UInt8[np.ndarray, "height width 3"], expected: Sequence[Detection]
    ) -> list[Detection | None]:
        """Looks closely where faces should be, and returns each one's detection or None.

        Args:
            frame: the frame to look at.
            expected: the faces of the frame before, moved to where they should be in this one.
        """
        ...


def boxes_of(detections: Sequence[Detection]) -> Float[np.ndarray, "boxes 4"]:
    """Returns the boxes of any number of detections."""
    return np.array([detection.box for detection in detections], np.float64).reshape(-1, 4)


def iou(
    boxes: Float[np.ndarray, "boxes 4"], others: Float[np.ndarray, "others 4"]
) -> Float[np.ndarray, "boxes others"]:
    """Intersection over union of each box with each other box, in [0, 1]; a box is x, y, width, height.

    Example:
        >>> iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 2, 2], [5, 5, 1, 1]]))
        array([[0.33333333, 0.        ]])
    """
    common = _intersection(boxes, others)
    areas, other_areas = boxes[:, 2:].prod(1), others[:, 2:].prod(1)
    return common / np.maximum(areas[:, None] + other_areas - common, np.finfo(float).tiny)


def _intersection(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum((boxes[:, :2] + boxes[:, 2:])[:, None], others[:, :2] + others[:, 2:])
    return np.maximum(high - low, 0).prod(-1)


def non_max_suppression(boxes: Float[np.ndarray, "boxes 4"]) -> list[int]:
    """Returns which boxes to keep so that none lies by more than half in another: of two, the earlier.

    Example:
        >>> non_max_suppression(np.array([[0.0, 0, 9, 9], [1, 1, 4, 4], [8, 0, 9, 9]]))
        [0, 2]
    """
    smaller = np.minimum(boxes[:, None, 2:].prod(-1), boxes[:, 2:].prod(-1))
    same = _intersection(boxes, boxes) > 0.5 * smaller
    kept: list[int] = []
    for index in range(len(boxes)):
        if not same[index, kept].any():
            kept.append(index)
    return kept


def clip_to_frame(boxes: Float[np.ndarray, "boxes 4"], height: int, width: int) -> Int32[np.ndarray, "boxes 4"]:
    """Rounds boxes to whole pixels and cuts off what lies beyond the frame.

    Example:
        >>> clip_to_frame(np.array([[-2.0, 3.4, 8, 8]]), height=10, width=20)
        array([[0, 3, 6, 7]], dtype=int32)
    """
    corners = np.rint(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1))
    corners = corners.clip(0, [width, height, width, height])
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).astype(np.int32)


@dataclass(frozen=True)
class _Group:
    """Overlapping hits of the cascade: their mean box, their number, and the most that its last stage says."""

    box: np.ndarray
    hits: int
    confidence: float


_FACE = 52
"""Side of a face in a close look, in pixels."""
_MARGIN = 0.3
"""How far a close look reaches beyond the face on each side, in shares of its side."""
_SIDE = round(_FACE * (1 + 2 * _MARGIN))
_SPAN = 1.3
"""By which factor faces in a close look may be larger or smaller than expected."""
_TILT = 20.0
_LARGEST_ROLL = 45.0
_SURE, _LIKELY = 8, 4
"""Hits in a close look that make a face, and that make a face where one was a frame ago. Of 53 places without a face
that the search of whole frames had proposed, none gave 8 and four gave 4 or more; of 256 with one, 237 gave 8."""
_CLOSE_RATIO = 1.015
"""By which factor a followed face's boxes are made larger, to be as large as the whole frame's, so that faces are cut
alike: then their medians' ratio is 0.96 to 1.02 in four films."""


class HaarDetector:
    """OpenCV's frontal-face Haar cascade on the equalised grey frame.

    The frame is searched with its border repeated outwards, so that a face which the border touches or cuts a little is
    found too. A close look cuts out the place, resizes it to a face of 52 pixels and searches faces of about that size,
    upright or, where that shows too little, with the head tilted. It uses another cascade, for a second opinion.

    Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features", CVPR 2001.

    Args:
        scale_factor: ratio of successive face sizes searched, above 1; nearer to 1 finds more and takes longer.
        min_neighbors: how many other hits overlap with one that is a face; more of them mean fewer false faces.
        min_confidence: how far above its threshold the cascade's last stage must be for the best of these hits.
        min_size: side of the smallest face to find, in pixels of the frame; the networks see little in a smaller
            one, and the small ones take most of the time.
        max_side: a frame whose longer side has more pixels is reduced to this before the search; ``None``
            never reduces.
        equalization: of the whole picture's ``histogram``, or ``clahe``: by tiles, with limited contrast (Zuiderveld,
            1994), for faces lit from one side.

    Raises:
        FaceflaxError: an argument out of its range, or an OpenCV without the cascade.

    Example:
        >>> from faceflax.media.demo import photograph
        >>> HaarDetector()(photograph()).shape
        (1, 4)
    """

    def __init__(
        self,
        scale_factor: float = 1.1,
        min_neighbors: int = 5,
        min_confidence: float = 0.5,
        min_size: int = 48,
        max_side: int | None = 640,
        equalization: Literal["histogram", "clahe"] = "histogram",
    ) -> None:
        if not scale_factor > 1:
            raise FaceflaxError(f"scale_factor: {scale_factor} is not above 1; 1.1 is usual")
        if min_neighbors < 0:
            raise FaceflaxError(f"min_neighbors: {min_neighbors} is not a number of hits; give 0 or more")
        if np.isnan(min_confidence):
            raise FaceflaxError(f"min_confidence: {min_confidence} is not a number; 0.5 is usual")
        if min_size < 1:
            raise FaceflaxError(f"min_size: {min_size} is not a number of pixels; give 1 or more")
        if max_side is not None and max_side < 1:
            raise FaceflaxError(f"max_side: {max_side} is not a number of pixels; give 1 or more, or None")
        if equalization not in ("histogram", "clahe"):
            raise unknown("equalization", equalization, ("histogram", "clahe"))
        self.scale_factor = scale_factor
        self.min_neighbors = min_neighbors
        self.min_confidence = min_confidence
        self.min_size = min_size
        self.max_side = max_side
        self._equalize = cv2.equalizeHist if equalization == "histogram" else cv2.createCLAHE(2.0, (8, 8)).apply
        self._cascade = load_cascade("haarcascade_frontalface_default")
        self._close_cascade = load_cascade("haarcascade_frontalface_alt2")

    def __call__(self, frame: UInt8[np.ndarray, "height width 3"]) -> Int32[np.ndarray, "faces 4"]:
        """Returns boxes x, y, width, height in pixels, inside the frame, the one with the most hits first."""
        height, width = frame.shape[:2]
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        scale = min(1.0, (self.max_side or np.inf) / max(height, width))
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        grey = self._equalize(grey)
        # An eighth of the shorter side: faces cut by 15% of their width are found again; more costs time, finds little.
        pad = min(grey.shape) // 8
        grey = cv2.copyMakeBorder(grey, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        groups = _groups(self._cascade, grey, self.scale_factor, max(1, round(self.min_size * scale)))
        boxes = [
            (group.box - [pad, pad, 0, 0]) / scale
            for group in groups
            if group.hits > self.min_neighbors and group.confidence >= self.min_confidence
        ]
        return clip_to_frame(np.array(boxes).reshape(-1, 4), height, width)

    def follow(
        self, frame: UInt8[np.ndarray, "height width 3"], expected: Sequence[Detection]
    ) -> list[Detection | None]:
        """Looks closely where faces should be, and returns each one's detection or None."""
        if not expected:
            return []
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        return [self._look(grey, face) for face in expected]

    def _look(self, grey: np.ndarray, face: Detection) -> Detection | None:
        detection, hits = self._look_tilted(grey, face.box, face.roll)
        if hits < _SURE:
            tilts = [roll for roll in (face.roll - _TILT, face.roll + _TILT) if abs(roll) <= _LARGEST_ROLL]
            others = [self._look_tilted(grey, face.box, roll) for roll in tilts]
            detection, hits = max([(detection, hits), *others], key=lambda look: look[1])
        return detection if hits >= _LIKELY else None

    def _look_tilted(self, grey: np.ndarray, box: np.ndarray, roll: float) -> tuple[Detection | None, int]:
        """A face near ``box`` with the head tilted by ``roll``, and its number of hits."""
        place = np.rint(box).astype(int)
        place[2:] = place[2:].clip(1)
        left, top, side = square_around(place, _MARGIN)
        picture = crop_face(grey, place, _MARGIN, _SIDE)
        turn = cv2.getRotationMatrix2D(((_SIDE - 1) / 2, (_SIDE - 1) / 2), roll, 1)
        if roll:
            picture = cv2.warpAffine(picture, turn, (_SIDE, _SIDE), borderMode=cv2.BORDER_REPLICATE)
        middle = np.array([[_SIDE - _FACE, _SIDE - _FACE, 2 * _FACE, 2 * _FACE]]) / 2
        sizes = round(_FACE / _SPAN), round(_FACE * _SPAN)
        for group in _groups(self._close_cascade, self._equalize(picture), 1.1, *sizes):
            if iou(middle, group.box[None])[0, 0] > 0.3:
                offset = turn[:, :2].T @ (group.box[:2] + group.box[2:] / 2 - _SIDE / 2)
                scale = side / _SIDE
                center = [left, top] + (offset + _SIDE / 2) * scale
                sides = group.box[2:] * scale * _CLOSE_RATIO
                detection = Detection(np.concatenate([center - sides / 2, sides]), roll, group.hits >= _SURE)
                return detection, group.hits
        return None, 0


def _groups(
    cascade: cv2.CascadeClassifier, grey: np.ndarray, step: float, smallest: int, largest: int = 0
) -> list[_Group]:
    """Overlapping hits taken together, those with the most first, none inside another; 0 is no limit."""
    found, _, confidences = cascade.detectMultiScale3(
        grey, step, 0, minSize=(smallest, smallest), maxSize=(largest, largest), outputRejectLevels=True
    )
    if len(found) == 0:  # OpenCV's answer is then an empty tuple
        return []
    hits = np.asarray(found, np.float64)
    corners = np.concatenate([hits[:, :2], hits[:, :2] + hits[:, 2:]], axis=1)
    distances = np.abs(corners[:, None] - corners).max(-1)
    near = distances <= 0.2 * np.minimum(hits[:, None, 2], hits[:, 2])  # as cv2.groupRectangles has it
    labels = np.arange(len(hits))
    while (lower := np.where(near, labels, len(hits)).min(1)).tobytes() != labels.tobytes():
        labels = lower  # of all that are near, and so of a whole group in the end
    members = [labels == label for label in np.unique(labels)]
    groups = [_Group(hits[m].mean(0), int(m.sum()), float(np.max(np.ravel(confidences)[m]))) for m in members]
    groups.sort(key=lambda group: -group.hits)
    return [groups[i] for i in non_max_suppression(np.array([group.box for group in groups]))]
