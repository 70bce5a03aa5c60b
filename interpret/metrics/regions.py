"""Faithfulness by regions, filled-in pixels and sets of images: ROAD, IROF, selectivity, monotonicity, sufficiency."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from faceflax.errors import FaceflaxError
from interpret.attribution import apply, at_least, checked_baseline, checked_maps
from interpret.coalitions import superpixels
from interpret.compiling import compiled
from interpret.graph import Images, Model
from interpret.metrics.common import Each, Importance
from interpret.metrics.faithfulness import (
    area,
    checked_importance,
    checked_outputs,
    insertion_curve,
    probabilities,
    ranks,
)
from interpret.targets import Target

Regions = Int[Array, "batch height width"]


def road(
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    importance: Importance,
    *,
    steps: int = 10,
    noise: float = 0.01,
    outputs: str | None = None,
) -> Each:
    """ROAD: area under the curve of :func:`road_curve`, in [0, 1]; lower is better.

    Args:
        model: as in :func:`~interpret.metrics.deletion`.
        variables: as in :func:`~interpret.metrics.deletion`.
        images: as in :func:`~interpret.metrics.deletion`.
        target: as in :func:`~interpret.metrics.deletion`.
        importance: as in :func:`~interpret.metrics.deletion`; its negative removes what matters least, whose area is
            better high.
        steps: as in :func:`road_curve`.
        noise: as in :func:`road_curve`.
        outputs: as in :func:`~interpret.metrics.deletion`.

    Raises:
        FaceflaxError: as in :func:`~interpret.metrics.deletion`.
    """
    return area(road_curve(model, variables, images, target, importance, steps=steps, noise=noise, outputs=outputs))


def road_curve(
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    importance: Importance,
    *,
    steps: int = 10,
    noise: float = 0.01,
    outputs: str | None = None,
) -> Float[Array, "batch points"]:
    """The class's probability while pixels are removed, most important first, and filled in from those around them.

    Removed pixels are what solves ``x_i = weighted mean of i's neighbours``, those beside it with weight 1/6 and those
    across with 1/12, plus normal noise: so that the shape of what was removed says little of the class, as it does when
    pixels become grey. With the share ``i / steps`` removed, for ``i`` from 0 to ``steps - 1``. Rong, Leemann, Borisov,
    Kasneci and Kasneci, "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022
    (arXiv:2202.00449).

    Args:
        model: as in :func:`~interpret.metrics.deletion`.
        variables: as in :func:`~interpret.metrics.deletion`.
        images: as in :func:`~interpret.metrics.deletion`.
        target: as in :func:`~interpret.metrics.deletion`.
        importance: as in :func:`~interpret.metrics.deletion`.
        steps: how many points the curve has.
        noise: standard deviation of what is added to filled-in pixels, in the images' units; the same for all images.
        outputs: as in :func:`~interpret.metrics.deletion`.

    Raises:
        FaceflaxError: as in :func:`~interpret.metrics.deletion`.
    """
    images, score, importance = checked_importance(model, variables, images, target, importance)
    at_least("steps", steps, 2, images.shape[1] * images.shape[2])
    at_least("noise", noise, 0)
    kind = checked_outputs(model, variables, images, score, outputs)
    return _road_curve(model, variables, images, score, ranks(importance), steps, noise, kind)


def selectivity(
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    importance: Importance,
    *,
    patch: int = 8,
    baseline: float | Images = 0.0,
    outputs: str | None = None,
) -> Each:
    """Area under the probability while squares are covered, those with the highest sum first: in [0, 1]; lower is
    better.

    Montavon, Samek and Müller, DSP 2018 (arXiv:1706.07979); Bach et al., PLoS ONE 2015.

    Args:
        model: as in :func:`~interpret.metrics.deletion`.
        variables: as in :func:`~interpret.metrics.deletion`.
        images: as in :func:`~interpret.metrics.deletion`.
        target: as in :func:`~interpret.metrics.deletion`.
        importance: as in :func:`~interpret.metrics.deletion`.
        patch: the squares' side in pixels; those at the right and lower borders may be smaller.
        baseline: what a covered pixel becomes; 0 is middle grey.
        outputs: as in :func:`~interpret.metrics.deletion`.

    Raises:
        FaceflaxError: as in :func:`~interpret.metrics.deletion`, or a square that does not fit.
    """
    images, score, importance = checked_importance(model, variables, images, target, importance)
    height, width = images.shape[1:3]
    at_least("patch", patch, 1, min(height, width))
    ground = checked_baseline(baseline, images)
    rows, columns = np.arange(height) // patch, np.arange(width) // patch
    regions = jnp.asarray(rows[:, None] * (columns[-1] + 1) + columns[None])
    regions = jnp.broadcast_to(regions[None], images.shape[:3])
    count = int((rows[-1] + 1) * (columns[-1] + 1))
    kind = checked_outputs(model, variables, images, score, outputs)
    return area(_region_curve(model, variables, images, ground, score, importance, regions, count, "sum", kind))


def irof(
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    importance: Importance,
    *,
    regions: Regions | None = None,
    outputs: str | None = None,
) -> Each:
    """IROF: area over the probability while superpixels are removed, as a share of the first: higher is better.

    ``mean over removals of 1 - p(x without the first k regions) / p(x)``, regions in the order of their mean
    importance, each becoming the image's mean colour. Rieger and Hansen, "IROF: a low resource evaluation metric for
    explanation methods", ICLR workshop 2020 (arXiv:2003.08747). At most 1; below 0 where the probability rises.

    Args:
        model: as in :func:`~interpret.metrics.deletion`.
        variables: as in :func:`~interpret.metrics.deletion`.
        images: as in :func:`~interpret.metrics.deletion`.
        target: as in :func:`~interpret.metrics.deletion`.
        importance: as in :func:`~interpret.metrics.deletion`.
        regions: a region's number for each pixel, from 0; those of :func:`interpret.superpixels` if not given.
        outputs: as in :func:`~interpret.metrics.deletion`.

    Raises:
        FaceflaxError: as in :func:`~interpret.metrics.deletion`, or regions that do not fit.
    """
    images, score, importance = checked_importance(model, variables, images, target, importance)
    regions = superpixels(images) if regions is None else jnp.asarray(regions)
    if regions.shape != images.shape[:3] or not jnp.issubdtype(regions.dtype, jnp.integer):
        raise FaceflaxError(
            "regions", regions.shape, f"shape {{}} and type {regions.dtype} are not integers {images.shape[:3]}"
        )
    mean = jnp.broadcast_to(images.mean((1, 2), keepdims=True), images.shape)
    kind = checked_outputs(model, variables, images, score, outputs)
    count = int(regions.max()) + 1
    curve = _region_curve(model, variables, images, mean, score, importance, regions, count, "mean", kind)
    # Numbers that an image does not use are regions of no pixels, which come last and change nothing.
    used = jax.vmap(lambda one: jnp.bincount(one.ravel(), length=count) > 0)(regions).sum(1)
    first = curve[:, :1]
    shares = jnp.where(first > 0, curve / jnp.where(first > 0, first, 1), 1)
    removed = (jnp.arange(count + 1)[None] >= 1) & (jnp.arange(count + 1)[None] <= used[:, None])
    return (jnp.where(removed, 1 - shares, 0)).sum(1) / used


def monotonicity(
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    importance: Importance,
    *,
    baseline: float | Images = 0.0,
    steps: int = 32,
    outputs: str | None = None,
) -> Each:
    """How often the class's probability does not fall as pixels come in, least important first: in [0, 1]; higher is
    better.

    The share of ``steps`` in which ``p`` does not fall; 1 is monotonic in the sense of Arya et al., "One Explanation
    Does Not Fit All", 2019 (arXiv:1909.03012). The last pixels to come should be those that raise it.

    Args:
        model: as in :func:`~interpret.metrics.deletion`.
        variables: as in :func:`~interpret.metrics.deletion`.
        images: as in :func:`~interpret.metrics.deletion`.
        target: as in :func:`~interpret.metrics.deletion`.
        importance: as in :func:`~interpret.metrics.deletion`.
        baseline: what the image comes in from; 0 is middle grey.
        steps: in how many equal parts of its pixels.
        outputs: as in :func:`~interpret.metrics.deletion`.

    Raises:
        FaceflaxError: as in :func:`~interpret.metrics.deletion`.
    """
    importance = -checked_maps("importance", importance, dimensions=3)
    curve = insertion_curve(
        model, variables, images, target, importance, baseline=baseline, steps=steps, outputs=outputs
    )
    return (jnp.diff(curve, axis=1) >= -1e-7).mean(1)


def sufficiency(
    attributions: Float[Array, "batch ..."], labels: Int[np.ndarray, " batch"], *, neighbours: int = 5
) -> Each:
    """How often images with like maps have the same label: in [0, 1]; higher is better.

    For each image the share, among the ``neighbours`` whose maps are nearest by the cosine of their angle, of those
    with its label. After Dasgupta, Frost and Moshkovitz, "Framework for Evaluating Faithfulness of Local Explanations",
    ICML 2022 (arXiv:2202.00734), who take all within a distance that depends on the maps' scale. Chance is the label's
    share of the images.

    Args:
        attributions: maps of a set of images, a batch first.
        labels: what the network predicts for each.
        neighbours: how many.

    Raises:
        FaceflaxError: maps with NaN or infinity, labels that do not fit, or more neighbours than other images.

    Example:
        >>> maps = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> print(sufficiency(maps, np.array([0, 0, 1, 0]), neighbours=1))
        [1. 1. 0. 0.]
    """
    maps = checked_maps("attributions", attributions)
    rows = maps.reshape(maps.shape[0], -1)
    if np.shape(labels) != rows.shape[:1]:
        raise FaceflaxError("labels", np.shape(labels), f"shape {{}} is not one for each of {len(rows)} maps")
    at_least("neighbours", neighbours, 1, len(rows) - 1)
    length = jnp.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / jnp.where(length > 0, length, 1)
    likeness = unit @ unit.T - 9 * jnp.eye(len(rows))  # not itself
    nearest = jnp.argsort(-likeness, axis=1, stable=True)[:, :neighbours]
    classes = jnp.asarray(labels)
    return (classes[nearest] == classes[:, None]).mean(1)


@partial(compiled, static=("model", "steps", "outputs"))
def _road_curve(
    model: Model,
    variables: Any,
    images: Images,
    score: Any,
    rank: Float[Array, "batch height width 1"],
    steps: int,
    noise: float,
    outputs: str,
) -> Float[Array, "batch points"]:
    pixels = images.shape[1] * images.shape[2]
    added = noise * jax.random.normal(jax.random.key(0), (1, *images.shape[1:]), images.dtype)

    def probability(removed: Array) -> Each:
        gone = rank < removed
        logits, features = apply(model, variables, jnp.where(gone, filled(images, gone) + added, images))
        return score.of(probabilities(logits, outputs), features)

    return jax.lax.map(probability, jnp.round(jnp.arange(steps) / steps * pixels)).T


def filled(images: Images, gone: Array, *, rounds: int = 200) -> Images:
    """Images whose pixels that are gone are the weighted mean of those around them, by conjugate gradients.

    Args:
        images: ``[batch, height, width, channels]``.
        gone: which pixels, ``[batch, height, width, 1]``; where all of an image are, they become zero.
        rounds: of conjugate gradients, at most.
    """
    weights = jnp.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]], images.dtype)[:, :, None, None] / 12
    layout = ("NHWC", "HWIO", "NHWC")

    def around(x: Array) -> Array:
        planes = x.transpose(0, 3, 1, 2).reshape(-1, *x.shape[1:3], 1)
        mixed = jax.lax.conv_general_dilated(planes, weights, (1, 1), "SAME", dimension_numbers=layout)
        return mixed.reshape(x.shape[0], x.shape[3], *x.shape[1:3]).transpose(0, 2, 3, 1)

    degree = around(jnp.ones_like(images))
    free = gone.astype(images.dtype)

    def system(x: Array) -> Array:
        x = x * free
        return free * (degree * x - around(x))

    def dot(a: Array, b: Array) -> Array:
        return (a * b).sum((1, 2, 3), keepdims=True)

    def step(_: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, left, way = state
        size, moved = dot(left, left), system(way)
        along = dot(way, moved)
        part = jnp.where(along > 0, size / jnp.where(along > 0, along, 1), 0)
        x, left = x + part * way, left - part * moved
        grown = jnp.where(size > 0, dot(left, left) / jnp.where(size > 0, size, 1), 0)
        return x, left, left + grown * way

    known = jnp.where(gone, 0, images)
    start = free * around(known)
    solved = jax.lax.fori_loop(0, rounds, step, (jnp.zeros_like(images), start, start))[0]
    return jnp.where(gone, solved, images)


@partial(compiled, static=("model", "count", "by", "outputs"))
def _region_curve(
    model: Model,
    variables: Any,
    images: Images,
    ground: Images,
    score: Any,
    importance: Importance,
    regions: Regions,
    count: int,
    by: str,
    outputs: str,
) -> Float[Array, "batch points"]:
    """The class's probability while regions become ``ground``, those of the highest sum or mean importance first."""

    def order(values: Array, one: Array) -> Array:
        members = jax.nn.one_hot(one.ravel(), count, dtype=values.dtype)
        sums, sizes = values.ravel() @ members, members.sum(0)
        level = sums / jnp.maximum(sizes, 1) if by == "mean" else sums
        return jnp.argsort(jnp.argsort(-jnp.where(sizes > 0, level, -jnp.inf), stable=True))[one]

    rank = jax.vmap(order)(importance, regions)[..., None]

    def probability(removed: Array) -> Each:
        logits, features = apply(model, variables, jnp.where(rank < removed, ground, images))
        return score.of(probabilities(logits, outputs), features)

    return jax.lax.map(probability, jnp.arange(count + 1)).T
