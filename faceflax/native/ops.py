"""The kernels as JAX functions. They take float32 (or float64) and cannot be differentiated: ``blocks`` does that.

Each can be vmapped: a mapped axis of images joins the batch, so that many backward passes through one forward pass are
one call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from faceflax.errors import FaceflaxError
from faceflax.native.library import available, load, problem, tiles

Images = Float[Array, "batch height width channels"]

_TARGETS: tuple[str, ...] = (
    "convolve",
    "convolve_gradient",
    "depthwise",
    "depthwise_gradient",
    "max_pool",
    "max_pool_gradient",
)
_TARGETS += ("batch_norm", "batch_norm_gradient")
_NARROW = ("convolve_narrow", "convolve_gradient_narrow")  # float32 alone


def supports(x: Images, *channels: int) -> bool:
    """Whether the kernels can take ``x``, with these numbers of channels in vectors: 8, 16 or multiples of 32."""
    return x.dtype == jnp.float32 and all(c in (8, 16) or (c > 0 and c % 32 == 0) for c in channels) and available()


@functools.cache
def register(dtype: str) -> None:
    """Makes the kernels for a type known to XLA: before they are called, or a stored program that calls them is loaded.

    Raises:
        FaceflaxError: they cannot be used.
    """
    why = problem(dtype)
    if why is not None:
        raise FaceflaxError("kernels", None, f"{dtype}: {why}")
    library = load(dtype)
    for name in _TARGETS + (_NARROW if dtype == "float32" else ()):
        jax.ffi.register_ffi_target(_target(name, dtype), jax.ffi.pycapsule(getattr(library, name)), platform="cpu")


def _target(name: str, dtype: str) -> str:
    return f"faceflax_{name}_{dtype}"


def _call(name: str, results: Any, *arguments: Array, **attributes: Any) -> Any:
    dtype = arguments[0].dtype.name
    register(dtype)
    return jax.ffi.ffi_call(_target(name, dtype), results)(*arguments, **attributes)


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

    The outputs are 8, 16 or a multiple of 32 channels, or 1 at stride 1.
    """
    height, width = size
    outputs = kernel.shape[-1]
    if _narrow(x, kernel.shape, stride):

        def narrow(x: Images, kernel: Array) -> Images:
            result = jax.ShapeDtypeStruct((x.shape[0], height, width, outputs), x.dtype)
            return _call("convolve_narrow", result, x, kernel, low=np.int64(low))

        return _by_image(narrow, 1)(x, kernel)

    def call(x: Images, kernel: Array) -> Images:
        result = jax.ShapeDtypeStruct((x.shape[0], height, width, outputs), x.dtype)
        return _call("convolve", result, x, kernel, stride=np.int64(stride), low=np.int64(low))

    return _by_image(call, 1)(x, kernel)


def convolve_gradient(x: Images, g: Images, kernel: tuple[int, int, int, int], stride: int, low: int) -> Array:
    """The gradient of :func:`convolve` by its kernel, whose shape is given, for the cotangent ``g``."""

    @jax.custom_batching.sequential_vmap
    def call(x: Images, g: Images) -> Array:
        result = jax.ShapeDtypeStruct(kernel, x.dtype)
        if _narrow(x, kernel, stride):
            return _call("convolve_gradient_narrow", result, x, g, low=np.int64(low))
        return _call("convolve_gradient", result, x, g, stride=np.int64(stride), low=np.int64(low))

    return call(x, g)


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
