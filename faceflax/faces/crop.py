"""Cutting a face out of a frame, the same way in detection, evaluation and live use.

The margin is relative to the box: the accuracy of a network trained on tight faces changes by tens of percent with it,
and a margin in pixels would mean something else for every size of face. With landmarks a face is turned upright.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from faceflax.errors import FaceflaxError
from faceflax.faces.square import Square, square_of
from faceflax.opencv import cv2
from faceflax.preprocessing import resize

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float32, Int, UInt8


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
    _check(margin)
    side = max(1, round(max(width, height) * (1 + 2 * margin)))
    return (2 * x + width - side) // 2, (2 * y + height - side) // 2, side


def crop_face(
    image: UInt8[np.ndarray, "height width *channels"],
    box: Sequence[int] | Int[np.ndarray, " 4"],
    margin: float,
    size: int,
    landmarks: Float32[np.ndarray, "5 2"] | None = None,
) -> UInt8[np.ndarray, "size size *channels"]:
    """Cuts out a face and resizes it: :func:`square_around` its box or, with landmarks, the face turned upright.

    With landmarks it is :func:`~faceflax.faces.square.square_of` them, which :func:`crop_square` cuts out. Where the
    square reaches beyond the frame, the frame's border pixels are repeated.

    Args:
        image: uint8 ``[height, width]``, or ``[height, width, channels]``.
        box: x, y, width, height in pixels.
        margin: share of the side to add on each side, at least 0.
        size: side of the result in pixels.
        landmarks: of the face in pixels, as in :class:`~faceflax.faces.Detection`, or None.

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
    if landmarks is not None:
        return crop_square(image, square_of(box, landmarks), margin, size)
    return resize(_cut(image, left, top, side, side).copy(), size)  # as it is, it may be the frame's own pixels


def crop_square(
    image: UInt8[np.ndarray, "height width *channels"], square: Square, margin: float, size: int
) -> UInt8[np.ndarray, "size size *channels"]:
    """Cuts out a turned square, upright in the result: bilinear when it grows, area-averaged when it shrinks.

    Args:
        image: uint8 ``[height, width]``, or ``[height, width, channels]``; its border pixels are repeated outwards.
        square: where the face is.
        margin: share of the side to add on each side, at least 0.
        size: side of the result in pixels.

    Returns:
        uint8 ``[size, size]``, or ``[size, size, channels]``.

    Raises:
        FaceflaxError: a margin that is negative or not finite.

    Example:
        >>> grey = np.arange(100, dtype=np.uint8).reshape(10, 10)
        >>> crop_square(grey, Square(5, 5, 4, roll=90), margin=0, size=2)
        array([[41, 61],
               [39, 59]], dtype=uint8)
    """
    _check(margin)
    side = square.side * (1 + 2 * margin)
    # First whole pixels are averaged, then the turned square is sampled at least as finely as its pixels lie, and what
    # that gives is averaged again: nothing aliases, and the work does not grow with the face.
    reduced = max(1, int(side / size / 4))
    finer = max(1, math.ceil(side / size / reduced))
    angle = math.radians(square.roll)
    cos, sin = math.cos(angle), math.sin(angle)
    reach = side / 2 * (abs(cos) + abs(sin)) + 2 * reduced
    left, top = math.floor(square.x - reach), math.floor(square.y - reach)
    pixels = math.ceil((2 * reach + 1) / reduced)
    patch = _cut(image, left, top, pixels * reduced, pixels * reduced)
    if reduced > 1:
        patch = cv2.resize(patch, (pixels, pixels), interpolation=cv2.INTER_AREA)
    step, middle = side / reduced / (size * finer), size * finer / 2 - 0.5
    cos, sin = step * cos, step * sin
    x = (square.x - left) / reduced - 0.5 - (cos - sin) * middle
    y = (square.y - top) / reduced - 0.5 - (sin + cos) * middle
    upright = cv2.warpAffine(
        patch,
        np.array([[cos, -sin, x], [sin, cos, y]]),
        (size * finer, size * finer),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return resize(upright, size)


def _check(margin: float) -> None:
    if not 0 <= margin < np.inf:
        raise FaceflaxError("margin", margin, "is not a share of the box's side", "give 0 or more")


def _cut(image: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """A rectangle of the image, a view where it can be; the border pixels are repeated where it reaches beyond."""
    (above, rows, below), (before, columns, after) = (
        _reach(top, height, image.shape[0]),
        _reach(left, width, image.shape[1]),
    )
    if not (above or below or before or after):
        return image[rows, columns]
    return cv2.copyMakeBorder(image[rows, columns], above, below, before, after, cv2.BORDER_REPLICATE)


def _reach(start: int, side: int, length: int) -> tuple[int, slice, int]:
    """How much of ``side`` pixels from ``start`` on lies before, inside and behind the image; one at least inside."""
    first = min(max(start, 0), length - 1)
    stop = max(min(start + side, length), first + 1)
    before = min(max(-start, 0), side - 1)
    return before, slice(first, stop), side - before - (stop - first)
