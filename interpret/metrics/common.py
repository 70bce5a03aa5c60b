"""What the metrics share: how much each pixel matters, and what is checked."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from faceflax.errors import FaceflaxError
from interpret.attribution import answer_shapes, checked_images, checked_maps
from interpret.graph import Images, Model
from interpret.targets import Target, as_score

Importance = Float[Array, "batch height width"]
Mask = Bool[Array, "batch height width"]
Each = Float[Array, " batch"]


def importance(attribution: Images, *, signed: bool) -> Importance:
    """How much each pixel matters, by an attribution: its channels' sum, with or without their signs.

    Args:
        attribution: what a method returned, ``[batch, height, width, channels]``.
        signed: whether the sign says if a pixel speaks for the target (as in gradient x input, integrated gradients,
            class activation maps, LRP, occlusion, RISE), so that negative pixels matter least. False where the sign
            says which way a pixel's brightness acts (gradient, guided backprop, deconvnet), so that the magnitude
            counts.

    Raises:
        FaceflaxError: the attribution is not of that rank, or holds NaN or infinity.

    Example:
        >>> pixel = jnp.array([[[[1.0, -3.0]]]])
        >>> print(importance(pixel, signed=False), importance(pixel, signed=True))
        [[[4.]]] [[[-2.]]]
    """
    attribution = checked_maps("attribution", attribution, dimensions=4)
    return (attribution if signed else jnp.abs(attribution)).sum(-1)


def checked_target(model: Model, variables: Any, images: Any, target: Target) -> tuple[Images, Any]:
    """Returns images and the target's score, or raises what is wrong with them."""
    images = checked_images(images)
    return images, as_score(target, "last_conv", *answer_shapes(model, variables, images))


def checked_pair(importance: Any, mask: Any) -> tuple[Importance, Mask]:
    """Returns importance and a mask of booleans, or raises what is wrong with them."""
    importance = checked_maps("importance", importance, dimensions=3)
    mask = mask if isinstance(mask, jax.Array) else np.asarray(mask)
    if mask.shape != importance.shape:
        raise FaceflaxError("mask", mask.shape, f"shape {{}} is not that of importance {importance.shape}")
    if mask.dtype != bool:
        if isinstance(mask, jax.core.Tracer):
            raise FaceflaxError("mask", mask.dtype, "is not bool", "give mask > 0.5, or whatever makes it so")
        odd = np.asarray(mask)[(mask != 0) & (mask != 1)]
        if odd.size:
            remedy = "give the pixels that should matter as booleans, such as mask > 127"
            raise FaceflaxError("mask", odd.flat[0], "its value {} is neither 0 nor 1", remedy)
    return importance, jnp.asarray(mask, bool)


def unit(values: Array, axis: int | tuple[int, ...]) -> Array:
    """Values with a largest magnitude of one along axes, so that no square or sum of them is lost; zeros stay."""
    largest = jnp.abs(values).max(axis, keepdims=True)
    return values / jnp.where(largest > 0, largest, 1)
