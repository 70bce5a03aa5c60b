"""Cutting a face out of a frame, the same way in detection, evaluation and live use.

The margin is relative to the box: the accuracy of a network trained on tight faces changes by tens of percent with it,
and a margin in pixels would mean something else for every size of face.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from faceflax.errors import FaceflaxError
from faceflax.opencv import cv2
from faceflax.preprocessing import resize

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Int, UInt8


def square_around(box: Sequence[int] | Int[np.ndarray, " 4"], margin: float) -> tuple[int, int, int]:
    """Returns left, top and side of the square that shares a box's centre, in pixels; it may reach beyond the frame.

    Its side is the box's longer side times ``1 + 2 * margin``, rounded.

    Args:
        box: x, y, width, height in pixels.
        margin: share of the side to add on each side, at least 0.

    Raises:
        FaceflaxError: an empty box, or a margin that is negative or not finite.

    Example:
        >>> square_around((4, 4, 2, 2), margin=0.5)
        (3, 3, 4)
    """
    x, y, width, height = (int(value) for value in box)
    if width < 1 or height < 1:
        raise FaceflaxError("box", (x, y, width, height), "is empty", "give a width and a height of 1 or more")
    if not 0 <= margin < np.inf:
        raise FaceflaxError("margin", margin, "is not a share of the box's side", "give 0 or more")
    side = max(1, round(max(width, height) * (1 + 2 * margin)))
    return (2 * x + width - side) // 2, (2 * y + height - side) // 2, side


def crop_face(
    image: UInt8[np.ndarray, "height width *channels"],
    box: Sequence[int] | Int[np.ndarray, " 4"],
    margin: float,
    size: int,
) -> UInt8[np.ndarray, "size size *channels"]:
    """Cuts out :func:`square_around` a box and resizes it.

    Where the square reaches beyond the frame, the frame's border pixels are repeated.

    Args:
        image: uint8 ``[height, width]``, or ``[height, width, channels]``.
        box: x, y, width, height in pixels.
        margin: share of the side to add on each side, at least 0.
        size: side of the result in pixels.

    Returns:
        uint8 ``[size, size]``, or ``[size, size, channels]``.

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
    left, top, side = square_around(box, margin)
    (above, rows, below), (before, columns, after) = (
        _reach(top, side, image.shape[0]),
        _reach(left, side, image.shape[1]),
    )
    square = cv2.copyMakeBorder(image[rows, columns], above, below, before, after, cv2.BORDER_REPLICATE)
    return resize(square, size)


def _reach(start: int, side: int, length: int) -> tuple[int, slice, int]:
    """How much of ``side`` pixels from ``start`` on lies before, inside and behind the image; one at least inside."""
    first = min(max(start, 0), length - 1)
    stop = max(min(start + side, length), first + 1)
    before = min(max(-start, 0), side - 1)
    return before, slice(first, stop), side - before - (stop - first)
