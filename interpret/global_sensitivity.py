"""How much of the score's variation under random masks each region of the image accounts for: Sobol indices, HSIC.

Masks are grids of ``cells`` by ``cells``, enlarged bilinearly, as in :func:`~interpret.perturbation.rise`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.stats import qmc

from interpret.attribution import apply, at_least, checked_baseline, method
from interpret.copies import OPTIONS, Progress, every
from interpret.graph import Images, Model
from interpret.targets import Scores, Target


@method("designs", "cells", "seed", *OPTIONS)
def sobol(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    designs: int = 32,
    cells: int = 7,
    seed: int = 0,
    baseline: float | Images = 0.0,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Images:
    """Sobol: each cell's total-order index, the share of the score's variance that it takes part in.

    ``S_i = mean over n of (f(A_n) - f(A_n with cell i of B_n))^2 / (2 var f(A))``, Jansen's estimate, with masks ``A``
    and ``B`` uniform in [0, 1] from a scrambled Sobol sequence and ``f`` the score behind a mask. Fel, Cadène,
    Chalvidal, Cord, Vigouroux and Serre, "Look at the Variance! Efficient Black-box Explanations with Sobol-based
    Sensitivity Analysis", NeurIPS 2021 (arXiv:2111.04138). Misleads: it has no sign; a cell that acts only together
    with others counts in full, so that shares sum to more than one.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`; the highest activation is that of the whole image.
        layer: as in :func:`~interpret.gradients.gradient`.
        designs: how many masks ``A``, best a power of two; each costs ``cells^2 + 1`` images.
        cells: a grid's cells down and across.
        seed: of the masks, which are the same for all images.
        baseline: what a masked pixel becomes, as in :func:`~interpret.perturbation.occlusion`.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        A map of the shape of ``images``, zero or positive, the same in every channel.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.gradient`, or an option out of its range or a baseline that
            does not fit.
    """
    at_least("designs", designs, 2)
    at_least("cells", cells, 1, min(images.shape[1:3]))
    count = cells * cells
    drawn = qmc.Sobol(2 * count, seed=seed).random_base2(max(1, int(np.ceil(np.log2(designs)))))[:designs]
    first, second = jnp.asarray(drawn[:, :count], jnp.float32), jnp.asarray(drawn[:, count:], jnp.float32)
    behind = _behind(model, variables, images, target, baseline, cells)

    def one(i: Array) -> Scores:
        design, replaced = i // (count + 1), i % (count + 1) - 1  # -1: none
        return behind(jnp.where(jnp.arange(count) == replaced, second[design], first[design]))

    scores = every(one, designs * (count + 1), images.shape[0], internal_batch_size, progress)
    scores = scores.reshape(designs, count + 1, -1)
    variance = scores[:, 0].var(0)
    moved = ((scores[:, 1:] - scores[:, :1]) ** 2).mean(0) / 2
    indices = jnp.where(variance > 0, moved / jnp.where(variance > 0, variance, 1)[None], 0)
    return _drawn(indices.T, images, cells)


@method("masks", "cells", "seed", *OPTIONS)
def hsic(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    masks: int = 512,
    cells: int = 7,
    seed: int = 0,
    baseline: float | Images = 0.0,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Images:
    """HSIC: how strongly the score depends on whether a cell is shown, in any way, by kernels.

    ``H_i = tr(K_i C L C) / (n - 1)^2`` over ``n`` random masks of zeros and ones, with ``C`` centring, ``K_i(m, m') = 1
    / 2 - (m_i - m_i')^2`` and ``L`` a Gaussian kernel of the scores whose width is the median distance of two. Novello,
    Fel and Vigouroux, "Making Sense of Dependence: Efficient Black-box Explanations Using Dependence Measure", NeurIPS
    2022 (arXiv:2206.06219). Misleads: it has no sign, and below its noise (which falls with ``masks``) all cells look
    alike.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`sobol`.
        layer: as in :func:`~interpret.gradients.gradient`.
        masks: how many.
        cells: as in :func:`sobol`.
        seed: as in :func:`sobol`.
        baseline: as in :func:`sobol`.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        A map of the shape of ``images``, zero or positive, the same in every channel.

    Raises:
        FaceflaxError: as in :func:`sobol`.
    """
    at_least("masks", masks, 2)
    at_least("cells", cells, 1, min(images.shape[1:3]))
    shown = jax.random.bernoulli(jax.random.key(seed), 0.5, (masks, cells * cells)).astype(jnp.float32)
    behind = _behind(model, variables, images, target, baseline, cells)
    scores = every(lambda i: behind(shown[i]), masks, images.shape[0], internal_batch_size, progress)
    # With z = 1 - 2 m, the kernel of masks is z z' / 2: so the trace is a quadratic form of the centred z.
    signs = 1 - 2 * shown
    centred = signs - signs.mean(0, keepdims=True)

    def dependence(scores: Float[Array, " masks"]) -> Float[Array, " cells"]:
        distances = jnp.abs(scores[:, None] - scores[None])
        width = jnp.median(distances)
        kernel = jnp.exp(-0.5 * (distances / jnp.where(width > 0, width, 1)) ** 2)
        return jnp.einsum("ni,nm,mi->i", centred, kernel, centred) / 2 / (masks - 1) ** 2

    each = jax.lax.map(dependence, scores.T.astype(jnp.float32))
    return _drawn(jnp.maximum(each, 0), images, cells)


def _behind(model: Model, variables: Any, images: Images, target: Any, baseline: Any, cells: int) -> Any:
    """A function from a mask's cells to the scores behind it."""
    ground = checked_baseline(baseline, images)
    target = target.fixed(*apply(model, variables, images))

    def behind(cells: int, shown: Float[Array, " cells"]) -> Scores:
        mask = jax.image.resize(shown.reshape(cells, cells), images.shape[1:3], "linear").astype(images.dtype)
        return target.of(*apply(model, variables, ground + mask[None, ..., None] * (images - ground)))

    return partial(behind, cells)


def _drawn(values: Float[Array, "batch cells"], images: Images, cells: int) -> Images:
    maps = jax.image.resize(values.reshape(-1, cells, cells), images.shape[:3], "linear")[..., None]
    return jnp.broadcast_to(maps, images.shape).astype(images.dtype)
