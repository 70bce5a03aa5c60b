"""Faces by OpenCV's Haar cascades."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from faceflax.errors import FaceflaxError, unknown
from faceflax.faces.crop import crop_face, square_around
from faceflax.faces.detection import Detection, boxes_of, clip_to_frame, iou, non_max_suppression
from faceflax.faces.frame import Frame, Image, as_frame
from faceflax.faces.spares import Process, Spares
from faceflax.opencv import cv2, load_cascade


@dataclass(frozen=True)
class _Group:
    """Overlapping hits of the cascade: their mean box, their number, and the highest confidence of its last stage."""

    box: np.ndarray
    hits: int
    confidence: float

    def score(self, half: int) -> float:
        """The number of hits as a score, which is 0.5 for ``half`` of them."""
        return self.hits / (self.hits + half)


@dataclass(frozen=True)
class _Tools:
    """What one thread at a time can use."""

    equalize: Callable[[np.ndarray], np.ndarray]
    cascade: cv2.CascadeClassifier
    close_cascade: cv2.CascadeClassifier


_FACE = 52
"""Side of a face in a close look, in pixels."""
_MARGIN = 0.3
"""How far a close look reaches beyond the face on each side, in shares of its side."""
_SIDE = round(_FACE * (1 + 2 * _MARGIN))
_SPAN = 1.3
"""By which factor faces in a close look may be larger or smaller than expected."""
_TILT = 20.0
_LARGEST_ROLL = 45.0
_HITS, _CLOSE_HITS = 6, 8
"""Hits whose score is 0.5, in the search of a whole frame and in a close look: as many as make a face by itself."""
_LIKELY = 4
"""Hits in a close look that make a face where one was a frame ago. Of 53 places without a
face that the search of whole frames had proposed, none gave 8 and four gave 4 or more; of 256 with one, 237 gave 8."""
_CLOSE_RATIO = 1.015
"""By which factor a followed face's boxes are enlarged, to match those of the search of the whole frame, so that faces
are cropped alike: with it the medians' ratio is 0.96 to 1.02 in four videos."""


class HaarDetector:
    """OpenCV's frontal-face Haar cascade on the equalised grey frame.

    The frame is searched with its border repeated outwards, so that a face which the border touches or cuts a little is
    found too. A close look cuts out the place, resizes it to a face of 52 pixels and searches faces of about that size,
    upright or, where that shows too little, with the head tilted. It uses another cascade, for a second opinion.

    The cascade has no score. What is given as one is ``n / (n + 6)`` for a face on which n hits of the cascade lie, and
    ``n / (n + 8)`` in a close look: 0.5 for the fewest that usually make a face, nearer to 1 the more there are.

    Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features", CVPR 2001.

    Args:
        scale_factor: ratio of successive face sizes searched, above 1; nearer to 1 finds more and takes longer.
        min_score: the least score of a face, in [0, 1); 0.5 is what OpenCV calls 5 neighbours.
        min_confidence: how far above its threshold the cascade's last stage must be for the best of these hits.
        min_size: side of the smallest face to find, in pixels of the frame; the networks see little in a smaller
            one, and the small ones take most of the time.
        max_side: a frame whose longer side has more pixels is reduced to this before the search; ``None``
            never reduces.
        equalization: of the whole frame's ``histogram``, or ``clahe``: by tiles, with limited contrast (Zuiderveld,
            1994), for faces lit from one side.

    Raises:
        FaceflaxError: an argument out of its range, or an OpenCV without the cascade.

    Example:
        >>> from faceflax.media.demo import photograph
        >>> [face.box.shape for face in HaarDetector()(photograph())]
        [(4,)]
    """

    def __init__(
        self,
        scale_factor: float = 1.1,
        min_score: float = 0.5,
        min_confidence: float = 0.5,
        min_size: int = 48,
        max_side: int | None = 640,
        equalization: Literal["histogram", "clahe"] = "histogram",
    ) -> None:
        if not scale_factor > 1:
            raise FaceflaxError("scale_factor", scale_factor, "is not above 1", "1.1 is usual")
        if not 0 <= min_score < 1:
            raise FaceflaxError("min_score", min_score, "is not a score", "give 0 or more, below 1")
        if np.isnan(min_confidence):
            raise FaceflaxError("min_confidence", min_confidence, "is not a number", "0.5 is usual")
        if min_size < 1:
            raise FaceflaxError("min_size", min_size, "is not a number of pixels", "give 1 or more")
        if max_side is not None and max_side < 1:
            raise FaceflaxError("max_side", max_side, "is not a number of pixels", "give 1 or more, or None")
        if equalization not in ("histogram", "clahe"):
            raise unknown("equalization", equalization, ("histogram", "clahe"))
        self.scale_factor = scale_factor
        self.min_score = min_score
        self.min_confidence = min_confidence
        self.min_size = min_size
        self.max_side = max_side
        self._equalization = equalization
        self._process = Process("this HaarDetector")
        self._tools = Spares(self._make_tools)

    def _make_tools(self) -> _Tools:
        clahe = cv2.createCLAHE(2.0, (8, 8)).apply
        return _Tools(
            cv2.equalizeHist if self._equalization == "histogram" else clahe,
            load_cascade("haarcascade_frontalface_default"),
            load_cascade("haarcascade_frontalface_alt2"),
        )

    def __call__(self, frame: Image) -> list[Detection]:
        """Returns the faces, the one with the most hits first; boxes are whole pixels inside the frame.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.

        Raises:
            FaceflaxError: ``frame`` is not such an array.
        """
        return self._search(as_frame(frame), self.min_score, self.min_confidence)

    def propose(self, frame: Image, known: Sequence[Detection]) -> list[Detection]:
        """Returns every place with a hit, other than the known faces, which are blackened for the search.

        So no time is spent on them: a quarter of a search, for one large face.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.
            known: faces of this frame.

        Raises:
            FaceflaxError: ``frame`` is not such an array.
        """
        frame = as_frame(frame)
        if known:
            frame = frame.masked(clip_to_frame(boxes_of(known), *frame.shape[:2]))
        return self._search(frame, 0.0, -np.inf)

    def _search(self, frame: Frame, min_score: float, min_confidence: float) -> list[Detection]:
        self._process.check()
        grey = frame.grey
        height, width = grey.shape
        scale = min(1.0, (self.max_side or np.inf) / max(height, width))
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        with self._tools.borrow() as tools:
            grey = tools.equalize(grey)
            # An eighth of the shorter side: faces cut by 15% of their width are found again; more costs time, finds
            # little.
            pad = min(grey.shape) // 8
            grey = cv2.copyMakeBorder(grey, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
            groups = _groups(tools.cascade, grey, self.scale_factor, max(1, round(self.min_size * scale)))
        kept = [g for g in groups if g.score(_HITS) >= min_score and g.confidence >= min_confidence]
        boxes = np.array([(group.box - [pad, pad, 0, 0]) / scale for group in kept]).reshape(-1, 4)
        whole = clip_to_frame(boxes, height, width).astype(np.float64)
        return [Detection(box, group.score(_HITS)) for box, group in zip(whole, kept, strict=True)]

    def follow(self, frame: Image, expected: Sequence[Detection]) -> list[Detection | None]:
        """Looks closely where faces should be, and returns each one's detection or None.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.
            expected: where faces should be, and how tilted.

        Raises:
            FaceflaxError: ``frame`` is not such an array.
        """
        self._process.check()
        grey = as_frame(frame).grey
        with self._tools.borrow() as tools:
            return [_look(tools, grey, face) for face in expected]


def _look(tools: _Tools, grey: np.ndarray, face: Detection) -> Detection | None:
    looks = [_look_tilted(tools, grey, face.box, face.roll)]
    if looks[0][1] < _CLOSE_HITS:
        tilts = [roll for roll in (face.roll - _TILT, face.roll + _TILT) if abs(roll) <= _LARGEST_ROLL]
        looks += [_look_tilted(tools, grey, face.box, roll) for roll in tilts]
    detection, hits = max(looks, key=lambda look: look[1])
    return detection if hits >= _LIKELY else None


def _look_tilted(tools: _Tools, grey: np.ndarray, box: np.ndarray, roll: float) -> tuple[Detection | None, int]:
    """A face near ``box`` with the head tilted by ``roll``, and its number of hits."""
    place = np.rint(box).astype(int)
    place[2:] = place[2:].clip(1)
    left, top, side = square_around(place, _MARGIN)
    crop = crop_face(grey, place, _MARGIN, _SIDE)
    turn = cv2.getRotationMatrix2D(((_SIDE - 1) / 2, (_SIDE - 1) / 2), roll, 1)
    if roll:
        crop = cv2.warpAffine(crop, turn, (_SIDE, _SIDE), borderMode=cv2.BORDER_REPLICATE)
    middle = np.array([[_SIDE - _FACE, _SIDE - _FACE, 2 * _FACE, 2 * _FACE]]) / 2
    sizes = round(_FACE / _SPAN), round(_FACE * _SPAN)
    for group in _groups(tools.close_cascade, tools.equalize(crop), 1.1, *sizes):
        if iou(middle, group.box[None])[0, 0] > 0.3:
            offset = turn[:, :2].T @ (group.box[:2] + group.box[2:] / 2 - _SIDE / 2)
            scale = side / _SIDE
            center = [left, top] + (offset + _SIDE / 2) * scale
            sides = group.box[2:] * scale * _CLOSE_RATIO
            found = np.concatenate([center - sides / 2, sides])
            return Detection(found, group.score(_CLOSE_HITS), tilt=roll), group.hits
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
    order = np.lexsort(hits[:, :3].T)  # OpenCV's own on one thread; several gather hits as they come
    hits, sure = hits[order], np.ravel(confidences)[order]
    corners = np.concatenate([hits[:, :2], hits[:, :2] + hits[:, 2:]], axis=1)
    distances = np.abs(corners[:, None] - corners).max(-1)
    near = distances <= 0.2 * np.minimum(hits[:, None, 2], hits[:, 2])  # as cv2.groupRectangles has it
    labels = np.arange(len(hits))
    while (lower := np.where(near, labels, len(hits)).min(1)).tobytes() != labels.tobytes():
        labels = lower  # of all that are near, and so of a whole group in the end
    members = [labels == label for label in np.unique(labels)]
    groups = [_Group(hits[m].mean(0), int(m.sum()), float(np.max(sure[m]))) for m in members]
    groups.sort(key=lambda group: -group.hits)
    return [groups[i] for i in non_max_suppression(np.array([group.box for group in groups]))]
