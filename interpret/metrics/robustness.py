"""Robustness: how far a map moves when the image hardly does."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from faceflax.errors import FaceflaxError
from interpret.attribution import Method, apply, at_least, checked_images
from interpret.compiling import compiled
from interpret.graph import Images, Model
from interpret.metrics.common import Each
from interpret.targets import Target


def max_sensitivity(
    method: Method,
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    *,
    key: PRNGKeyArray,
    radius: float = 0.04,
    samples: int = 10,
) -> Each:
    """How far a map moves, at most, when the image hardly does: 0 or more; lower is better.

    ``max_y |A(y) - A(x)| / |A(x)|`` over ``samples`` random ``y`` whose pixels are within ``radius`` of those of ``x``,
    with Euclidean norms. Yeh et al., NeurIPS 2019 (arXiv:1901.09392); relative, so that maps of different scales
    compare. It is a lower bound of the true maximum. A map that ignores the image scores 0, one of zeros that does not
    stay so infinity.

    Args:
        method: an attribution method; must be traceable by ``jax.jit``, as all of :mod:`interpret` are.
        model: as in :func:`deletion`.
        variables: as in :func:`deletion`.
        images: as in :func:`deletion`.
        target: what the method explains.
        key: of the changes.
        radius: the largest change of a pixel, in the images' units.
        samples: how many changed copies of each image.

    Raises:
        FaceflaxError: as the method, maps with NaN or infinity, no samples, or a negative radius.

    Example:
        >>> def identity(model, variables, images, target):
        ...     return images
        >>> images = jnp.ones((1, 5, 5, 1))
        >>> sensitivity = max_sensitivity(identity, None, {}, images, 0, key=jax.random.key(0), radius=0.1)
        >>> bool(0 < sensitivity[0] <= 0.1)
        True
    """
    at_least("samples", samples, 1)
    at_least("radius", radius, 0)
    images = checked_images(images)
    return _finite(_sensitivities(method, model, variables, images, target, key, radius, samples).max(0))


def avg_sensitivity(
    method: Method,
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    *,
    key: PRNGKeyArray,
    radius: float = 0.04,
    samples: int = 10,
) -> Each:
    """How far a map moves, on average, when the image hardly does: 0 or more; lower is better.

    ``mean over y of |A(y) - A(x)| / |A(x)|``, over the changes of :func:`max_sensitivity`. Yeh et al., NeurIPS 2019
    (arXiv:1901.09392).

    Args:
        method: as in :func:`max_sensitivity`.
        model: as in :func:`max_sensitivity`.
        variables: as in :func:`max_sensitivity`.
        images: as in :func:`max_sensitivity`.
        target: as in :func:`max_sensitivity`.
        key: as in :func:`max_sensitivity`.
        radius: as in :func:`max_sensitivity`.
        samples: as in :func:`max_sensitivity`.

    Raises:
        FaceflaxError: as in :func:`max_sensitivity`.
    """
    at_least("samples", samples, 1)
    at_least("radius", radius, 0)
    images = checked_images(images)
    return _finite(_sensitivities(method, model, variables, images, target, key, radius, samples).mean(0))


def relative_input_stability(
    method: Method,
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    *,
    key: PRNGKeyArray,
    radius: float = 0.04,
    samples: int = 10,
) -> Each:
    """How much farther a map moves than the image, both relatively: 0 or more; lower is better.

    ``max over y of |(A(y) - A(x)) / A(x)| / |(y - x) / x|`` with quotients pixel by pixel and Euclidean norms, over
    those changes ``y`` that leave the predicted class. Agarwal, Johnson, Pawelczyk et al., "Rethinking Stability for
    Attribution-based Explanations", 2022 (arXiv:2203.06877). Pixels that are zero, in the map or in the image, count
    with a thousandth of the largest magnitude in their place, since nothing can be divided by them. 0 if all changes
    alter the prediction.

    Args:
        method: as in :func:`max_sensitivity`.
        model: as in :func:`max_sensitivity`.
        variables: as in :func:`max_sensitivity`.
        images: as in :func:`max_sensitivity`.
        target: as in :func:`max_sensitivity`.
        key: as in :func:`max_sensitivity`.
        radius: as in :func:`max_sensitivity`.
        samples: as in :func:`max_sensitivity`.

    Raises:
        FaceflaxError: as in :func:`max_sensitivity`.
    """
    at_least("samples", samples, 1)
    at_least("radius", radius, 0)
    images = checked_images(images)
    return _finite(_stabilities(method, model, variables, images, target, key, radius, samples, "input"))


def relative_output_stability(
    method: Method,
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    *,
    key: PRNGKeyArray,
    radius: float = 0.04,
    samples: int = 10,
) -> Each:
    """How much a map moves, relatively, for how much the logits do: 0 or more; lower is better.

    ``max over y of |(A(y) - A(x)) / A(x)| / |h(y) - h(x)|`` with the logits ``h``, else as
    :func:`relative_input_stability`. Agarwal et al., 2022 (arXiv:2203.06877). Changes that leave the logits where they
    are do not count.

    Args:
        method: as in :func:`max_sensitivity`.
        model: as in :func:`max_sensitivity`.
        variables: as in :func:`max_sensitivity`.
        images: as in :func:`max_sensitivity`.
        target: as in :func:`max_sensitivity`.
        key: as in :func:`max_sensitivity`.
        radius: as in :func:`max_sensitivity`.
        samples: as in :func:`max_sensitivity`.

    Raises:
        FaceflaxError: as in :func:`max_sensitivity`.
    """
    at_least("samples", samples, 1)
    at_least("radius", radius, 0)
    images = checked_images(images)
    return _finite(_stabilities(method, model, variables, images, target, key, radius, samples, "output"))


def continuity(
    method: Method,
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    *,
    key: PRNGKeyArray,
    radius: float = 0.04,
    samples: int = 10,
) -> Each:
    """How steeply a map changes: 0 or more, in map per pixel value; lower is better, among maps of one scale.

    ``max over y of |A(y) - A(x)|_1 / |y - x|_2`` over the changes of :func:`max_sensitivity`. Montavon, Samek and
    Müller, "Methods for Interpreting and Understanding Deep Neural Networks", DSP 2018 (arXiv:1706.07979).

    Args:
        method: as in :func:`max_sensitivity`.
        model: as in :func:`max_sensitivity`.
        variables: as in :func:`max_sensitivity`.
        images: as in :func:`max_sensitivity`.
        target: as in :func:`max_sensitivity`.
        key: as in :func:`max_sensitivity`.
        radius: as in :func:`max_sensitivity`.
        samples: as in :func:`max_sensitivity`.

    Raises:
        FaceflaxError: as in :func:`max_sensitivity`.
    """
    at_least("samples", samples, 1)
    at_least("radius", radius, 0)
    images = checked_images(images)
    return _finite(_stabilities(method, model, variables, images, target, key, radius, samples, "steepness"))


def _finite(numbers: Each) -> Each:
    if not isinstance(numbers, jax.core.Tracer):
        bad = np.flatnonzero(np.isnan(numbers))
        if bad.size:
            raise FaceflaxError("method", bad[0], "its map of image {} or of one near it holds NaN or infinity")
    return numbers


@partial(compiled, static=("method", "model", "samples", "kind"))
def _stabilities(
    method: Method,
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    key: PRNGKeyArray,
    radius: float,
    samples: int,
    kind: str,
) -> Each:
    def maps(images: Images) -> Images:
        made = method(model, variables, images, target)
        return made.astype(jnp.promote_types(made.dtype, jnp.float32))

    def norm(values: Array) -> Each:
        return jnp.sqrt((values.reshape(values.shape[0], -1) ** 2).sum(1))

    def divisor(values: Images) -> Images:
        floor = 1e-3 * jnp.abs(values).max((1, 2, 3), keepdims=True)
        floor = jnp.where(floor > 0, floor, 1)
        return jnp.where(jnp.abs(values) > floor, values, floor)

    here = maps(images)
    logits = None if kind == "steepness" else apply(model, variables, images)[0]

    def moved(key: PRNGKeyArray) -> Each:
        change = jax.random.uniform(key, images.shape, images.dtype, -radius, radius)
        there = maps(images + change) - here
        if logits is None:
            above, below = jnp.abs(there).sum((1, 2, 3)), norm(change)
            return jnp.where(below > 0, above / jnp.where(below > 0, below, 1), 0)
        other = apply(model, variables, images + change)[0]
        above = norm(there / divisor(here))
        below = norm(change / divisor(images)) if kind == "input" else norm(other - logits)
        same = other.argmax(1) == logits.argmax(1)
        return jnp.where(same & (below > 0) | jnp.isnan(above), above / jnp.where(below > 0, below, 1), 0)

    return jax.lax.map(moved, jax.random.split(key, samples)).max(0)


@partial(compiled, static=("method", "model", "samples"))
def _sensitivities(
    method: Method,
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    key: PRNGKeyArray,
    radius: float,
    samples: int,
) -> Float[Array, "samples batch"]:
    def maps(images: Images) -> Images:
        made = method(model, variables, images, target)
        return made.astype(jnp.promote_types(made.dtype, jnp.float32))

    here = maps(images)
    scale = jnp.abs(here).max((1, 2, 3), keepdims=True)
    scale = jnp.where(scale == 0, 1, scale)

    def norm(maps: Images) -> Each:
        return jnp.sqrt(((maps / scale) ** 2).sum((1, 2, 3)))

    def moved(key: PRNGKeyArray) -> Each:
        change = jax.random.uniform(key, images.shape, images.dtype, -radius, radius)
        return norm(maps(images + change) - here)

    distances = jax.lax.map(moved, jax.random.split(key, samples))
    return jnp.where(distances == 0, 0, distances / norm(here)[None])
