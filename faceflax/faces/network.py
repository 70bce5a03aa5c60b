"""Faces by the network that this library ships."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment

from faceflax.errors import FaceflaxError
from faceflax.faces.detection import Detection, boxes_of, clip_to_frame, covered, iou
from faceflax.faces.frame import Image, as_frame
from faceflax.faces.spares import Process
from faceflax.faces.tiles import Tile, tiles
from faceflax.native import Region
from faceflax.opencv import cv2

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float32, UInt8

WEIGHTS = "face_detector-faces"
"""The shipped weights."""

_SMALLEST = 20.0
"""Height of the smallest face that the network finds well, in pixels of its input."""
_MOST_DETAIL = 4.0
"""More shows nothing more."""
_LEAST_SIZE = 6
"""Enlarging a smaller face shows nothing that is not there."""
_CLOSE, _CLOSE_FACE = 128, 64
"""Side of the input of a close look, and of the face in it."""
_LIKELY = 0.4
"""Share of the score asked of a face that is enough where a face was a frame ago."""
_OVERLAP = 0.4
"""Two faces of different tiles with a larger intersection over union are one."""
_PART, _AS_CERTAIN = 1.5, 0.75
"""How many times higher a face is than one seen in a part of it, and the least ratio of their scores."""
_SAME = 0.3
"""Least intersection over union of a face with where it should be."""
_FINER = 1.2
"""How many times finer the mirrored search is: the two go wrong in different places then."""
_DETAILED_SIDE = 1920
"""Pixels of the longer side up to which a frame is enlarged for a finer search: larger ones are sharp enough."""
_LEAST_SEEN = 0.02
"""A face with a lower score in one search counts as unseen in it."""
_MIRRORED_POINTS = [1, 0, 2, 4, 3]
"""Which landmark of a mirrored face is which of the face: what was left is right."""


class Searcher(Protocol):
    """A network that finds the faces in parts of an image: what ``faceflax.inference.load_detector`` returns."""

    def detect(
        self, image: UInt8[np.ndarray, "height width 3"], regions: Sequence[Region], *, min_score: float
    ) -> Float32[np.ndarray, "faces 16"]:
        """Returns x, y, width, height, score, five landmarks (x, y) and the number of its region for each face."""
        ...


class NetworkDetector:
    """The face detector of this library, a network with landmarks (:mod:`faceflax.models.face_detector`).

    A frame is searched at a scale at which a face of ``min_size`` is 20 pixels high, whatever the frame's shape: a
    large or long one in overlapping tiles, and again more coarsely for the larger faces. A close look shows the network
    a part of the frame in which the face is 64 pixels high; all of a frame's close looks are one call.

    With ``mirrored`` a frame is searched twice, as it is and mirrored and somewhat finer, and what the two find of a
    face is averaged; a search that does not find it counts as a score of 0. Of the false faces few are found twice.

    Boxes are tight, from the forehead to the chin and from ear to ear, about 0.79 times as wide as high.

    Args:
        weights: one of ``faceflax.list_weights()``, the path of a ``.safetensors`` file, or a network that is loaded
            (:class:`Searcher`).
        min_score: the least score of a face, in (0, 1]; a higher one gives fewer false faces and misses blurred ones.
        min_size: height of the smallest face to find, in pixels of the frame; smaller ones are left out.
        detail: how many times finer than that the frame is searched, at its square's cost: small faces are then found
            more often. A frame is not enlarged beyond 1920 pixels for it.
        mirrored: search twice; for single images, at some 2.5 times the cost.
        max_side: a frame whose longer side has more pixels is reduced to this before the search, and the smallest face
            grows as much; ``None`` never reduces.

    Raises:
        FaceflaxError: an argument out of its range, or weights that cannot be loaded.
    """

    def __init__(
        self,
        weights: str | Path | Searcher = WEIGHTS,
        min_score: float = 0.6,
        min_size: int = 20,
        max_side: int | None = None,
        detail: float = 1.0,
        mirrored: bool = False,
    ) -> None:
        if not 0 < min_score <= 1:
            raise FaceflaxError("min_score", min_score, "is not a score", "give a number above 0 and up to 1")
        if not min_size >= _LEAST_SIZE:
            problem = "is not a size of face that the network can see"
            raise FaceflaxError("min_size", min_size, problem, f"give {_LEAST_SIZE} pixels or more")
        if max_side is not None and max_side < 1:
            raise FaceflaxError("max_side", max_side, "is not a number of pixels", "give 1 or more, or None")
        if not 0 < detail <= _MOST_DETAIL:
            raise FaceflaxError(
                "detail", detail, "is not a factor", f"give a number above 0 and up to {_MOST_DETAIL:g}"
            )
        if isinstance(weights, str | Path):
            from faceflax.inference import load_detector

            self._network: Searcher = load_detector(weights)
        else:
            self._network = weights
        self.min_score = min_score
        self.min_size = min_size
        self.max_side = max_side
        self.detail = detail
        self.mirrored = mirrored
        self._process = Process("this NetworkDetector")

    def __call__(self, frame: Image) -> list[Detection]:
        """Returns the faces, the one with the highest score first; boxes are whole pixels inside the frame.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.

        Raises:
            FaceflaxError: ``frame`` is not such an array.
        """
        self._process.check()
        image = as_frame(frame).image
        if not self.mirrored:
            return [_detection(row) for row in self._search(image, self.detail, self.min_score)]
        # A mean that is sufficient needs this much from both, or from one that is alone twice as much.
        least = min(self.min_score, max(2 * self.min_score - 1, _LEAST_SEEN))
        rows = self._search(image, self.detail, least)
        others = self._search(cv2.flip(image, 1), self.detail * _FINER, least)
        rows = _mean(rows, _mirrored(others, image.shape[1]))
        rows = rows[rows[:, 4] >= self.min_score]
        rows[:, :4] = clip_to_frame(rows[:, :4], *image.shape[:2])
        return [_detection(row) for row in _once(rows[np.argsort(-rows[:, 4], kind="stable")])]

    def _search(self, image: Image, detail: float, min_score: float) -> Float32[np.ndarray, "faces 15"]:
        height, width = image.shape[:2]
        longer, scale = max(height, width), _SMALLEST / self.min_size
        if detail > 1:
            detail = max(1.0, min(detail, _DETAILED_SIDE / (longer * scale)))
        scale = min(detail * scale, (self.max_side or np.inf) / longer)
        parts = []
        for group in tiles(height, width, scale):
            rows = self._network.detect(image, [tile.region for tile in group], min_score=min_score)
            parts.append(rows[_whole(rows, group)])
        rows = np.concatenate(parts)[:, :15]
        rows[:, :4] = clip_to_frame(rows[:, :4], height, width)
        rows = rows[(rows[:, 2:4].min(1) > 0) & (rows[:, 2:4].max(1) >= self.min_size)]
        if len(parts) > 1:
            rows = _once(rows[np.argsort(-rows[:, 4], kind="stable")])
        return rows

    def follow(self, frame: Image, expected: Sequence[Detection]) -> list[Detection | None]:
        """Looks closely where faces should be, and returns each one's detection or None.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.
            expected: where faces should be.

        Raises:
            FaceflaxError: ``frame`` is not such an array.
        """
        self._process.check()
        image = as_frame(frame)
        if not expected:
            return []
        regions = [_close(face.box) for face in expected]
        found = [_detection(row) for row in self._network.detect(image, regions, min_score=_LIKELY * self.min_score)]
        overlap = iou(boxes_of(expected), boxes_of(found))
        overlap[overlap < _SAME] = 0
        seen: list[Detection | None] = [None] * len(expected)
        for row, column in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
            if overlap[row, column] > 0:
                seen[row] = found[column]
        return seen


def _whole(rows: np.ndarray, group: Sequence[Tile]) -> np.ndarray:
    """Which faces are of their tile's sizes and not cut by its edge, beyond which the frame goes on."""
    if not len(rows):
        return np.zeros(0, bool)
    edges = np.array([tile[1:] for tile in group])[rows[:, 15].astype(int)]
    low, high = rows[:, :2], rows[:, :2] + rows[:, 2:4]
    inside = ((low >= edges[:, :2]) & (high <= edges[:, 2:4])).all(1)
    return inside & (edges[:, 4] <= rows[:, 3]) & (rows[:, 3] <= edges[:, 5])


def _once(rows: np.ndarray) -> np.ndarray:
    """Each face once, though neighbouring tiles and several scales show it; the best first.

    The tiles of a fine scale show parts of a large face, in which a smaller one may seem to be: it is left out where
    the larger one is about as certain.
    """
    boxes = rows[:, :4].astype(np.float64)
    common = iou(boxes, boxes)
    kept: list[int] = []
    for index in range(len(rows)):
        if not (common[index, kept] > _OVERLAP).any():
            kept.append(index)
    rows, boxes = rows[kept], boxes[kept]
    larger = boxes[:, 3] > _PART * boxes[:, None, 3]
    certain = rows[:, 4] >= _AS_CERTAIN * rows[:, None, 4]
    return rows[~(larger & certain & (covered(boxes, boxes) > 0.5)).any(1)]


def _mirrored(rows: np.ndarray, width: int) -> np.ndarray:
    """What was found in the mirrored frame, where it is in the frame."""
    rows = rows.copy()
    rows[:, 0] = width - rows[:, 0] - rows[:, 2]
    points = rows[:, 5:].reshape(-1, 5, 2)[:, _MIRRORED_POINTS]
    points[:, :, 0] = width - points[:, :, 0]
    rows[:, 5:] = points.reshape(-1, 10)
    return rows


def _mean(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """What two searches found, once: mean scores, and places weighed by them."""
    overlap = iou(rows[:, :4].astype(np.float64), others[:, :4].astype(np.float64))
    overlap[overlap <= _OVERLAP] = 0
    pairs = np.stack(linear_sum_assignment(overlap, maximize=True), axis=1)
    first, second = pairs[overlap[tuple(pairs.T)] > 0].T
    one, other = rows[first], others[second]
    both = one[:, 4] + other[:, 4]
    share = (one[:, 4] / both)[:, None]
    common = share * one + (1 - share) * other
    common[:, 4] = both / 2
    alone = np.concatenate([np.delete(rows, first, axis=0), np.delete(others, second, axis=0)])
    alone[:, 4] /= 2
    return np.concatenate([common, alone])


def _close(box: np.ndarray) -> Region:
    """The square around a face that a close look shows."""
    side = max(1.0, float(max(box[2:]))) * _CLOSE / _CLOSE_FACE
    x, y = box[:2] + box[2:] / 2 - side / 2
    return Region(float(x), float(y), side, side, _CLOSE, _CLOSE)


def _detection(row: np.ndarray) -> Detection:
    return Detection(row[:4].astype(np.float64), float(row[4]), row[5:15].reshape(5, 2).astype(np.float32))
