"""The kernels as JAX functions. They take float32 (or float64) and cannot be differentiated: ``blocks`` does that.

Each can be vmapped: a mapped axis of images joins the batch, so that many backward passes through one forward pass are
one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from faceflax.native.build import available, register, target, tiles

Images = Float[Array, "batch height width channels"]
Window = tuple[int, int, int]
"""Strides down and across, and the zeros before the first row and column."""


def supports(x: Images, *channels: int) -> bool:
    """Whether the kernels can take ``x``, with these numbers of channels in vectors: 8, 16 or multiples of 32."""
    return x.dtype == jnp.float32 and all(c in (8, 16) or (c > 0 and c % 32 == 0) for c in channels) and available()


def _call(name: str, results: Any, *arguments: Array, **attributes: Any) -> Any:
    dtype = arguments[0].dtype
    register(dtype)
    return jax.ffi.ffi_call(target(name, dtype.name), results)(*arguments, **attributes)


def _by_image(call: Callable[..., Any], images: int) -> Callable[..., Any]:
    """``call``, whose first ``images`` arguments and whose results have a batch axis; vmap lengthens that axis."""
    mapped = jax.custom_batching.custom_vmap(call)

    @mapped.def_vmap
    def rule(size: int, batched: Sequence[bool], *arguments: Array) -> tuple[Any, Any]:
        def repeated(a: Array, mapped: bool) -> Array:
            return a if mapped else jnp.broadcast_to(a, (size, *a.shape))

        if any(batched[images:]):
            result = lax.map(lambda each: mapped(*each), list(map(repeated, arguments, batched)))
        else:
            whole = map(repeated, arguments[:images], batched)
            result = mapped(*(a.reshape(-1, *a.shape[2:]) for a in whole), *arguments[images:])
            result = jax.tree.map(lambda r: r.reshape(size, -1, *r.shape[1:]), result)
        return result, jax.tree.map(lambda _: True, result)

    return mapped


def panels(kernel: Any) -> Any:
    """A kernel ``[..., inputs, outputs]`` in the order the convolution reads: ``[panels, size, min(outputs, 32)]``."""
    outputs = kernel.shape[-1]
    width = min(outputs, 32)
    return kernel.reshape(-1, outputs // width, width).swapaxes(0, 1)


def fold(kernel: Any, pixels: int) -> Any:
    """A kernel that gives ``pixels`` neighbouring pixels of the output as channels, for outputs fewer than a vector."""
    rows, columns, inputs, outputs = kernel.shape
    xp = np if isinstance(kernel, np.ndarray) else jnp
    shifted = [xp.pad(kernel, ((0, 0), (p, pixels - 1 - p), (0, 0), (0, 0))) for p in range(pixels)]
    return xp.stack(shifted, 3).reshape(rows, columns + pixels - 1, inputs, pixels * outputs)


def pixels_folded(outputs: int, out_width: int) -> int:
    """How many pixels of ``outputs`` channels a vector takes together: two of 8 channels, eight of one."""
    pixels = {1: 8, 8: 2}.get(outputs, 1)
    return pixels if out_width % pixels == 0 else 1


def _window(kernel: tuple[int, ...], stride: tuple[int, int], low: int) -> dict[str, np.int64]:
    values = (*kernel[:2], *stride, low)
    names = ("kernel_height", "kernel_width", "stride_height", "stride_width", "low")
    return {name: np.int64(value) for name, value in zip(names, values, strict=True)}


def _narrow(x: Images, kernel: tuple[int, ...], stride: int) -> bool:
    """Whether a convolution's products are of bfloat16 numbers, summed in float32: where JAX's own option asks for it.

    ``jax.default_matmul_precision("bfloat16")`` does that on a TPU; on a CPU, XLA ignores it.
    """
    return (
        jax.config.jax_default_matmul_precision == "bfloat16"  # type: ignore[attr-defined]
        and x.dtype == jnp.float32
        and stride == 1
        and kernel[0] > 1
        and all(channels == 16 or channels % 32 == 0 for channels in kernel[2:])
        and tiles()
    )


def convolve(
    x: Images, kernel: Float[Array, "rows columns inputs outputs"], stride: int, low: int, size: tuple[int, int]
) -> Images:
    """Convolution of ``low`` zeros before, as many after as the output ``size`` (height, width) asks for.

    The outputs are 1, 8, 16 or a multiple of 32 channels.
    """
    height, width = size
    outputs = kernel.shape[-1]
    if _narrow(x, kernel.shape, stride):

        def narrow(x: Images, kernel: Array) -> Images:
            result = jax.ShapeDtypeStruct((x.shape[0], height, width, outputs), x.dtype)
            return _call("convolve_narrow", result, x, kernel, low=np.int64(low))

        return _by_image(narrow, 1)(x, kernel)
    pixels = pixels_folded(outputs, width) if stride == 1 and kernel.shape[1] > 1 else 1
    kernel = fold(kernel, pixels)
    attributes = _window(kernel.shape, (stride, stride * pixels), low)

    def call(x: Images, weights: Array) -> Images:
        result = jax.ShapeDtypeStruct((x.shape[0], height, width // pixels, outputs * pixels), x.dtype)
        return _call("convolve", result, x, weights, **attributes).reshape(-1, height, width, outputs)

    return _by_image(call, 1)(x, panels(kernel))


def convolve_gradient(x: Images, g: Images, kernel: tuple[int, int, int, int], stride: int, low: int) -> Array:
    """The gradient of :func:`convolve` by its kernel, whose shape is given, for the cotangent ``g``."""
    rows, columns, inputs, outputs = kernel
    attributes = _window(kernel, (stride, stride), low)

    @jax.custom_batching.sequential_vmap
    def call(x: Images, g: Images) -> Array:
        if _narrow(x, kernel, stride):
            return _call("convolve_gradient_narrow", jax.ShapeDtypeStruct(kernel, x.dtype), x, g, low=np.int64(low))
        result = jax.ShapeDtypeStruct((rows * columns * inputs, outputs), x.dtype)
        return _call("convolve_gradient", result, x, g, **attributes)

    return call(x, g).reshape(kernel)


def depthwise(x: Images, kernel: Float[Array, "3 3 1 channels"]) -> Images:
    """Depthwise 3x3 convolution, SAME."""
    return _by_image(lambda x, k: _call("depthwise", jax.ShapeDtypeStruct(x.shape, x.dtype), x, k), 1)(x, kernel)


@jax.custom_batching.sequential_vmap
def depthwise_gradient(x: Images, g: Images) -> Float[Array, "3 3 1 channels"]:
    """The gradient of :func:`depthwise` by its kernel."""
    return _call("depthwise_gradient", jax.ShapeDtypeStruct((3, 3, 1, x.shape[-1]), x.dtype), x, g)


def max_pool(x: Images) -> tuple[Images, Images]:
    """Max pooling 3x3, stride 2, SAME, and which of its window's nine places each maximum came from."""

    def call(x: Images) -> tuple[Images, Images]:
        batch, height, width, channels = x.shape
        result = jax.ShapeDtypeStruct((batch, -(-height // 2), -(-width // 2), channels), x.dtype)
        return tuple(_call("max_pool", (result, result), x))

    return _by_image(call, 1)(x)


def max_pool_gradient(winners: Images, g: Images, size: tuple[int, int]) -> Images:
    """The gradient of :func:`max_pool` of images of ``size`` (height, width)."""

    def call(winners: Images, g: Images) -> Images:
        result = jax.ShapeDtypeStruct((g.shape[0], *size, g.shape[-1]), g.dtype)
        return _call("max_pool_gradient", result, winners, g)

    return _by_image(call, 2)(winners, g)


def batch_norm(x: Images, scale: Array, bias: Array, epsilon: float, relu: bool) -> tuple[Images, Array, Array]:
    """Normalises by the batch's own moments, then scale, bias and, if asked for, ReLU; also returns the moments."""
    channel = jax.ShapeDtypeStruct(scale.shape, x.dtype)

    @jax.custom_batching.sequential_vmap
    def call(x: Images, scale: Array, bias: Array) -> tuple[Images, Array, Array]:
        results = (jax.ShapeDtypeStruct(x.shape, x.dtype), channel, channel)
        return tuple(_call("batch_norm", results, x, scale, bias, epsilon=np.float64(epsilon), relu=relu))

    return call(x, scale, bias)


def batch_norm_gradient(
    x: Images, scale: Array, bias: Array, mean: Array, variance: Array, g: Images, epsilon: float, relu: bool
) -> tuple[Images, Array, Array]:
    """The gradients of :func:`batch_norm`'s first result by ``x``, ``scale`` and ``bias``."""
    channel = jax.ShapeDtypeStruct(scale.shape, x.dtype)

    @jax.custom_batching.sequential_vmap
    def call(*arguments: Array) -> tuple[Images, Array, Array]:
        results = (jax.ShapeDtypeStruct(x.shape, x.dtype), channel, channel)
        return tuple(_call("batch_norm_gradient", results, *arguments, epsilon=np.float64(epsilon), relu=relu))

    return call(x, scale, bias, mean, variance, g)


def networks(programs: Sequence[tuple[Sequence[int], Sequence[Any]]], images: Sequence[Images]) -> list[Array]:
    """Logits of whole networks, each for its own images, in one call; see :mod:`faceflax.inference.program`.

    Args:
        programs: of each network its layers' numbers and its weights, the last of which is the bias of the logits.
        images: of each network, float32 ``[batch, height, width, channels]``.
    """
    numbers = [n for layers, weights in programs for n in (len(layers), len(weights), *layers)]
    results = [
        jax.ShapeDtypeStruct((x.shape[0], weights[-1].shape[0]), x.dtype)
        for x, (_, weights) in zip(images, programs, strict=True)
    ]
    arguments = [weight for _, weights in programs for weight in weights]
    return _call("networks", results, *images, *arguments, programs=np.array(numbers, np.int64))


def guided(
    program: tuple[Sequence[int], Sequence[Any]], back: Sequence[Any], images: Images, targets: Int[Array, " batch"]
) -> tuple[Float[Array, "batch classes"], Images]:
    """Logits and guided-backprop maps of one network in one call; see :mod:`faceflax.inference.program`.

    Args:
        program: the network's layers' numbers and its weights, as for :func:`networks`.
        back: the weights of the way back.
        images: float32 ``[batch, height, width, channels]``, of 1 channel, 8, 16 or a multiple of 32.
        targets: int32, the class that is explained of each image, or -1 for the one with the highest logit.
    """
    layers, weights = program
    results = (
        jax.ShapeDtypeStruct((images.shape[0], weights[-1].shape[0]), images.dtype),
        jax.ShapeDtypeStruct(images.shape, images.dtype),
    )
    numbers = np.array([len(weights), *layers], np.int64)
    return tuple(_call("guided", results, images, targets, *weights, *back, program=numbers))
