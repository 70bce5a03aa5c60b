"""Which parts of a frame a network of a limited input looks at, so that it finds faces of every size and place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from faceflax.native import Region

SIDES: tuple[int, ...] = tuple(range(64, 641, 32))
"""Rows or columns of the network's input; the last is the largest."""

OVERLAP = 128
"""Pixels of the input that neighbouring tiles share: a face that is no larger is whole in one of them."""

LARGEST = 192
"""Height of the largest face that the network finds well, in pixels of its input."""

_COARSER = 2.5
"""Larger faces are searched at a scale so many times smaller."""
_LEAST_COARSE = 48
"""Height of the smallest face that a coarser search is asked for, in pixels of its input: finer ones see smaller faces
better, and searching for them once more gives more false ones. Less than :data:`OVERLAP` / :data:`_COARSER`, up to
which tiles of the finer one show faces whole."""
_BEYOND = 1.25
"""The largest face, in shorter sides of the frame: its box may reach beyond."""
_MOST = 32
"""Tiles that are searched together; more would take more memory and no less time."""


class Tile(NamedTuple):
    """A part of a frame.

    Attributes:
        region: where it is, and the input it is resized to.
        left, top, right, bottom: what it shows whole, in pixels of the frame: all that does not cross its edges, and on
            the sides where the frame ends everything.
        shortest, tallest: heights of the smallest and the largest face, in pixels of the frame, that no finer and no
            coarser search finds better.
    """

    region: Region
    left: float
    top: float
    right: float
    bottom: float
    shortest: float
    tallest: float


def tiles(height: int, width: int, scale: float) -> Iterator[list[Tile]]:
    """Yields the parts of a frame that show every face whole and large enough, in groups that do not overlap.

    A frame whose reduced size fits into one input is one tile, as large as that input allows. Another is cut into tiles
    that overlap by :data:`OVERLAP`. Where a face may be larger than the network finds well, or than a tile shows whole,
    the frame is searched once more at a coarser scale, for such faces alone, and so on.

    Args:
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        scale: pixels of the input for one of the frame, at least.

    Example:
        >>> [(tile.region.rows, tile.region.columns) for group in tiles(360, 640, 0.6) for tile in group]
        [(224, 384), (96, 160)]
        >>> sum(len(group) for group in tiles(3000, 4000, 0.6))
        26
    """
    shortest = 0.0
    while True:
        whole = max(height, width) * scale <= SIDES[-1]
        if whole:
            columns, rows = _fitting(width * scale), _fitting(height * scale)
            scale = min(columns / width, rows / height)
            across, down = [(width - columns / scale) / 2], [(height - rows / scale) / 2]
        else:
            columns, across = _spread(width, scale)
            rows, down = _spread(height, scale)
        last = _BEYOND * min(height, width) * scale <= (LARGEST if whole else OVERLAP)
        tallest = math.inf if last else LARGEST / scale
        for first_row in range(min(2, len(down))):
            for first_column in range(min(2, len(across))):
                group = [
                    _tile(left, top, columns, rows, scale, height, width, shortest, tallest)
                    for top in down[first_row::2]
                    for left in across[first_column::2]
                ]
                for start in range(0, len(group), _MOST):
                    yield group[start : start + _MOST]
        if last:
            return
        scale /= _COARSER
        shortest = _LEAST_COARSE / scale


def _fitting(pixels: float) -> int:
    """The least side of an input that so many pixels fit into."""
    return next(side for side in SIDES if side >= pixels)


def _spread(length: int, scale: float) -> tuple[int, list[float]]:
    """The side of tiles and where each begins, along one side of the frame."""
    pixels = length * scale
    if pixels <= SIDES[-1]:
        side = _fitting(pixels)
        return side, [(length - side / scale) / 2]
    count = math.ceil((pixels - OVERLAP) / (SIDES[-1] - OVERLAP))
    side = _fitting((pixels + (count - 1) * OVERLAP) / count)
    return side, [i * (length - side / scale) / (count - 1) for i in range(count)]


def _tile(
    left: float,
    top: float,
    columns: int,
    rows: int,
    scale: float,
    height: int,
    width: int,
    shortest: float,
    tallest: float,
) -> Tile:
    region = Region(left, top, columns / scale, rows / scale, rows, columns)
    pixel = 1 / scale  # of the input: a face that ends at the very edge may go on
    ends = left + region.width, top + region.height
    return Tile(
        region,
        -math.inf if left <= 0 else left + pixel,
        -math.inf if top <= 0 else top + pixel,
        math.inf if ends[0] >= width - pixel / 2 else ends[0] - pixel,
        math.inf if ends[1] >= height - pixel / 2 else ends[1] - pixel,
        shortest,
        tallest,
    )
