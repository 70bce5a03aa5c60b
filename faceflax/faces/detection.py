"""What a detector is, and the arithmetic of its boxes.

A detector searches a whole frame; some also follow faces: they look closely where each should be, which is much faster
and gives fewer false faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np

from faceflax.errors import FaceflaxError
from faceflax.faces.frame import Image
from faceflax.faces.square import roll_of

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float, Float32, Int, Int32


@dataclass(frozen=True, eq=False)
class Detection:
    """A face in a frame.

    Attributes:
        box: x, y, width, height in pixels of the frame; it may reach beyond it.
        score: how sure the detector is, in [0, 1]; what a value means differs from detector to detector.
        landmarks: x, y in pixels of the eyes, the nose and the corners of the mouth, float32 ``[5, 2]``, the left one
            of two first as the image shows them; or None from a detector that does not find them. With landmarks the
            box is tight, from the forehead to the chin; without them it is one like Haar's.
        tilt: the head's tilt where there are no landmarks to tell it: degrees, clockwise as seen.

    Example:
        >>> tilted = np.float32([[30, 40], [70, 60], [40, 70], [15, 75], [45, 90]])
        >>> round(Detection(np.array([10.0, 10, 80, 100]), 0.9, tilted).roll)
        29
    """

    box: Float[np.ndarray, " 4"]
    score: float = 1.0
    landmarks: Float32[np.ndarray, "5 2"] | None = None
    tilt: float = 0.0

    @property
    def roll(self) -> float:
        """By how many degrees the head is tilted, clockwise as seen; 0 from a detector that does not measure it."""
        return self.tilt if self.landmarks is None else roll_of(self.landmarks)


Detections: TypeAlias = "Sequence[Detection] | Int[np.ndarray, 'faces 4']"
"""What a detector gives: detections, or only boxes x, y, width, height in whole pixels."""


class Detector(Protocol):
    """Anything that finds faces in a frame, uint8 ``[height, width, 3]`` BGR as OpenCV gives it.

    A plain function is one. The analyzers hand it a :class:`~faceflax.faces.frame.Frame`, which is such an array and
    has its grey image ready. The detectors of this library may be used by any number of threads at once.
    """

    def __call__(self, frame: Image) -> Detections:
        """Returns all faces, best first: detections, or integer boxes ``[faces, 4]``, which count as certain."""
        ...


@runtime_checkable
class FollowingDetector(Protocol):
    """A detector that also finds known faces again, which makes video fast.

    Attributes:
        min_score: the score from which a detection is a face by itself; a lower one only where a face was a frame ago.
    """

    min_score: float

    def __call__(self, frame: Image) -> Detections:
        """Returns all faces, best first."""
        ...

    def follow(self, frame: Image, expected: Sequence[Detection]) -> list[Detection | None]:
        """Looks closely where faces should be, and returns each one's detection, be its score low, or None.

        Args:
            frame: the frame to look at.
            expected: the faces of the frame before, moved to where they should be in this one.
        """
        ...


@runtime_checkable
class ProposingDetector(FollowingDetector, Protocol):
    """A detector whose search is cheaper where it need not be sure, as a close look follows."""

    def propose(self, frame: Image, known: Sequence[Detection]) -> list[Detection]:
        """Returns what may be faces, other than the known ones; a close look at each decides."""
        ...


def search(detector: Detector, frame: Image) -> list[Detection]:
    """Returns the faces that a detector of any kind finds in a frame.

    Raises:
        FaceflaxError: it returned neither detections nor integer boxes ``[faces, 4]``.

    Example:
        >>> [face.score for face in search(lambda frame: np.array([[1, 2, 30, 40]]), np.zeros((9, 9, 3), np.uint8))]
        [1.0]
    """
    return as_detections(detector(frame), "detector", "returned {}")


def as_detections(found: object, field: str = "boxes", problem: str = "{} is") -> list[Detection]:
    """Returns detections as they are, and makes detections of integer boxes.

    Args:
        found: what a detector gives.
        field: what the caller names it by, for the error.
        problem: the beginning of what is said of it.

    Raises:
        FaceflaxError: it is something else.
    """
    if isinstance(found, list | tuple) and all(isinstance(face, Detection) for face in found):
        return list(found)
    if isinstance(found, np.ndarray | list | tuple):
        try:
            boxes = np.asarray(found)
        except ValueError:  # rows of different lengths
            boxes = np.empty(0, object)
        if boxes.ndim == 2 and boxes.shape[1] == 4 and (boxes.dtype.kind in "iu" or len(boxes) == 0):
            return [Detection(box.astype(np.float64)) for box in boxes]
        shown = f"{boxes.dtype} {boxes.shape}" if isinstance(found, np.ndarray) else type(found).__name__
    else:
        shown = type(found).__name__
    raise FaceflaxError(
        field,
        None,
        f"{problem.format(shown)}, which is neither detections nor integer boxes [faces, 4]",
        "return a list of faceflax.faces.Detection, or x, y, width, height of each face in pixels as integers",
    )


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


def covered(
    boxes: Float[np.ndarray, "boxes 4"], others: Float[np.ndarray, "others 4"]
) -> Float[np.ndarray, "boxes others"]:
    """Which share of each box lies in each other box.

    Example:
        >>> covered(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 8, 8]]))
        array([[0.5]])
    """
    return _intersection(boxes, others) / np.maximum(boxes[:, None, 2:].prod(-1), np.finfo(float).tiny)


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
