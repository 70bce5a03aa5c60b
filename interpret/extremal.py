"""Extremal perturbation: the mask of a given area that keeps the score highest."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from faceflax.errors import FaceflaxError
from interpret.attribution import apply, at_least, method
from interpret.blur import blurred
from interpret.graph import Images, Model
from interpret.targets import Target


@method("area", "steps", "cells", "smoothness", "rate")
def extremal_perturbation(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    area: float = 0.1,
    steps: int = 200,
    cells: int = 12,
    smoothness: float = 1.0,
    rate: float = 0.1,
) -> Images:
    """Extremal perturbation: what of the image has to stay sharp for the score to be as high as it gets.

    ``m* = argmax over masks m in [0, 1] of s(m x + (1 - m) blurred x) / c - l |sort m - r_area|^2``, by Adam, where
    ``c`` is the larger of ``|s(x)|`` and ``|s(x) - s(blurred x)|``, ``r_area`` is 1 for the share ``area`` of the
    pixels and 0 elsewhere, and the weight ``l`` of the area grows on the way. The mask is a grid of ``cells``, enlarged
    and smoothed by a Gaussian of ``smoothness`` cells. Fong, Patrick and Vedaldi, "Understanding Deep Networks via
    Extremal Perturbations and Smooth Masks", ICCV 2019 (arXiv:1910.08485), with a Gaussian in place of their smooth
    maximum. Misleads: it is an optimum of many, found from one start, and a network is easily satisfied by less than
    what a person would call the object.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`; the highest activation is that of the whole image.
        layer: as in :func:`~interpret.gradients.gradient`.
        area: the share of the image that stays sharp.
        steps: of the ascent, one gradient each.
        cells: of the mask's grid, down and across.
        smoothness: standard deviation of the mask's blur, in cells.
        rate: Adam's learning rate.

    Returns:
        The mask, in [0, 1], of the shape of ``images``, the same in every channel.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.gradient`, or an option out of its range.
    """
    batch, height, width, _ = images.shape
    at_least("steps", steps, 1)
    at_least("cells", cells, 2)
    at_least("smoothness", smoothness, 1e-3)
    if not 0 < area < 1:
        raise FaceflaxError("area", area, "is out of range", "give a share between 0 and 1")
    target = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]
    gone = blurred(images, max(height, width) / 4)
    whole, nothing = (target.of(*apply(model, variables, x)) for x in (images, gone))
    scale = jnp.maximum(jnp.abs(whole - nothing), jnp.abs(whole))  # a blur may change the score by chance little
    scale = jnp.where(scale > 0, scale, 1)
    rows, columns = min(cells, height), min(cells, width)
    pixels = rows * columns
    reference = (jnp.arange(pixels) >= round((1 - area) * pixels)).astype(images.dtype)
    adam = optax.adam(rate, eps=1e-3)  # so that rounding in a gradient of nearly nothing does not steer

    def mask(free: Float[Array, "batch rows columns"]) -> Float[Array, "batch rows columns"]:
        return blurred(jax.nn.sigmoid(free)[..., None], smoothness)[..., 0]

    def enlarged(free: Float[Array, "batch rows columns"]) -> Images:
        return jax.image.resize(mask(free), (batch, height, width), "linear")[..., None]

    def loss(free: Float[Array, "batch rows columns"], weight: Array) -> Array:
        shown = enlarged(free)
        scores = target.of(*apply(model, variables, shown * images + (1 - shown) * gone)) / scale
        ordered = jnp.sort(mask(free).reshape(batch, -1), 1)
        return (weight * ((ordered - reference[None]) ** 2).mean(1) - scores).sum()

    def step(state: Any, k: Array) -> tuple[Any, None]:
        free, memory = state
        change, memory = adam.update(jax.grad(loss)(free, 3.0 + 27.0 * k / steps), memory)
        return (free + change, memory), None

    order = jax.random.permutation(jax.random.key(0), pixels).reshape(1, rows, columns)  # no two cells start as equals
    start = jnp.broadcast_to((order / pixels - 0.5).astype(images.dtype), (batch, rows, columns))
    (free, _), _ = jax.lax.scan(step, (start, adam.init(start)), jnp.arange(steps))
    return jnp.broadcast_to(enlarged(free), images.shape)
