"""ReLUs with another backward pass: what turns a gradient into guided backpropagation or a deconvnet.

Forward, each is the plain ReLU, so a network keeps its outputs when its activation is replaced by one of these. Being
``jax.custom_vjp`` functions they take reverse-mode differentiation only.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def guided_relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """ReLU whose backward pass keeps a gradient only where both it and the input are positive.

    With ``g`` the gradient arriving from above, ``max(g, 0)`` where ``x > 0`` and 0 elsewhere: the true gradient's mask
    and the deconvnet's together. Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR
    workshop 2015 (arXiv:1412.6806).

    Args:
        x: array of any shape.

    Returns:
        ``max(x, 0)``, of the shape of ``x``.

    Example:
        >>> x, g = jnp.array([-1.0, 2.0, 2.0]), jnp.array([3.0, 3.0, -3.0])
        >>> print(jax.vjp(guided_relu, x)[1](g)[0])
        [0. 3. 0.]
    """
    return jax.nn.relu(x)


def _guided_fwd(x: Array) -> tuple[Array, Array]:
    return jax.nn.relu(x), x > 0


def _guided_bwd(active: Array, g: Array) -> tuple[Array]:
    return (jnp.where(active, jax.nn.relu(g), 0),)


guided_relu.defvjp(_guided_fwd, _guided_bwd)


@jax.custom_vjp
def deconvnet_relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """ReLU whose backward pass is a ReLU of the gradient, whatever the input was.

    With ``g`` the gradient arriving from above, ``max(g, 0)``. Zeiler and Fergus, "Visualizing and Understanding
    Convolutional Networks", ECCV 2014 (arXiv:1311.2901).

    Args:
        x: array of any shape.

    Returns:
        ``max(x, 0)``, of the shape of ``x``.

    Example:
        >>> x, g = jnp.array([-1.0, 2.0, 2.0]), jnp.array([3.0, 3.0, -3.0])
        >>> print(jax.vjp(deconvnet_relu, x)[1](g)[0])
        [3. 3. 0.]
    """
    return jax.nn.relu(x)


def _deconvnet_fwd(x: Array) -> tuple[Array, None]:
    return jax.nn.relu(x), None


def _deconvnet_bwd(_: None, g: Array) -> tuple[Array]:
    return (jax.nn.relu(g),)


deconvnet_relu.defvjp(_deconvnet_fwd, _deconvnet_bwd)
