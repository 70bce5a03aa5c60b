"""Methods that show some regions of an image and hide the others: ablation, Shapley values, KernelSHAP, LIME.

The regions are ``segments``, an integer for each pixel: squares of a grid, superpixels (:func:`superpixels`, or
scikit-image's ``slic``), or any mask of one's own. Every method returns one number a region, drawn on its pixels.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from faceflax.errors import FaceflaxError
from interpret.attribution import apply, at_least, checked_baseline, method
from interpret.copies import OPTIONS, Progress, every, total
from interpret.graph import Images, Model
from interpret.targets import Target

CELLS = 4
"""Squares down and across where no segments are given."""

Segments = Int[Array, "#batch height width"]
Shown = Float[Array, " regions"]
"""For each region 1 or 0, whether it shows the image."""


def superpixels(images: Images, count: int = 36, *, compactness: float = 0.3, steps: int = 10) -> Segments:
    """Divides images into regions of similar colour: SLIC.

    From a grid of centres on, each pixel joins the nearest centre, and each centre moves to its pixels' mean, by the
    distance ``|colour - colour'|^2 + (compactness |place - place'| / spacing)^2``. Achanta et al., "SLIC Superpixels
    Compared to State-of-the-Art Superpixel Methods", IEEE TPAMI 2012; here of the image's own channels, and a region
    may be in several pieces.

    Args:
        images: ``[batch, height, width, channels]``.
        count: about how many regions.
        compactness: how much places count against colours, in the images' units.
        steps: of moving the centres.

    Returns:
        Integers ``[batch, height, width]``, as the methods take ``segments``.

    Example:
        >>> halves = jnp.where(jnp.arange(8) < 4, -1.0, 1.0).reshape(1, 1, 8, 1) * jnp.ones((1, 8, 1, 1))
        >>> regions = superpixels(halves, 4)
        >>> sorted(set(np.asarray(regions[0, 2]).tolist()))  # no region crosses the edge
        [0, 1]
    """
    at_least("count", count, 1)
    at_least("compactness", compactness, 0)
    _, height, width, _ = images.shape
    down = max(1, min(height, round((count * height / width) ** 0.5)))
    across = max(1, min(width, round(count / down)))
    spacing = (height * width / (down * across)) ** 0.5
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    places = jnp.stack([rows, columns], -1).astype(images.dtype) * (compactness / spacing)
    at = [((np.arange(n) + 0.5) * size / n).astype(int) for n, size in ((down, height), (across, width))]

    def divide(image: Array) -> Int[Array, "height width"]:
        points = jnp.concatenate([image, places], -1)
        pixels = points.reshape(height * width, -1)
        centres = points[at[0][:, None], at[1][None]].reshape(down * across, -1)

        def nearest(centres: Array) -> Array:
            return ((pixels[:, None] - centres[None]) ** 2).sum(-1).argmin(1)

        def move(_: int, centres: Array) -> Array:
            members = jax.nn.one_hot(nearest(centres), len(centres), dtype=pixels.dtype)
            sizes = members.sum(0)[:, None]
            return jnp.where(sizes > 0, members.T @ pixels / jnp.maximum(sizes, 1), centres)

        return nearest(jax.lax.fori_loop(0, steps, move, centres)).reshape(height, width)

    return jax.vmap(divide)(images)


def _regions(images: Images, arguments: dict[str, Any]) -> dict[str, Any]:
    """Checks ``segments`` and says how many there are, which the compiled program depends on."""
    segments = arguments.get("segments")
    _, height, width, _ = images.shape
    if segments is None:
        rows, columns = (np.arange(size) * min(CELLS, size) // size for size in (height, width))
        segments = (rows[:, None] * min(CELLS, width) + columns[None])[None]
    if isinstance(segments, jax.core.Tracer):
        raise FaceflaxError("segments", None, "their number must be known", "leave them out of jax.jit's arguments")
    segments = np.asarray(segments)
    segments = segments[None] if segments.ndim == 2 else segments
    if segments.ndim != 3 or segments.shape[1:] != (height, width) or len(segments) not in (1, len(images)):
        raise FaceflaxError(
            "segments",
            segments.shape,
            f"shape {{}} is neither {(height, width)} nor {images.shape[:3]}",
            "give a region's number for each pixel",
        )
    if segments.dtype != bool and not np.issubdtype(segments.dtype, np.integer):
        raise FaceflaxError("segments", segments.dtype, "is no integer type", "give a region's number for each pixel")
    if segments.min() < 0:
        raise FaceflaxError("segments", segments.min(), "is negative", "number regions from 0")
    numbers, inverse = np.unique(segments, return_inverse=True)
    return {**arguments, "segments": jnp.asarray(inverse.reshape(segments.shape)), "regions": len(numbers)}


class _Game:
    """The score of an image of which some regions are shown, less that of the image of which none is."""

    def __init__(
        self, model: Model, variables: Any, images: Images, target: Any, segments: Any, ground: Images
    ) -> None:
        self.target = target.fixed(*apply(model, variables, images))
        self._seen = images, ground, segments
        self._of = lambda x: self.target.of(*apply(model, variables, x))
        self.nothing = self._of(ground)
        self.everything = self._of(images) - self.nothing

    def __call__(self, shown: Shown) -> Float[Array, " batch"]:
        images, ground, segments = self._seen
        return self._of(jnp.where(shown[segments][..., None] > 0, images, ground)) - self.nothing

    def drawn(self, values: Float[Array, "batch regions"]) -> Images:
        """One number a region, on its pixels."""
        images, _, segments = self._seen
        segments = jnp.broadcast_to(segments, images.shape[:3])
        maps = jax.vmap(lambda value, region: value[region])(values, segments)
        return jnp.broadcast_to(maps[..., None], images.shape).astype(images.dtype)


@method("regions", *OPTIONS, prepare=_regions)
def feature_ablation(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    segments: Segments | np.ndarray | None = None,
    baseline: float | Images = 0.0,
    regions: int = 0,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Images:
    """Feature ablation: how much the score falls when a region is hidden.

    ``A_r = s(x) - s(x without r)``. The oldest of perturbation methods (Zeiler and Fergus, ECCV 2014, arXiv:1311.2901,
    with squares), here with regions of any shape. Misleads: two regions that each suffice get nothing, and what a
    region becomes when hidden is itself something to see.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`; the highest activation is that of the whole image.
        layer: as in :func:`~interpret.gradients.gradient`.
        segments: an integer for each pixel, ``[height, width]`` for all images or ``[batch, height, width]``: pixels
            with the same are one region. A grid of 4 by 4 if not given. Known values, not those of a transform.
        baseline: what a hidden pixel becomes, as in :func:`~interpret.perturbation.occlusion`.
        regions: found by the method itself; leave it out.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        Signed attribution of the shape of ``images``: on each pixel, its region's number.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.gradient`, or segments or a baseline that do not fit.

    Example:
        >>> import flax.linen as nn
        >>> class Sum(nn.Module):
        ...     def __call__(self, images, train=False):
        ...         return images.sum((1, 2)), {}
        >>> images = jnp.array([1.0, 2.0, 4.0]).reshape(1, 1, 3, 1)
        >>> print(feature_ablation(Sum(), {}, images, 0, segments=np.array([[0, 1, 1]])).ravel())
        [1. 6. 6.]
    """
    game = _Game(model, variables, images, target, segments, checked_baseline(baseline, images))

    def fall(region: Array) -> Float[Array, " batch"]:
        return game.everything - game((jnp.arange(regions) != region).astype(images.dtype))

    return game.drawn(every(fall, regions, images.shape[0], internal_batch_size, progress).T)


@method("regions", "permutations", "seed", *OPTIONS, prepare=_regions)
def shapley_sampling(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    segments: Segments | np.ndarray | None = None,
    baseline: float | Images = 0.0,
    permutations: int = 32,
    seed: int = 0,
    regions: int = 0,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Images:
    """Shapley value sampling: what a region adds to the score, averaged over random orders in which regions appear.

    ``A_r = mean over orders of s(those before r, and r) - s(those before r)``; every other order is the one before it
    reversed, which lowers the noise. It sums to ``s(x) - s(b)`` exactly, and goes to the Shapley values of the game
    "which regions are shown". Castro, Gómez and Tejada, "Polynomial calculation of the Shapley value based on
    sampling", Computers & Operations Research 2009; of attributions, Štrumbelj and Kononenko, JMLR 2010. Misleads: most
    orders show the network images with most of it hidden, which it never learned.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`feature_ablation`.
        layer: as in :func:`~interpret.gradients.gradient`.
        segments: as in :func:`feature_ablation`.
        baseline: as in :func:`feature_ablation`.
        permutations: how many orders; each costs as many images as there are regions.
        seed: of the orders, the same for all images.
        regions: as in :func:`feature_ablation`.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        Signed attribution of the shape of ``images``: on each pixel, its region's number.

    Raises:
        FaceflaxError: as in :func:`feature_ablation`, or no permutations.
    """
    at_least("permutations", permutations, 1)
    game = _Game(model, variables, images, target, segments, checked_baseline(baseline, images))

    def one(i: Array) -> Float[Array, "batch regions"]:
        """What an order's first ``shown`` regions together say for the last of them, and against the one to come."""
        number, shown = i // regions, i % regions + 1
        order = jax.random.permutation(jax.random.fold_in(jax.random.key(seed), number // 2), regions)
        order = jnp.where(number % 2 == 0, order, order[::-1])
        value = game((jnp.argsort(order) < shown).astype(images.dtype))
        last = jax.nn.one_hot(order[shown - 1], regions, dtype=value.dtype)
        next_one = jnp.where(shown < regions, jax.nn.one_hot(order[shown % regions], regions, dtype=value.dtype), 0)
        return value[:, None] * (last - next_one)[None]

    sums = total(one, permutations * regions, images.shape[0], internal_batch_size, progress)
    return game.drawn(sums / permutations)


@method("regions", "samples", "seed", *OPTIONS, prepare=_regions)
def kernel_shap(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    segments: Segments | np.ndarray | None = None,
    baseline: float | Images = 0.0,
    samples: int = 512,
    seed: int = 0,
    regions: int = 0,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Images:
    """KernelSHAP: the linear function of "which regions are shown" that comes closest to the score.

    Least squares over ``samples`` sets of regions, drawn in pairs of a set and what it leaves, of size ``k`` in
    proportion to ``1 / (k (R - k))`` (the Shapley kernel), among the functions that are ``s(x) - s(b)`` where all are
    shown: so the map sums to that. Where all sets are fewer than ``samples``, all are taken by their weights, and the
    map is of exact Shapley values. Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS
    2017 (arXiv:1705.07874); Covert and Lee, AISTATS 2021 (arXiv:2012.01536) for the pairs. Misleads: as
    :func:`shapley_sampling`; with few samples its noise looks like structure.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`feature_ablation`.
        layer: as in :func:`~interpret.gradients.gradient`.
        segments: as in :func:`feature_ablation`; two regions or more.
        baseline: as in :func:`feature_ablation`.
        samples: how many sets of regions, at least four times their number.
        seed: of the sets, the same for all images.
        regions: as in :func:`feature_ablation`.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        Signed attribution of the shape of ``images``: on each pixel, its region's number.

    Raises:
        FaceflaxError: as in :func:`feature_ablation`, one region alone, or too few samples.
    """
    if regions < 2:
        raise FaceflaxError("segments", None, "make one region", "give two or more")
    sizes = np.arange(1, regions)
    kernel = 1 / (sizes * (regions - sizes))
    few = regions < 31 and 2**regions - 2 <= samples
    if few:
        count = 2**regions - 2
        ways = np.array([math.comb(regions, int(k)) for k in sizes])
        weights = jnp.asarray(np.concatenate([[0], kernel / ways]), jnp.float32)
    else:
        at_least("samples", samples, 4 * regions)
        count = samples
    chances = jnp.asarray(np.log(kernel), jnp.float32)
    game = _Game(model, variables, images, target, segments, checked_baseline(baseline, images))

    def drawn(i: Array) -> tuple[Shown, Array]:
        if few:
            shown = ((i + 1) >> jnp.arange(regions)) & 1
            return shown.astype(jnp.float32), weights[shown.sum()]
        size, order = jax.random.split(jax.random.fold_in(jax.random.key(seed), i // 2))
        rank = jnp.argsort(jax.random.permutation(order, regions))
        shown = (rank < 1 + jax.random.categorical(size, chances)).astype(jnp.float32)
        return jnp.where(i % 2 == 0, shown, 1 - shown), jnp.ones(())

    def one(i: Array) -> tuple[Array, Array]:
        shown, weight = drawn(i)
        value = game(shown) - shown.mean() * game.everything  # less an even share, so that no digits are lost
        return weight * shown[:, None] * shown[None], weight * value[:, None] * shown[None]

    gram, products = total(one, count, images.shape[0], internal_batch_size, progress)
    ones = jnp.ones(regions, gram.dtype)
    solved = jnp.linalg.solve(gram, jnp.concatenate([products, ones[None]]).T).T
    free, even = solved[:-1], solved[-1]
    values = free - free.sum(1, keepdims=True) / even.sum() * even[None]
    return game.drawn(values + (game.everything / regions)[:, None])


@method("regions", "samples", "seed", "width", "ridge", *OPTIONS, prepare=_regions)
def lime(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    segments: Segments | np.ndarray | None = None,
    baseline: float | Images = 0.0,
    samples: int = 512,
    width: float = 0.25,
    ridge: float = 1.0,
    seed: int = 0,
    regions: int = 0,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Images:
    """LIME: a linear model of the score near the image, over which regions are shown.

    Ridge regression with an intercept over ``samples`` sets of regions, each shown with probability one half, weighted
    by ``exp(-d^2 / width^2)`` with ``d`` the cosine distance to the whole image. Ribeiro, Singh and Guestrin, "'Why
    Should I Trust You?': Explaining the Predictions of Any Classifier", KDD 2016 (arXiv:1602.04938); the defaults are
    those of the authors' image explainer. Misleads: width, regions and what hides them are choices that the map
    depends on, and the fit may be poor, which the map does not say.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`feature_ablation`.
        layer: as in :func:`~interpret.gradients.gradient`.
        segments: as in :func:`feature_ablation`; :func:`superpixels` makes those of the paper.
        baseline: as in :func:`feature_ablation`.
        samples: how many sets of regions.
        width: of the kernel; the smaller, the closer to the whole image the sets that count.
        ridge: how strongly coefficients are held near zero.
        seed: of the sets, the same for all images.
        regions: as in :func:`feature_ablation`.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        Signed attribution of the shape of ``images``: on each pixel, its region's coefficient.

    Raises:
        FaceflaxError: as in :func:`feature_ablation`, or an option out of its range.
    """
    at_least("samples", samples, 1)
    at_least("ridge", ridge, 1e-6)
    at_least("width", width, 1e-3)
    game = _Game(model, variables, images, target, segments, checked_baseline(baseline, images))

    def one(i: Array) -> tuple[Array, Array, Array, Array]:
        shown = jax.random.bernoulli(jax.random.fold_in(jax.random.key(seed), i), 0.5, (regions,)).astype(jnp.float32)
        distance = 1 - jnp.sqrt(shown.mean())  # the cosine of a set and the whole
        weight = jnp.exp(-((distance / width) ** 2))
        moved = (game(shown) - game.everything)[:, None]
        return weight, weight * shown, weight * shown[:, None] * shown[None], weight * moved * _with_one(shown)[None]

    weight, first, second, products = total(one, samples, images.shape[0], internal_batch_size, progress)
    mean, scores = first / weight, products[:, -1:] / weight
    gram = second - weight * mean[:, None] * mean[None] + ridge * jnp.eye(regions)
    centred = products[:, :-1] - scores * first[None]
    return game.drawn(jnp.linalg.solve(gram, centred.T).T)


def _with_one(shown: Shown) -> Float[Array, " regions+1"]:
    return jnp.concatenate([shown, jnp.ones(1, shown.dtype)])
