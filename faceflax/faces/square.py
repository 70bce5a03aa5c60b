"""Where a face is and how it is turned: the square that the networks' images are cut from.

The networks' margins are relative to the square in which OpenCV's Haar cascade finds an upright face. Eyes and mouth
give the same square, turned with the head: the constants below reproduce Haar's squares on average, as
``python -m experiments.crop_margin --landmarks FILE`` measures them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float, Float32, Int

SIDE = 2.71
"""Side of Haar's square, in means of the distances between the eyes and from the eyes to the mouth; on average these
two are alike. Quartiles 2.51 to 2.85 on FER-2013, 2.60 to 2.87 on FairFace."""
DOWN = 0.115
"""How far the square's centre lies below the middle of the eyes, as a share of its side."""
BOX_SIDE = 0.96
"""Side of Haar's square in heights of a box from the forehead to the chin, whose centre it shares."""

_NARROWEST = 0.8
"""Seen from the side the eyes come together: the mean is taken to be no less than this share of the longer distance."""
_LARGEST_RATIO, _FARTHEST = 2.0, 0.5
"""Landmarks whose square is so many times larger or smaller than the box's, or so many of its sides away, are wrong."""


class Square(NamedTuple):
    """A square in a frame, turned about its centre.

    Attributes:
        x: of its centre, in pixels from the frame's left edge.
        y: of its centre, in pixels from the frame's upper edge.
        side: in pixels.
        roll: degrees, clockwise as seen.
    """

    x: float
    y: float
    side: float
    roll: float = 0.0


def square_of(
    box: Sequence[float] | Int[np.ndarray, " 4"] | Float[np.ndarray, " 4"],
    landmarks: Float32[np.ndarray, "5 2"] | None = None,
) -> Square:
    """Returns the square about a face, as Haar would find it if the head were upright.

    Without landmarks the box is taken to be Haar's: the square has its centre and its longer side. With them the square
    is given by eyes and mouth, and turned with them; if they contradict the box or each other, as where both eyes are
    in one place, it is the box's, brought to Haar's size, and upright.

    Args:
        box: x, y, width, height in pixels.
        landmarks: of the face, as in :class:`~faceflax.faces.Detection`.

    Example:
        >>> upright = np.float32([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]])
        >>> [round(float(value)) for value in square_of((10, 5, 80, 110), upright)]
        [50, 52, 108, 0]
        >>> square_of((10, 5, 80, 110))
        Square(x=50.0, y=60.0, side=110.0, roll=0.0)
    """
    x, y, width, height = (float(value) for value in box)
    if landmarks is None:
        return Square(x + width / 2, y + height / 2, max(width, height))
    plain = Square(x + width / 2, y + height / 2, BOX_SIDE * max(width, height))
    eyes, mouth, across, right = _axes(landmarks)
    length = _length(right)
    distances = _length(across), _length(mouth - eyes)
    side = SIDE * max(sum(distances) / 2, _NARROWEST * max(distances))
    if length == 0 or not plain.side / _LARGEST_RATIO < side < plain.side * _LARGEST_RATIO:  # or NaN
        return plain
    center = eyes + DOWN * side * 1j * right / length
    if not _length(center - complex(plain.x, plain.y)) <= _FARTHEST * plain.side:
        return plain
    return Square(center.real, center.imag, side, _degrees(right))


def roll_of(landmarks: Float32[np.ndarray, "5 2"]) -> float:
    """Returns by how many degrees a head is tilted, clockwise as seen, from the eyes and the mouth."""
    return _degrees(_axes(landmarks)[3])


def _length(vector: complex) -> float:
    return math.hypot(vector.real, vector.imag)  # abs() raises where it is infinite


def _degrees(direction: complex) -> float:
    return math.degrees(math.atan2(direction.imag, direction.real))


def _axes(landmarks: Float32[np.ndarray, "5 2"]) -> tuple[complex, complex, complex, complex]:
    """Middle of the eyes, middle of the mouth, from eye to eye, and what is to the right in the face.

    A point is x + iy: for five points NumPy's calls would take longer than all the rest of cutting a face out.
    """
    left_eye, right_eye, _, left_mouth, right_mouth = (complex(x, y) for x, y in np.asarray(landmarks).tolist())
    eyes, mouth, across = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2, right_eye - left_eye
    return eyes, mouth, across, across - 1j * (mouth - eyes)
