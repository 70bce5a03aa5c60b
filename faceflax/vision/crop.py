"""Cutting a face out of a frame, the same way in evaluation and live use.

The margin is relative to the box, because a network meant for tight faces swings by tens of per cent with it, and a
margin in pixels means something else for every face size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

from faceflax.errors import FaceflaxError
from faceflax.preprocessing import resize


def crop_face(
    grey: UInt8[np.ndarray, "height width"],
    box: Sequence[int] | Int[np.ndarray, " 4"],
    margin: float,
    size: int,
) -> UInt8[np.ndarray, "size size"]:
    """Cuts out the square around a box and resizes it.

    The square shares the box's centre; its side is the box's longer side times ``1 + 2 * margin``, rounded. Where it
    reaches beyond the frame, the frame's border pixels are repeated.

    Args:
        grey: uint8 ``[height, width]``.
        box: x, y, width, height in pixels.
        margin: share of the side to add on each side, at least 0.
        size: side of the result in pixels.

    Returns:
        uint8 ``[size, size]``.

    Raises:
        FaceflaxError: an empty box, or a margin that is negative or not finite.

    Example:
        >>> grey = np.arange(100, dtype=np.uint8).reshape(10, 10)
        >>> crop_face(grey, (4, 4, 2, 2), margin=0.5, size=4)
        array([[33, 34, 35, 36],
               [43, 44, 45, 46],
               [53, 54, 55, 56],
               [63, 64, 65, 66]], dtype=uint8)
    """
    x, y, width, height = (int(value) for value in box)
    if width < 1 or height < 1:
        raise FaceflaxError(f"box: {(x, y, width, height)} is empty; width and height are 1 or more")
    if not 0 <= margin < np.inf:
        raise FaceflaxError(f"margin: {margin} is not a share of the box's side; give 0 or more")
    side = max(1, round(max(width, height) * (1 + 2 * margin)))
    rows = np.arange(side) + (2 * y + height - side) // 2
    columns = np.arange(side) + (2 * x + width - side) // 2
    square = grey[np.ix_(rows.clip(0, grey.shape[0] - 1), columns.clip(0, grey.shape[1] - 1))]
    return resize(square, size)
