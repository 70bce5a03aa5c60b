"""What a detector is, and the arithmetic of its boxes.

A detector searches a whole frame, or follows faces: it looks closely where each should be, which is much faster and
gives fewer false faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from faceflax.faces.frame import Image

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float, Int32


@dataclass(frozen=True, eq=False)
class Detection:
    """A face in a frame.

    Attributes:
        box: x, y, width, height in pixels of the frame; it may reach beyond it.
        roll: by how many degrees the head is tilted, clockwise as seen; 0 from a detector that does not measure it.
        confident: it is a face by itself; otherwise only if a face was seen here a frame ago.
    """

    box: Float[np.ndarray, " 4"]
    roll: float = 0.0
    confident: bool = True


class Detector(Protocol):
    """Anything that finds faces in a frame, uint8 ``[height, width, 3]`` BGR as OpenCV gives it.

    The analyzers hand it a :class:`~faceflax.faces.frame.Frame`, which is such an array and has its grey image ready.
    For single images a plain callable is enough. One thread at a time may use it.
    """

    def __call__(self, frame: Image) -> Int32[np.ndarray, "faces 4"]:
        """Returns the boxes x, y, width, height of all faces in pixels, inside the frame, best first."""
        ...

    def follow(self, frame: Image, expected: Sequence[Detection]) -> list[Detection | None]:
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
