"""Layers both networks share, each in the form that is fast on its platform.

XLA's CPU backend runs grouped convolutions, strided pooling gradients and small-channel kernel gradients far below
what the processor can do. The functions here compute the same numbers in forms that it handles well; on other
platforms :func:`jax.lax.platform_dependent` keeps XLA's own operator. The tests hold each against the plain operator,
values and gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Activation = Callable[[Array], Array]
Images = Float[Array, "batch height width channels"]

batch_norm = partial(nn.BatchNorm, momentum=0.99, epsilon=1e-3)
"""BatchNorm with Keras's constants, which the imported weights were trained with."""

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _windows(x: Images, height: int, width: int) -> list[Images]:
    """The nine views of ``x`` that a 3x3 kernel meets, row by row, each ``height`` x ``width``."""
    return [x[..., i : i + height, j : j + width, :] for i in range(3) for j in range(3)]


def _pad1(x: Images) -> Images:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _sum_over_batch(nine: Callable[[Array, Array], list[Array]], x: Images, g: Images) -> Array:
    """Sums ``nine(x[i], g[i])`` over the batch one image at a time, so that the sums stay in cache."""

    def add(total: list[Array], pair: tuple[Array, Array]) -> tuple[list[Array], None]:
        return [t + v for t, v in zip(total, nine(*pair), strict=True)], None

    shapes = jax.eval_shape(nine, x[0], g[0])
    total, _ = lax.scan(add, [jnp.zeros(s.shape, s.dtype) for s in shapes], (x, g))
    return jnp.stack(total)


# Depthwise 3x3, SAME. On CPU nine shifted multiply-adds run about ten times faster than a grouped convolution.


def _depthwise_plain(x: Images, kernel: Array) -> Images:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT, feature_group_count=x.shape[-1]
    )


def _depthwise_shifted(x: Images, kernel: Array) -> Images:
    taps = kernel.reshape(9, 1, 1, 1, -1)
    return reduce(jnp.add, map(jnp.multiply, _windows(_pad1(x), *x.shape[1:3]), taps))


@jax.custom_vjp
def depthwise_conv(x: Images, kernel: Float[Array, "3 3 1 channels"]) -> Images:
    """3x3 depthwise convolution, stride 1, zero padding (SAME), no bias.

    Args:
        x: ``[batch, height, width, channels]``.
        kernel: ``[3, 3, 1, channels]``, the layout of a grouped convolution's kernel.

    Returns:
        An array of the shape of ``x``.
    """
    return lax.platform_dependent(x, kernel, cpu=_depthwise_shifted, default=_depthwise_plain)


def _depthwise_fwd(x: Images, kernel: Array) -> tuple[Images, tuple[Images, Array]]:
    return depthwise_conv(x, kernel), (x, kernel)


def _depthwise_bwd_shifted(x: Images, kernel: Array, g: Images) -> tuple[Images, Array]:
    height, width = x.shape[1:3]
    products = _sum_over_batch(lambda xi, gi: [v * gi for v in _windows(xi, height, width)], _pad1(x), g)
    return _depthwise_shifted(g, kernel[::-1, ::-1]), products.sum((1, 2)).reshape(kernel.shape)


def _depthwise_bwd_plain(x: Images, kernel: Array, g: Images) -> tuple[Images, Array]:
    return jax.vjp(_depthwise_plain, x, kernel)[1](g)


def _depthwise_bwd(residuals: tuple[Images, Array], g: Images) -> tuple[Images, Array]:
    return lax.platform_dependent(*residuals, g, cpu=_depthwise_bwd_shifted, default=_depthwise_bwd_plain)


depthwise_conv.defvjp(_depthwise_fwd, _depthwise_bwd)


# Full 3x3 convolution of few channels, VALID (the stems). On CPU only its kernel gradient needs help.


def _conv_plain(x: Images, kernel: Array) -> Images:
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_LAYOUT)


@jax.custom_vjp
def stem_conv(x: Images, kernel: Float[Array, "3 3 inputs outputs"]) -> Images:
    """3x3 convolution, stride 1, no padding (VALID), no bias, for the few channels of a stem.

    Args:
        x: ``[batch, height, width, inputs]``.
        kernel: ``[3, 3, inputs, outputs]``.

    Returns:
        ``[batch, height - 2, width - 2, outputs]``.
    """
    return _conv_plain(x, kernel)


def _stem_fwd(x: Images, kernel: Array) -> tuple[Images, tuple[Images, Array]]:
    return _conv_plain(x, kernel), (x, kernel)


def _stem_bwd_matmuls(x: Images, kernel: Array, g: Images) -> tuple[Images, Array]:
    height, width, outputs = g.shape[1:]
    inputs = x.shape[-1]

    def nine(xi: Array, gi: Array) -> list[Array]:
        rows = gi.reshape(-1, outputs)
        return [v.reshape(-1, inputs).T @ rows for v in _windows(xi, height, width)]

    dx = lax.conv_general_dilated(
        g, kernel[::-1, ::-1].swapaxes(2, 3), (1, 1), ((2, 2), (2, 2)), dimension_numbers=_LAYOUT
    )
    return dx, _sum_over_batch(nine, x, g).reshape(kernel.shape)


def _stem_bwd_plain(x: Images, kernel: Array, g: Images) -> tuple[Images, Array]:
    return jax.vjp(_conv_plain, x, kernel)[1](g)


def _stem_bwd(residuals: tuple[Images, Array], g: Images) -> tuple[Images, Array]:
    return lax.platform_dependent(*residuals, g, cpu=_stem_bwd_matmuls, default=_stem_bwd_plain)


stem_conv.defvjp(_stem_fwd, _stem_bwd)


# Max pooling 3x3, stride 2, SAME. On CPU reduce_window's gradient is 5 to 8 times slower than one of comparisons.


def _larger(first: Array, second: Array) -> Array:
    """``max``, whose gradient goes to ``first`` on a tie; NaN in either comes through."""
    return jnp.where((second > first) | jnp.isnan(second), second, first)


def _pool_axis(x: Array, axis: int) -> Array:
    """Max over windows of 3, stride 2, SAME, along ``axis``, without strided slices (their gradient is slow)."""
    size = x.shape[axis]
    out = -(-size // 2)
    before = max((out - 1) * 2 + 3 - size, 0) // 2
    pads = [(0, 0)] * x.ndim
    pads[axis] = (before, 2 * out + 2 - size - before)
    x = jnp.pad(x, pads, constant_values=-jnp.inf)
    pairs = x.reshape(*x.shape[:axis], out + 1, 2, *x.shape[axis + 1 :])
    even = lax.index_in_dim(pairs, 0, axis + 1, keepdims=False)
    odd = lax.index_in_dim(pairs, 1, axis + 1, keepdims=False)
    head = partial(lax.slice_in_dim, start_index=0, limit_index=out, axis=axis)
    return _larger(_larger(head(even), head(odd)), lax.slice_in_dim(even, 1, out + 1, axis=axis))


def _max_pool_axes(x: Images) -> Images:
    # Columns first, then rows: on ties the winner is the first in row-major order, as in reduce_window's gradient.
    return _pool_axis(_pool_axis(x, 2), 1)


def _max_pool_plain(x: Images) -> Images:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")


def max_pool(x: Images) -> Images:
    """Max pooling 3x3, stride 2, SAME: ``[batch, ceil(height / 2), ceil(width / 2), channels]``."""
    return lax.platform_dependent(x, cpu=_max_pool_axes, default=_max_pool_plain)


class StemConv(nn.Module):
    """A 3x3 VALID convolution without bias (:func:`stem_conv`)."""

    features: int

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Maps ``[batch, h, w, c]`` to ``[batch, h - 2, w - 2, features]``."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], self.features))
        return stem_conv(x, kernel.astype(x.dtype))


class SeparableConv(nn.Module):
    """Depthwise 3x3 then pointwise convolution, SAME, no bias, nothing in between.

    Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017.
    """

    features: int

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Maps ``[batch, h, w, c]`` to ``[batch, h, w, features]``."""
        depthwise = self.param("depthwise", nn.initializers.lecun_normal(), (3, 3, 1, x.shape[-1]))
        pointwise = self.param("pointwise", nn.initializers.lecun_normal(), (x.shape[-1], self.features))
        return depthwise_conv(x, depthwise.astype(x.dtype)) @ pointwise.astype(x.dtype)
