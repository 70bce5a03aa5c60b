"""Methods that change the image and look at the score; they ask no more of a model than its answers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from faceflax.errors import FaceflaxError
from interpret.attribution import apply, at_least, checked_baseline, method
from interpret.copies import OPTIONS, Progress, total
from interpret.graph import Images, Model
from interpret.targets import Scores, Target


@method("patch", "stride", *OPTIONS)
def occlusion(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    patch: int = 8,
    stride: int = 4,
    baseline: float | Images = 0.0,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Images:
    """Occlusion: how much the score falls when a square over a pixel is covered.

    ``A_p = mean over the squares w that cover p of s(x) - s(x with w covered)``. Zeiler and Fergus, "Visualizing and
    Understanding Convolutional Networks", ECCV 2014 (arXiv:1311.2901).

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`; the highest activation is that of the whole image.
        layer: as in :func:`~interpret.gradients.gradient`.
        patch: the square's side in pixels.
        stride: pixels from one square to the next, no more than ``patch``; the last touches the border.
        baseline: what a covered pixel becomes: one value (0 is middle grey), or an array that broadcasts to the images.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        Signed attribution of the shape of ``images``, the same in every channel: positive where covering lowers the
        score.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.gradient`, or a square or a baseline that does not fit.
    """
    batch, height, width, _ = images.shape
    at_least("patch", patch, 1, min(height, width))
    at_least("stride", stride, 1, patch)
    ground = checked_baseline(baseline, images)
    target = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]
    whole = target.of(*apply(model, variables, images))

    def starts(size: int) -> np.ndarray:
        return np.unique(np.minimum(np.arange(0, size - patch + stride, stride), size - patch))

    corners = jnp.asarray([(row, column) for row in starts(height) for column in starts(width)])

    def covers(size: int, start: Array) -> Array:
        return (jnp.arange(size) >= start) & (jnp.arange(size) < start + patch)

    def fall(i: Array) -> tuple[Float[Array, "batch height width"], Float[Array, "height width"]]:
        row, column = corners[i]
        square = covers(height, row)[:, None] & covers(width, column)[None]
        covered = jnp.where(square[None, ..., None], ground, images)
        falls = whole - target.of(*apply(model, variables, covered))
        square = square.astype(images.dtype)
        return falls[:, None, None] * square[None], square

    falls, times = total(fall, len(corners), batch, internal_batch_size, progress)
    return jnp.broadcast_to((falls / times[None])[..., None], images.shape)


@method("masks", "cells", "keep", "seed", *OPTIONS)
def rise(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    masks: int = 1000,
    cells: int = 7,
    keep: float = 0.5,
    seed: int = 0,
    baseline: float | Images = 0.0,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Images:
    """RISE: the mean of random masks, weighted by the score of the image behind each.

    ``A_p = mean over masks m of (s(x behind m) - mean s) m_p / keep``. A mask is a random grid of zeros and ones,
    enlarged bilinearly and moved by a random part of a cell. The paper does not subtract the mean score; its map
    differs by nearly a constant and has more noise. Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for
    Explanation of Black-box Models", BMVC 2018 (arXiv:1806.07421).

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`; the highest activation is that of the whole image.
        layer: as in :func:`~interpret.gradients.gradient`.
        masks: how many; the map's noise falls with their square root.
        cells: a grid's cells down and across.
        keep: the share of cells that show the image.
        seed: of the masks, which are the same for all images.
        baseline: what a masked pixel becomes, as in :func:`occlusion`.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        Signed attribution of the shape of ``images``, the same in every channel.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.gradient`, or an option out of its range or a baseline that
            does not fit.
    """
    batch, height, width, _ = images.shape
    at_least("masks", masks, 1)
    at_least("cells", cells, 1, min(height, width))
    if not 0 < keep < 1:
        raise FaceflaxError("keep", keep, "is out of range", "give a share between 0 and 1")
    ground = checked_baseline(baseline, images)
    target = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]
    whole = target.of(*apply(model, variables, images))
    down, across = -(-height // cells), -(-width // cells)

    def mask(i: Array) -> Float[Array, "height width"]:
        grid, row, column = jax.random.split(jax.random.fold_in(jax.random.key(seed), i), 3)
        shown = jax.random.bernoulli(grid, keep, (cells + 1, cells + 1)).astype(images.dtype)
        smooth = jax.image.resize(shown, ((cells + 1) * down, (cells + 1) * across), "linear")
        start = jax.random.randint(row, (), 0, down), jax.random.randint(column, (), 0, across)
        return jax.lax.dynamic_slice(smooth, start, (height, width))

    def weighted(i: Array) -> tuple[Array, Array, Scores]:
        shown = mask(i)
        behind = ground + shown[None, ..., None] * (images - ground)
        scores = target.of(*apply(model, variables, behind)) - whole  # near zero, so that no digits are lost
        return scores[:, None, None] * shown[None], shown, scores

    weights, shown, scores = total(weighted, masks, batch, internal_batch_size, progress)
    centred = (weights - (scores / masks)[:, None, None] * shown[None]) / (masks * keep)
    return jnp.broadcast_to(centred[..., None], images.shape)
