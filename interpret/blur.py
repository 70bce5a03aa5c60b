"""A Gaussian blur that keeps flat images flat."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from interpret.graph import Images


def blurred(images: Images, sigma: float | Float[Array, ""]) -> Images:
    """Images behind a Gaussian blur whose weights are cut off, and sum to 1 again, at the borders.

    Args:
        images: ``[batch, height, width, channels]``.
        sigma: standard deviation in pixels, above 0.
    """

    def weights(size: int) -> Float[Array, "size size"]:
        distance = jnp.arange(size)[:, None] - jnp.arange(size)[None]
        bell = jnp.exp(-0.5 * (distance / sigma) ** 2)
        return (bell / bell.sum(1, keepdims=True)).astype(images.dtype)

    height, width = images.shape[1:3]
    return jnp.einsum("ij,kl,bjlc->bikc", weights(height), weights(width), images)
