"""Figures of attributions: grey faces beside or under maps whose colours say what zero is."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

CELL = 1.05
"""Side of one image or map, in inches."""

PERCENTILE = 99.5

COLORS = "RdBu_r"  # blue, white, red
UNSIGNED_COLORS = "inferno"  # black, red, yellow

Scale = Literal["map", "network"]
"""Whether each map has a scale of its own, or all maps of a network share one."""


@dataclass(frozen=True)
class Panel:
    """One network's maps.

    Attributes:
        title: what stands above each of its columns.
        maps: attribution of every image.
    """

    title: str
    maps: Float[np.ndarray, "n height width"]


def attribution_grid(
    rows: Mapping[str, Int[np.ndarray, " images"]],
    images: UInt8[np.ndarray, "n height width *channels"],
    panels: Sequence[Panel],
    *,
    title: str,
    caption: str,
    column: str = "face",
    signed: bool = True,
    overlay: bool = False,
    scale: Scale = "map",
) -> Figure:
    """Draws images and, beside each, its map in every panel.

    Signed maps are blue, white and red on a scale that is symmetric about zero; others go from black to yellow. A scale
    ends at the :data:`PERCENTILE` of the magnitudes, so that a few peaks do not hide the rest: of each map, because
    magnitudes differ between images by more than one scale could show, or of all maps of a network.

    Args:
        rows: the indices of the images in each row, under the row's label.
        images: grey or RGB, in [0, 255].
        panels: the maps beside each image, from left to right.
        title: stands above the grid.
        caption: stands below it.
        column: stands above the images.
        signed: whether zero is the middle of the maps' scale, or its end.
        overlay: draw the maps over the images, the fainter the smaller they are.
        scale: what shares a scale.

    Returns:
        A figure with no window; ``figure.savefig(file)`` writes it.

    Example:
        >>> faces, maps = np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8))
        >>> rows = {"happy": np.array([1, 0])}
        >>> figure = attribution_grid(rows, faces, [Panel("network", maps)], title="Gradient", caption="")
        >>> len(figure.axes)  # two faces, two maps, the colour bar
        5
    """
    samples = max(len(indices) for indices in rows.values())
    columns = [column, *(panel.title for panel in panels)]
    gap, left, right = 0.22, 0.85 if any(rows) else 0.15, 0.15
    width = left + samples * len(columns) * CELL + (samples - 1) * gap + right
    heading = textwrap.wrap(title, int(width / 0.1))
    limits = [_limits(panel.maps, scale) for panel in panels]
    shared = f"the magnitudes of all maps of a network, {', '.join(f'{limit[0]:.2g}' for limit in limits)}"
    of = "each map's magnitudes" if scale == "map" else shared
    notes = textwrap.wrap(f"{caption}; p: the {PERCENTILE}th percentile of {of}", int(width / 0.056))
    lines = max(name.count("\n") + 1 for name in columns)
    top, bottom = 0.26 + 0.12 * lines + 0.18 * len(heading), 0.6 + 0.11 * len(notes)
    height = top + len(rows) * CELL + bottom
    figure = Figure((width, height))

    for y, (label, indices) in enumerate(rows.items()):
        for s, index in enumerate(indices):
            for x, name in enumerate(columns):
                edge = left + (s * len(columns) + x) * CELL + s * gap
                low = height - top - (y + 1) * CELL
                axes = figure.add_axes((edge / width, low / height, 0.96 * CELL / width, 0.96 * CELL / height))
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set(color="0.75", linewidth=0.5)
                if x == 0 or overlay:
                    axes.imshow(images[index], cmap="gray", vmin=0, vmax=255, extent=_extent(images[index]))
                if x > 0:
                    _draw_map(axes, panels[x - 1].maps[index], limits[x - 1][index], signed, overlay)
                if all(len(above) <= s for above in list(rows.values())[:y]):  # the column's first image
                    axes.set_title(name, fontsize=7.5, pad=4, parse_math=False)
                if s == x == 0:
                    axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)

    middle = (left + width - right) / 2 / width
    figure.text(0.5, 1 - 0.1 / height, "\n".join(heading), ha="center", va="top", fontsize=11, parse_math=False)
    figure.text(
        0.5, 0.1 / height, "\n".join(notes), ha="center", va="bottom", fontsize=7, color="0.3", parse_math=False
    )
    bar = figure.add_axes((middle - 0.9 / width, (bottom - 0.2) / height, 1.8 / width, 0.09 / height))
    colors = ScalarMappable(cmap=COLORS if signed else UNSIGNED_COLORS)
    colors.set_clim(-1 if signed else 0, 1)
    figure.colorbar(colors, cax=bar, orientation="horizontal")
    if signed:
        bar.set_xticks([-1, 0, 1], ["\N{MINUS SIGN}p", "0", "+p"])
    else:
        bar.set_xticks([0, 1], ["0", "p"])
    bar.tick_params(labelsize=7, length=2, pad=2)
    return figure


def _limits(maps: Float[np.ndarray, "n height width"], scale: Scale) -> Float[np.ndarray, " n"]:
    """Where each map's scale ends."""
    limits = np.percentile(np.abs(maps), PERCENTILE, axis=(1, 2) if scale == "map" else None)
    return np.broadcast_to(np.where(limits == 0, 1, limits), len(maps))  # 1: maps that are zero everywhere


def _extent(image: np.ndarray) -> tuple[float, float, float, float]:
    """In a cell's coordinates, so that images of any size lie over each other; the longer side is 1."""
    height, width = image.shape[:2]
    longer = max(height, width)
    return 0, width / longer, height / longer, 0


def _draw_map(axes: Axes, values: Float[np.ndarray, "height width"], limit: float, signed: bool, overlay: bool) -> None:
    alpha = np.clip(np.abs(values) / limit, 0, 1) if overlay else None
    axes.imshow(
        values,
        cmap=COLORS if signed else UNSIGNED_COLORS,
        vmin=-limit if signed else 0,
        vmax=limit,
        alpha=alpha,
        extent=_extent(values),
    )
