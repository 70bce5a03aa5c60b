"""Layers that the networks share, each in the form that is fast on its platform.

XLA's CPU backend runs grouped convolutions, strided pooling gradients and small-channel kernel gradients far below
what the processor can do. There each layer takes the C++ kernels of :mod:`faceflax.native` or, where these cannot be
built, the quickest form found in plain JAX; on other platforms :func:`jax.lax.platform_dependent` keeps XLA's own
operator. The tests hold every form against the plain operator, values and gradients.

The remarks give milliseconds of a forward and backward pass at batch 64, 48x48 on two cores; ``docs/engine.md`` has the
rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, reduce
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from faceflax import native
from faceflax.models.architectures import EPSILON, MOMENTUM

Activation = Callable[[Array], Array]
Images = Float[Array, "batch height width channels"]

_LAYOUT = ("NHWC", "HWIO", "NHWC")


_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plainly() -> Iterator[None]:
    """While it lasts, layers that are traced take XLA's own operators, which XLA can divide among devices."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def _by_platform(cpu: Callable[..., Any], default: Callable[..., Any], *arrays: Array, **options: Any) -> Any:
    if _plain.get():
        return default(*arrays, **options)
    return lax.platform_dependent(*arrays, cpu=partial(cpu, **options), default=partial(default, **options))


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


def _depthwise_cpu(x: Images, kernel: Array) -> Images:
    return native.depthwise(x, kernel) if native.supports(x, x.shape[-1]) else _depthwise_shifted(x, kernel)


@jax.custom_vjp
def depthwise_conv(x: Images, kernel: Float[Array, "3 3 1 channels"]) -> Images:
    """3x3 depthwise convolution, stride 1, zero padding (SAME), no bias.

    Args:
        x: ``[batch, height, width, channels]``.
        kernel: ``[3, 3, 1, channels]``, the layout of a grouped convolution's kernel.

    Returns:
        An array of the shape of ``x``.
    """
    return _by_platform(_depthwise_cpu, _depthwise_plain, x, kernel)


def _depthwise_fwd(x: Images, kernel: Array) -> tuple[Images, tuple[Images, Array]]:
    return depthwise_conv(x, kernel), (x, kernel)


def _depthwise_bwd_cpu(x: Images, kernel: Array, g: Images) -> tuple[Images, Array]:
    if native.supports(x, x.shape[-1]):
        return native.depthwise(g, kernel[::-1, ::-1]), native.depthwise_gradient(x, g)
    height, width = x.shape[1:3]
    products = _sum_over_batch(lambda xi, gi: [v * gi for v in _windows(xi, height, width)], _pad1(x), g)
    return _depthwise_shifted(g, kernel[::-1, ::-1]), products.sum((1, 2)).reshape(kernel.shape)


def _depthwise_bwd_plain(x: Images, kernel: Array, g: Images) -> tuple[Images, Array]:
    return jax.vjp(_depthwise_plain, x, kernel)[1](g)


def _depthwise_bwd(residuals: tuple[Images, Array], g: Images) -> tuple[Images, Array]:
    return _by_platform(_depthwise_bwd_cpu, _depthwise_bwd_plain, *residuals, g)


depthwise_conv.defvjp(_depthwise_fwd, _depthwise_bwd)


# Convolution. On CPU XLA is slow where channels are few, above all at the kernel's gradient.


def _padding(size: int, kernel: int, stride: int, padding: str) -> tuple[int, int, int]:
    """Zeros before and after one axis, and the size of the output."""
    if padding == "VALID":
        return 0, 0, (size - kernel) // stride + 1
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2, out


def _conv_plain(x: Images, kernel: Array, stride: int, padding: str) -> Images:
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT)


def _conv_cpu(x: Images, kernel: Array, stride: int, padding: str) -> Images:
    if not native.supports(x, kernel.shape[-1]):
        if (
            kernel.shape[:3] == (3, 3, 1) and padding == "VALID"
        ):  # nine multiply-adds: a seventh off a whole forward pass
            views = _windows(x, x.shape[1] - 2, x.shape[2] - 2)
            return reduce(jnp.add, map(jnp.multiply, views, kernel.reshape(9, 1, 1, 1, -1)))
        return _conv_plain(x, kernel, stride, padding)
    (low, _, height), (_, _, width) = (_padding(x.shape[i + 1], kernel.shape[i], stride, padding) for i in (0, 1))
    return native.convolve(x, kernel, stride, low, (height, width))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: Images, kernel: Float[Array, "size size inputs outputs"], stride: int = 1, padding: str = "SAME") -> Images:
    """Convolution with a square kernel, without bias.

    Args:
        x: ``[batch, height, width, inputs]``; square images where ``stride`` is over 1.
        kernel: ``[size, size, inputs, outputs]``.
        stride: pixels from one window to the next, both ways; over 1 only for ``size`` 1.
        padding: SAME or VALID.

    Returns:
        ``[batch, out_height, out_width, outputs]``.
    """
    return _by_platform(_conv_cpu, _conv_plain, x, kernel, stride=stride, padding=padding)


def _conv_fwd(x: Images, kernel: Array, stride: int, padding: str) -> tuple[Images, tuple[Images, Array]]:
    return conv(x, kernel, stride, padding), (x, kernel)


def _conv_bwd_plain(x: Images, kernel: Array, g: Images, stride: int, padding: str) -> tuple[Images, Array]:
    return jax.vjp(partial(_conv_plain, stride=stride, padding=padding), x, kernel)[1](g)


def _input_gradient(x: Images, kernel: Array, g: Images, stride: int, padding: str) -> Images:
    """Spreads each pixel of ``g`` over the window it came from: a convolution with the kernel turned around."""
    size, _, inputs, outputs = kernel.shape
    height, width = x.shape[1:3]
    low = size - 1 - _padding(height, size, stride, padding)[0]
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    grey = inputs == 1 and stride == 1  # eight pixels make a vector where one pixel is a single number
    if not (native.supports(g, outputs) and (grey or native.supports(g, inputs))):
        return _conv_bwd_plain(x, kernel, g, stride, padding)[0]
    if stride == 1:
        return native.convolve(g, turned, 1, low, (height, width))
    narrow = native.convolve(g, turned, 1, 0, (g.shape[1], g.shape[2]))
    rows, columns = ((0, x.shape[i] - (g.shape[i] - 1) * stride - 1, stride - 1) for i in (1, 2))
    return lax.pad(narrow, jnp.zeros((), g.dtype), [(0, 0, 0), rows, columns, (0, 0, 0)])


def _kernel_gradient(x: Images, kernel: Array, g: Images, stride: int, padding: str) -> Array:
    """The products of every window with its pixel of ``g``, summed."""
    size, _, inputs, outputs = kernel.shape
    if native.supports(g, outputs):
        low = _padding(x.shape[1], size, stride, padding)[0]
        return native.convolve_gradient(x, g, (size, size, inputs, outputs), stride, low)
    if size == 3 and padding == "VALID":  # as matrix products, an image at a time: 11 ms instead of 25 for stem2
        height, width = g.shape[1:3]

        def nine(xi: Array, gi: Array) -> list[Array]:
            rows = gi.reshape(-1, outputs)
            return [v.reshape(-1, inputs).T @ rows for v in _windows(xi, height, width)]

        return _sum_over_batch(nine, x, g).reshape(kernel.shape)
    return _conv_bwd_plain(x, kernel, g, stride, padding)[1]


def _conv_bwd_cpu(x: Images, kernel: Array, g: Images, stride: int, padding: str) -> tuple[Images, Array]:
    return _input_gradient(x, kernel, g, stride, padding), _kernel_gradient(x, kernel, g, stride, padding)


def _conv_bwd(stride: int, padding: str, residuals: tuple[Images, Array], g: Images) -> tuple[Images, Array]:
    return _by_platform(_conv_bwd_cpu, _conv_bwd_plain, *residuals, g, stride=stride, padding=padding)


conv.defvjp(_conv_fwd, _conv_bwd)


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


def _max_pool_cpu(x: Images) -> Images:
    return native.max_pool(x)[0] if native.supports(x, x.shape[-1]) else _max_pool_axes(x)


@jax.custom_vjp
def max_pool(x: Images) -> Images:
    """Max pooling 3x3, stride 2, SAME: ``[batch, ceil(height / 2), ceil(width / 2), channels]``.

    The gradient goes to the first maximum of a window, row by row.
    """
    return _by_platform(_max_pool_cpu, _max_pool_plain, x)


def _max_pool_fwd(x: Images) -> tuple[Images, tuple[Images, Images | None]]:
    if _plain.get() or not native.supports(x, x.shape[-1]):
        return max_pool(x), (x, None)

    # The kernel notes which value won; elsewhere the gradient finds out from x again.
    def plain(x: Images) -> tuple[Images, Images]:
        y = _max_pool_plain(x)
        return y, jnp.zeros_like(y)

    y, winners = lax.platform_dependent(x, cpu=native.max_pool, default=plain)
    return y, (x, winners)


def _max_pool_bwd(residuals: tuple[Images, Images | None], g: Images) -> tuple[Images]:
    x, winners = residuals

    def of(form: Callable[[Images], Images]) -> Callable[..., Images]:
        return lambda x, g, *_: jax.vjp(form, x)[1](g)[0]

    def of_winners(x: Images, g: Images, winners: Images) -> Images:
        return native.max_pool_gradient(winners, g, (x.shape[1], x.shape[2]))

    if winners is None:
        return (_by_platform(of(_max_pool_axes), of(_max_pool_plain), x, g),)
    return (lax.platform_dependent(x, g, winners, cpu=of_winners, default=of(_max_pool_plain)),)


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


# Antialiased pooling.


def blurred(x: Images) -> Images:
    """Every second pixel both ways of ``x`` smoothed by (1, 2, 1) / 4 along both axes, the edge repeated outwards.

    Example:
        >>> print(blurred(jnp.array([0.0, 0.0, 4.0, 0.0]).reshape(1, 1, 4, 1)).ravel())
        [0. 2.]
    """
    for axis in (1, 2):
        near = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x, near, mode="edge")
        size = x.shape[axis]
        left, middle, right = (lax.slice_in_dim(padded, i, i + size, stride=2, axis=axis) for i in range(3))
        x = (left + 2 * middle + right) / 4
    return x


def maxima(x: Images) -> Images:
    """The maximum of each pixel's 3x3 neighbourhood."""
    for axis in (1, 2):
        near = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(x, near, constant_values=-jnp.inf)
        views: list[Array] = [lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(3)]
        x = reduce(jnp.maximum, views)
    return x


class Operators(NamedTuple):
    """The layers that a folded network needs, in one form each."""

    conv: Callable[..., Images]
    depthwise_conv: Callable[[Images, Array], Images]
    max_pool: Callable[[Images], Images]


FASTEST = Operators(conv, depthwise_conv, max_pool)
"""What is fastest here: the C++ kernels among others."""

PORTABLE = Operators(
    _conv_plain,
    lambda x, kernel: lax.platform_dependent(x, kernel, cpu=_depthwise_shifted, default=_depthwise_plain),
    _max_pool_plain,
)
"""XLA's own operators alone, so that a program made of them runs without this library."""


# Batch normalisation by the batch's own moments, and the ReLU behind it in the same pass over memory.


def _row(values: Float[Array, " channels"]) -> Float[Array, "1 1 1 channels"]:
    return values[None, None, None]


@jax.custom_jvp
def _known(computed: Array, known: Array) -> Array:
    """The value of ``known`` with the gradient of ``computed``, whose own value is then needed no more."""
    return known


@_known.defjvp
def _known_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[1], tangents[0]


def _normalise_plain(
    x: Images, scale: Array, bias: Array, relu: bool, moments: tuple[Array, Array] | None = None
) -> tuple[Images, Array, Array]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = wide.mean((0, 1, 2))
    if moments is not None:
        mean = _known(mean, moments[0])
    centred = wide - _row(mean)
    variance = jnp.square(centred).mean((0, 1, 2))
    if moments is not None:
        variance = _known(variance, moments[1])
    y = centred * _row(lax.rsqrt(variance + EPSILON) * scale) + _row(bias)
    return (jax.nn.relu(y) if relu else y).astype(x.dtype), mean, variance


def _normalise_cpu(x: Images, scale: Array, bias: Array, relu: bool) -> tuple[Images, Array, Array]:
    if native.supports(x, x.shape[-1]):
        return native.batch_norm(x, scale, bias, EPSILON, relu)
    return _normalise_plain(x, scale, bias, relu)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(x: Images, scale: Array, bias: Array, relu: bool) -> tuple[Images, Array, Array]:
    """Normalises each channel over batch and pixels, scales, shifts and, with ``relu``, cuts at zero.

    Ioffe and Szegedy, "Batch Normalization", ICML 2015. Only the first result has a gradient.

    Returns:
        The normalised images, and each channel's mean and (biased) variance.
    """
    return _by_platform(_normalise_cpu, _normalise_plain, x, scale, bias, relu=relu)


def _normalise_fwd(
    x: Images, scale: Array, bias: Array, relu: bool
) -> tuple[tuple[Images, Array, Array], tuple[Array, ...]]:
    y, mean, variance = normalise(x, scale, bias, relu)
    return (y, mean, variance), (x, scale, bias, mean, variance)


def _normalise_bwd_plain(
    x: Images, scale: Array, bias: Array, mean: Array, variance: Array, g: Images, relu: bool
) -> tuple[Images, Array, Array]:
    # With the moments of the forward pass, which on several devices would have to be added up once more.
    def again(x: Images, scale: Array, bias: Array) -> Images:
        return _normalise_plain(x, scale, bias, relu, (mean, variance))[0]

    return jax.vjp(again, x, scale, bias)[1](g)


def _normalise_bwd_cpu(
    x: Images, scale: Array, bias: Array, mean: Array, variance: Array, g: Images, relu: bool
) -> tuple[Images, Array, Array]:
    if native.supports(x, x.shape[-1]):
        return native.batch_norm_gradient(x, scale, bias, mean, variance, g, EPSILON, relu)
    return _normalise_bwd_plain(x, scale, bias, mean, variance, g, relu)


def _normalise_bwd(
    relu: bool, residuals: tuple[Array, ...], cotangents: tuple[Images, Array, Array]
) -> tuple[Images, Array, Array]:
    return _by_platform(_normalise_bwd_cpu, _normalise_bwd_plain, *residuals, cotangents[0], relu=relu)


normalise.defvjp(_normalise_fwd, _normalise_bwd)


class Conv(nn.Module):
    """A convolution (:func:`conv`) for a :class:`BatchNorm`, which adds the bias if there is one."""

    features: int
    size: int
    stride: int = 1
    padding: str = "SAME"
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Images, factor: Array | float = 1.0) -> tuple[Images, Array | float]:
        """Maps ``[batch, h, w, c]`` to ``[batch, out_h, out_w, features]`` times ``factor``, and the bias (or 0)."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else 0.0
        return conv(x, (kernel * factor).astype(x.dtype), self.stride, self.padding), bias


class SeparableConv(nn.Module):
    """Depthwise 3x3 then pointwise convolution, SAME, no bias, nothing in between; for a :class:`BatchNorm`.

    Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017.
    """

    features: int

    @nn.compact
    def __call__(self, x: Images, factor: Array | float = 1.0) -> tuple[Images, float]:
        """Maps ``[batch, h, w, c]`` to ``[batch, h, w, features]`` times ``factor``, and 0, having no bias."""
        depthwise = self.param("depthwise", nn.initializers.lecun_normal(), (3, 3, 1, x.shape[-1]))
        pointwise = self.param("pointwise", nn.initializers.lecun_normal(), (x.shape[-1], self.features))
        pointwise = pointwise[None, None] * factor
        return conv(depthwise_conv(x, depthwise.astype(x.dtype)), pointwise.astype(x.dtype)), 0.0


class BatchNorm(nn.Module):
    """Batch normalisation (:data:`EPSILON`, :data:`MOMENTUM`) of a convolution's output, and an activation.

    Parameters, statistics and their names are those of ``flax.linen.BatchNorm``. Statistics stay float32 when ``x`` is
    narrower. It is given the convolution itself, because each of its two modes can spare work there:

    * With the batch's statistics the convolution's bias cancels, so it is never added nor differentiated (its gradient
      is exactly zero); it only moves the running mean.
    * With the running ones the factor goes into the kernel: nothing is left to do for each pixel but an addition, and
      nothing in the backward pass.
    """

    use_running_average: bool

    @nn.compact
    def __call__(self, layer: Conv | SeparableConv, x: Images, activation: Activation | None = None) -> Images:
        """Computes ``activation(batch_norm(layer(x)))`` of ``x`` ``[batch, h, w, c]``."""
        channels = (layer.features,)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        variance = self.variable("batch_stats", "var", jnp.ones, channels)
        if self.use_running_average:
            factor = lax.rsqrt(variance.value + EPSILON) * scale
            y, offset = layer(x, _row(factor))
            y = y + _row(bias - (mean.value - offset) * factor).astype(x.dtype)
            return y if activation is None else activation(y)
        y, offset = layer(x)
        y, batch_mean, batch_variance = normalise(y, scale, bias, activation is nn.relu)
        if not self.is_initializing():
            mean.value = MOMENTUM * mean.value + (1 - MOMENTUM) * (batch_mean + offset)
            variance.value = MOMENTUM * variance.value + (1 - MOMENTUM) * batch_variance
        return y if activation is None or activation is nn.relu else activation(y)
