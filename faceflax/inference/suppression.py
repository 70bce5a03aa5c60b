"""Non-maximum suppression: of boxes of one face, the one with the highest score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float, Int


def suppressed(
    boxes: Float[np.ndarray, "boxes 4"], scores: Float[np.ndarray, " boxes"], max_overlap: float = 0.4
) -> Int[np.ndarray, " kept"]:
    """Returns which boxes (x, y, width, height) to keep, those of the highest scores first.

    A box goes whose intersection over union with one that is kept is above ``max_overlap``.

    Example:
        >>> boxes = np.array([[0.0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 10, 10]])
        >>> suppressed(boxes, np.array([0.5, 0.9, 0.7])).tolist()
        [1, 2]
    """
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order].astype(np.float64)
    areas = boxes[:, 2:].prod(1)
    alive = np.ones(len(order), bool)
    kept = []
    for i in range(len(order)):
        if not alive[i]:
            continue
        kept.append(i)
        low = np.maximum(boxes[i, :2], boxes[i + 1 :, :2])
        high = np.minimum(boxes[i, :2] + boxes[i, 2:], boxes[i + 1 :, :2] + boxes[i + 1 :, 2:])
        common = np.maximum(high - low, 0).prod(1)
        alive[i + 1 :] &= common <= max_overlap * (areas[i] + areas[i + 1 :] - common)
    return order[np.array(kept, int)]
