"""Gradients along other ways from nothing to the image: from many baselines, where it is flat, out of a blur."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from faceflax.errors import FaceflaxError
from interpret.attribution import apply, at_least, checked_baseline, method
from interpret.blur import blurred
from interpret.copies import OPTIONS, Progress, total
from interpret.graph import Images, Model
from interpret.targets import Target

FLAT = 8
"""How many flat images stand for nothing to see where no baselines are given."""


@method("samples", "noise", "seed", *OPTIONS)
def expected_gradients(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    baselines: Images | None = None,
    samples: int = 64,
    noise: float = 0.0,
    seed: int = 0,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Images:
    """Expected gradients, or GradientSHAP: integrated gradients from many baselines, one random step from each.

    ``A = mean over n of (x - b_n) (d s / d x)(b_n + t_n (x + e_n - b_n))`` with ``b_n`` the baselines in turn, ``t_n``
    uniform in [0, 1] (one in each of ``samples`` equal parts, so that the ways are covered evenly) and noise ``e_n``.
    On average it sums to ``s(x)`` less the baselines' mean score. Erion, Janizek, Sturmfels, Lundberg and Lee,
    "Improving Performance of Deep Learning Models with Axiomatic Attribution Priors and Expected Gradients", Nature
    Machine Intelligence 2021 (arXiv:1906.10670); with noise, Lundberg and Lee's GradientSHAP (arXiv:1705.07874).
    Misleads: it compares with these baselines and no others, and few samples leave noise.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`~interpret.gradients.gradient`.
        baselines: ``[count, height, width, channels]``, best images of the training set; flat ones over each image's
            own range if not given.
        samples: how many gradients; those of a multiple of the baselines' number use all alike.
        noise: standard deviation of what is added to the image, in its units.
        seed: of the steps and the noise, the same for all images.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.gradient`, or baselines of another shape.

    Example:
        >>> import flax.linen as nn
        >>> class Sum(nn.Module):
        ...     def __call__(self, images, train=False):
        ...         return images.sum((1, 2)), {}
        >>> images = jnp.array([1.0, -2.0]).reshape(1, 1, 2, 1)
        >>> print(expected_gradients(Sum(), {}, images, 0, baselines=jnp.zeros((1, 1, 2, 1))).ravel())
        [ 1. -2.]
    """
    at_least("samples", samples, 1)
    at_least("noise", noise, 0)
    grounds = checked_baselines(baselines, images)
    target = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]
    parts, jitter, drawn = jax.random.split(jax.random.key(seed), 3)
    order = jax.random.permutation(parts, samples)

    def one(i: Array) -> Images:
        ground = grounds[i % len(grounds)]
        step = (order[i] + jax.random.uniform(jax.random.fold_in(jitter, i))) / samples
        moved = images
        if noise:
            added = jax.random.normal(jax.random.fold_in(drawn, i), (1, *images.shape[1:]), jnp.float32)
            moved = images + (noise * added).astype(images.dtype)
        place = ground + step.astype(images.dtype) * (moved - ground)
        gradient = jax.grad(lambda x: target.of(*apply(model, variables, x)).sum())(place)
        return (images - ground) * gradient

    return total(one, samples, images.shape[0], internal_batch_size, progress) / samples


@method("steps", "fraction", "distance")
def guided_integrated_gradients(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    baseline: float | Images = 0.0,
    steps: int = 50,
    fraction: float = 0.25,
    distance: float = 0.1,
) -> Images:
    """Guided IG: integrated gradients on a way that changes first the pixels whose gradients are smallest.

    At each of ``steps``, the ``fraction`` of pixels with the smallest ``|d s / d x|`` moves towards the image until the
    way's L1 length is on schedule, no pixel being farther than ``distance`` from the straight line; each move adds
    ``move * d s / d x``. Kapishnikov, Venugopalan, Avci, Wedin, Terry and Bolukbasi, "Guided Integrated Gradients: An
    Adaptive Path Method for Removing Noise", CVPR 2021 (arXiv:2106.09788). Misleads: the way depends on the network
    itself; and the sum of a network with kinks, such as ReLUs, stays below ``s(x) - s(b)`` however many the steps, for
    those pixels are chosen to move whose gradient is small before they do.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`~interpret.gradients.gradient`.
        baseline: as in :func:`~interpret.gradients.integrated_gradients`.
        steps: one gradient each, one after another.
        fraction: of the pixels that move together.
        distance: from the straight way, as a share of it; 0 is integrated gradients.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.integrated_gradients`, or an option out of its range.
    """
    at_least("steps", steps, 1)
    at_least("fraction", fraction, 0, 1)
    at_least("distance", distance, 0, 1)
    start = checked_baseline(baseline, images)
    target = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]
    way = images - start

    def step(state: tuple[Images, Images], k: Array) -> tuple[tuple[Images, Images], None]:
        place, attribution = state
        gradient = jax.grad(lambda x: target.of(*apply(model, variables, x)).sum())(place)
        share = ((k + 1) / steps).astype(images.dtype)
        low, high = jnp.maximum(share - distance, 0), jnp.minimum(share + distance, 1)
        moved = jax.vmap(partial(_moved, share=share, fraction=fraction))(
            place, images, start, start + low * way, start + high * way, jnp.abs(gradient)
        )
        return (moved, attribution + (moved - place) * gradient), None

    zeros = jnp.zeros_like(images)
    return jax.lax.scan(step, (start, zeros), jnp.arange(steps))[0][1]


def _moved(
    place: Array, image: Array, start: Array, low: Array, high: Array, size: Array, *, share: Array, fraction: float
) -> Array:
    """The next place on one image's way: on schedule, by the pixels whose gradients are of the smallest ``size``."""
    place = jnp.where(jnp.abs(place - start) < jnp.abs(low - start), low, place)  # what has lagged too far behind
    left = jnp.abs(image - start).sum() * (1 - share)
    rank = int(fraction * (place.size - 1))

    def behind(state: tuple[Array, Array]) -> Array:
        return state[1]

    def move(state: tuple[Array, Array]) -> tuple[Array, Array]:
        place, _ = state
        free = place != high
        sizes = jnp.where(free, size, jnp.inf)
        chosen = free & (sizes <= jnp.sort(sizes.ravel())[rank])
        reach = jnp.where(chosen, jnp.abs(high - place), 0).sum()
        wanted = jnp.abs(image - place).sum() - left
        part = jnp.where(reach > 0, wanted / jnp.where(reach > 0, reach, 1), 1)
        moved = jnp.where(chosen, place + jnp.clip(part, 0, 1) * (high - place), place)
        return jnp.where(chosen & (part >= 1), high, moved), (part > 1) & free.any()

    return jax.lax.while_loop(behind, move, (place, jnp.array(True)))[0]


@method("steps", "sigma", *OPTIONS)
def blur_integrated_gradients(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    sigma: float | None = None,
    steps: int = 50,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Images:
    """Blur IG: the gradient summed while the image comes out of a blur, so that no flat baseline is needed.

    ``A = sum over k of (x_k - x_(k+1)) (d s / d x)`` at the blur between the two, where ``x_k`` is the image behind a
    Gaussian blur of ``sigma (k / steps)^2`` pixels. It sums to the image's score less that of the blurred one, up to
    the steps' error. Xu, Venugopalan and Sundararajan, "Attribution in Scale and Space", CVPR 2020 (arXiv:2004.03383).
    Misleads: what survives the strongest blur, such as a large even patch, gets nothing.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`~interpret.gradients.gradient`.
        sigma: standard deviation of the strongest blur, in pixels; half the image's longer side if not given.
        steps: as in :func:`~interpret.gradients.integrated_gradients`.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.gradient`, or an option out of its range.
    """
    at_least("steps", steps, 1)
    strongest = max(images.shape[1:3]) / 2 if sigma is None else sigma
    at_least("sigma", strongest, 0)
    target = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]

    def behind(k: Array) -> Images:
        return blurred(images, jnp.maximum(strongest * (k / steps) ** 2, 1e-6).astype(images.dtype))

    def one(k: Array) -> Images:
        gradient = jax.grad(lambda x: target.of(*apply(model, variables, x)).sum())(behind(k + 0.5))
        return (behind(k) - behind(k + 1)) * gradient

    return total(one, steps, images.shape[0], internal_batch_size, progress)


def checked_baselines(baselines: Any, images: Images) -> Float[Array, "count #batch height width channels"]:
    """Returns what stands for nothing to see, several for each image, or raises."""
    if baselines is None:
        low, high = (f(images, (1, 2, 3), keepdims=True) for f in (jnp.min, jnp.max))
        flat = [low + (i + 0.5) / FLAT * (high - low) for i in range(FLAT)]
        return jnp.broadcast_to(jnp.stack(flat), (FLAT, *images.shape))
    grounds = jnp.asarray(baselines, images.dtype)
    if grounds.ndim != 4 or grounds.shape[1:] != images.shape[1:] or not len(grounds):
        raise FaceflaxError(
            "baselines",
            grounds.shape,
            f"shape {{}} is not [count, {', '.join(map(str, images.shape[1:]))}]",
            "give images like those that are explained",
        )
    return grounds[:, None]
