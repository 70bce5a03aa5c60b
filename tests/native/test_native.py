"""The C++ kernels against XLA's own operators: in float64 to rounding, in float32 inside whole networks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from jax import lax

from faceflax import models, native
from faceflax.models import blocks

LAYOUT = ("NHWC", "HWIO", "NHWC")
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native kernels: {native.status()}")


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param is np.float64):
        yield request.param


def normal(seed, shape, dtype):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_close(found, expected, dtype):
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=(1e-13 if dtype is np.float64 else 3e-6) * max(scale, 1))


def plain_conv(x, kernel, stride, padding, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=LAYOUT,
        feature_group_count=groups,
        precision=lax.Precision.HIGHEST,
    )


# Every panel width and pixel folding, kernels of one pixel and of seven, rows shorter and longer than a tile.
CONVOLUTIONS = [
    ((2, 9, 12, 1), (3, 3, 1, 8), 1, "VALID"),
    ((2, 5, 8, 1), (1, 1, 1, 8), 1, "SAME"),
    ((1, 9, 11, 8), (3, 3, 8, 8), 1, "VALID"),
    ((2, 5, 31, 8), (1, 1, 8, 16), 1, "SAME"),
    ((2, 6, 6, 16), (1, 1, 16, 32), 2, "SAME"),
    ((2, 7, 5, 16), (1, 1, 16, 32), 2, "SAME"),
    ((2, 8, 16, 1), (7, 7, 1, 16), 1, "SAME"),
    ((1, 9, 14, 16), (5, 5, 16, 32), 1, "SAME"),
    ((3, 3, 3, 32), (3, 3, 32, 64), 1, "SAME"),
    ((1, 2, 1, 32), (3, 3, 32, 96), 1, "SAME"),
]


@pytest.mark.parametrize(("images", "kernel", "stride", "padding"), CONVOLUTIONS)
def test_convolution_and_its_gradients(images, kernel, stride, padding, dtype):
    x, weights = normal(0, images, dtype), normal(1, kernel, dtype)

    @jax.jit
    def plain(x, weights):
        y, pullback = jax.vjp(lambda *a: plain_conv(*a, stride, padding), x, weights)
        return y, *pullback(normal(2, y.shape, dtype))

    y, dx, dkernel = plain(x, weights)
    g = normal(2, y.shape, dtype)
    low = 0 if padding == "VALID" or stride > 1 else kernel[0] // 2
    assert_close(native.convolve(x, weights, stride, low, y.shape[1:3]), y, dtype)
    assert_close(native.convolve_gradient(x, g, kernel, stride, low), dkernel, dtype)
    if stride == 1:
        turned = weights[::-1, ::-1].swapaxes(2, 3)
        assert_close(native.convolve(g, turned, 1, kernel[0] - 1 - low, images[1:3]), dx, dtype)


# 16 channels are two taps a chunk (of even and odd kernels), 32 one; rows of output tiles that end inside a frame; more
# images than a task takes.
NARROW_CONVOLUTIONS = [
    ((2, 21, 22, 16), (7, 7, 16, 16), "SAME"),
    ((3, 9, 14, 16), (5, 5, 16, 32), "SAME"),
    ((2, 8, 9, 16), (2, 2, 16, 32), "VALID"),
    ((33, 3, 3, 32), (3, 3, 32, 64), "SAME"),
    ((1, 2, 1, 32), (3, 3, 32, 96), "SAME"),
    ((4, 12, 13, 64), (3, 3, 64, 16), "VALID"),
]


@pytest.mark.skipif(not native.tiles(), reason="no AMX in this processor, or no native kernels")
@pytest.mark.parametrize(("images", "kernel", "padding"), NARROW_CONVOLUTIONS)
def test_convolution_of_bfloat16_products_and_its_gradients(images, kernel, padding):
    """The same as in float32 for operands that are bfloat16 numbers already: nothing but them is rounded."""
    x, weights = (normal(seed, shape, jnp.bfloat16).astype(np.float32) for seed, shape in enumerate((images, kernel)))
    y, pullback = jax.vjp(lambda *a: plain_conv(*a, 1, padding), x, weights)
    g = normal(2, y.shape, jnp.bfloat16).astype(np.float32)
    with jax.default_matmul_precision("bfloat16"):
        found, pull = jax.vjp(lambda *a: blocks.conv(*a, 1, padding), x, weights)
        gradients = pull(g)
        rounded = blocks.conv(x * 1.001, weights, 1, padding)
    for a, b in zip((found, *gradients), (y, *pullback(g)), strict=True):
        assert_close(a, b, np.float32)
    assert 1e-4 < float(jnp.abs(rounded - 1.001 * y).max() / jnp.abs(y).max()) < 1e-2  # the option reached the kernel


@pytest.mark.skipif(not native.tiles(), reason="no AMX in this processor, or no native kernels")
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_tiles_leave_what_is_not_finite_where_it_is(number):
    """Chunks of two taps end with one whose weights are zeros, and images lie side by side."""
    x, weights = (np.asarray(normal(i, shape, np.float32)) for i, shape in enumerate([(3, 6, 7, 16), (3, 3, 16, 16)]))
    odd = x.copy()
    odd[1, 2, 4, 3] = odd[1, 5, 0, 0] = number
    with jax.default_matmul_precision("bfloat16"):
        for padding in ("SAME", "VALID"):
            found, whole = (np.asarray(blocks.conv(each, weights, 1, padding)) for each in (odd, x))
            plain = np.asarray(plain_conv(odd, weights, 1, padding))
            np.testing.assert_array_equal(np.isfinite(found), np.isfinite(plain))
            np.testing.assert_array_equal(found[::2], whole[::2])


@pytest.mark.parametrize("images", [(2, 7, 6, 8), (1, 5, 9, 16), (2, 1, 1, 8), (1, 2, 2, 32), (2, 3, 1, 64)])
def test_depthwise_and_its_gradients(images, dtype):
    x, weights = normal(0, images, dtype), normal(1, (3, 3, 1, images[-1]), dtype)
    g = normal(2, images, dtype)

    @jax.jit
    def plain(x, weights, g):
        y, pullback = jax.vjp(lambda *a: plain_conv(*a, 1, "SAME", images[-1]), x, weights)
        return y, *pullback(g)

    y, dx, dkernel = plain(x, weights, g)
    assert_close(native.depthwise(x, weights), y, dtype)
    assert_close(native.depthwise(g, weights[::-1, ::-1]), dx, dtype)
    assert_close(native.depthwise_gradient(x, g), dkernel, dtype)


@pytest.mark.parametrize("images", [(2, 7, 6, 8), (1, 8, 9, 16), (2, 1, 1, 8), (1, 2, 2, 32)])
@pytest.mark.parametrize("ties", [False, True])
def test_max_pool_and_its_gradient(images, ties, dtype):
    x = normal(0, images, dtype)
    x = jnp.round(x) if ties else x

    @jax.jit
    def plain(x):
        window = ((1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        y, pullback = jax.vjp(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, *window), x)
        return y, *pullback(normal(1, y.shape, dtype))

    y, dx = plain(x)
    found, winners = native.max_pool(x)
    np.testing.assert_array_equal(found, y)
    assert_close(native.max_pool_gradient(winners, normal(1, y.shape, dtype), images[1:3]), dx, dtype)


NUMBERS = st.sampled_from([0.0, -0.0, 1e-45, -1e-39, 1.0, -2.5, 3e4, np.nan, np.inf, -np.inf])
"""Denormal numbers among others."""


@st.composite
def convolutions(draw):
    """Images of odd sizes with some odd numbers in them, and a kernel that the C++ code takes."""
    size, stride = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (3, 1), (3, 1), (5, 1)]))
    inputs, outputs = draw(st.sampled_from([1, 3, 8, 16])), draw(st.sampled_from([8, 8, 16, 32, 96]))
    padding = draw(st.sampled_from(["SAME", "VALID"])) if stride == 1 else "SAME"
    height, width = draw(st.integers(size, 13)), draw(st.one_of(st.integers(size, 18), st.sampled_from([8, 16])))
    shape = (draw(st.integers(1, 2)), height, height if stride > 1 else width, inputs)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x, kernel = (rng.normal(size=each).astype(np.float32) for each in (shape, (size, size, inputs, outputs)))
    for number in draw(st.lists(NUMBERS, max_size=3)):
        x.flat[draw(st.integers(0, x.size - 1))] = number
    low = (size - 1) // 2 if padding == "SAME" else 0
    rows, columns = ((side - 1) // stride + 1 if padding == "SAME" else side - size + 1 for side in shape[1:3])
    g = rng.normal(size=(shape[0], rows, columns, outputs)).astype(np.float32)
    for number in draw(st.lists(NUMBERS, max_size=2)):
        g.flat[draw(st.integers(0, g.size - 1))] = number
    return x, kernel, g, stride, padding, low


def in_float64(x, kernel, g, stride, low):
    """The convolution and, for the cotangent g, its gradients: sums over the kernel's taps."""
    (_, height, width, _), (_, rows, columns, _), size = x.shape, g.shape, len(kernel)
    x, kernel, g = (each.astype(np.float64) for each in (x, kernel, g))
    after = [max(0, (out - 1) * stride + size - side - low) for side, out in ((height, rows), (width, columns))]
    frame = np.pad(x, ((0, 0), (low, after[0]), (low, after[1]), (0, 0)))
    y, d, dkernel = np.zeros(g.shape), np.zeros(frame.shape), np.zeros(kernel.shape)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        for i, j in np.ndindex(size, size):
            met = np.s_[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
            y += frame[met] @ kernel[i, j]
            d[met] += g @ kernel[i, j].T
            dkernel[i, j] = np.tensordot(frame[met], g, ((0, 1, 2), (0, 1, 2)))
    return y, d[:, low : low + height, low : low + width], dkernel


def assert_same_numbers(found, wide, tolerance):
    """Infinities and NaN in the same places, and in no neighbour; the rest as float64 has it."""
    found = np.asarray(found)
    for test in (np.isnan, np.isposinf, np.isneginf):
        np.testing.assert_array_equal(test(found), test(wide))
    finite = np.isfinite(wide)
    scale = max(1.0, float(np.abs(wide[finite]).max(initial=0)))
    np.testing.assert_allclose(found[finite], wide[finite], rtol=0, atol=tolerance * scale)


@seed(25)
@settings(max_examples=60, deadline=None, database=None)
@given(drawn=convolutions())
def test_convolutions_of_any_shape_and_number_are_those_of_float64(drawn):
    """Grey images' gradients too, which are computed eight pixels together, as those of eight channels are by two."""
    x, kernel, g, stride, padding, low = drawn
    y, dx, dkernel = in_float64(x, kernel, g, stride, low)
    assert_same_numbers(native.convolve(x, kernel, stride, low, y.shape[1:3]), y, 1e-5)
    if native.supports(g, x.shape[-1]) or x.shape[-1] == 1:
        assert_same_numbers(blocks._input_gradient(x, kernel, g, stride, padding), dx, 1e-5)
    if np.isfinite(g).all():  # an infinity there meets the zeros around an image, or not
        assert_same_numbers(native.convolve_gradient(x, g, kernel.shape, stride, low), dkernel, 2e-5)


def test_nan_comes_through():
    x = normal(0, (1, 7, 8, 8), np.float32).at[0, 3, 4, 1].set(jnp.nan)
    expected = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    np.testing.assert_array_equal(native.max_pool(x)[0], expected)
    y = native.batch_norm(x, jnp.ones(8), jnp.zeros(8), 1e-3, True)[0]
    np.testing.assert_array_equal(np.isnan(y).all((0, 1, 2)), np.arange(8) == 1)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("images", [(5, 3, 7, 8), (40, 4, 2, 32)])
def test_batch_norm_and_its_gradients(images, relu, dtype):
    x = normal(0, images, dtype) * 3 + 20
    scale, bias = normal(1, images[-1:], dtype), normal(2, images[-1:], dtype)
    g = normal(3, images, dtype)

    @jax.jit
    def plain(x, scale, bias, g):
        (y, mean, variance), pullback = jax.vjp(lambda *a: blocks._normalise_plain(*a, relu), x, scale, bias)
        return y, mean, variance, *pullback((g, jnp.zeros_like(mean), jnp.zeros_like(variance)))

    y, mean, variance, *gradients = plain(*(jnp.asarray(a, dtype) for a in (x, scale, bias, g)))
    found = native.batch_norm(x, scale, bias, 1e-3, relu)
    tolerance = {"rtol": 1e-11, "atol": 1e-11} if dtype is np.float64 else {"rtol": 1e-4, "atol": 2e-4}
    for mine, expected in zip(found, (y, mean, variance), strict=True):
        np.testing.assert_allclose(mine, expected, **tolerance)
    found = native.batch_norm_gradient(x, scale, bias, mean, variance, g, 1e-3, relu)
    for mine, expected in zip(found, gradients, strict=True):
        np.testing.assert_allclose(mine, expected, **tolerance)


def test_batch_statistics_do_not_suffer_from_a_large_mean():
    x = normal(0, (4, 8, 8, 8), np.float32) + 3000
    variance = native.batch_norm(x, jnp.ones(8), jnp.zeros(8), 1e-3, False)[2]
    np.testing.assert_allclose(variance, np.asarray(x, np.float64).var((0, 1, 2)), rtol=1e-4)


def test_sums_do_not_depend_on_the_number_of_threads():
    code = (
        "import os, sys; os.sched_setaffinity(0, range(int(sys.argv[1])))\n"
        "import numpy as np, jax.numpy as jnp; from faceflax import native\n"
        "x, g = (jnp.asarray(np.random.default_rng(s).normal(size=(40, 9, 9, 32)), jnp.float32) for s in (0, 1))\n"
        "print(float(abs(native.depthwise_gradient(x, g)).sum()),"
        " float(abs(native.convolve_gradient(x, g, (3, 3, 32, 32), 1, 1)).sum()))"
    )
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("the number of cores cannot be set on this system")
    cores = sorted({1, len(os.sched_getaffinity(0))})
    results = {subprocess.check_output([sys.executable, "-c", code, str(n)], cwd=ROOT, text=True) for n in cores}
    assert len(results) == 1


def test_mapped_images_join_the_batch_and_mapped_weights_do_not(dtype):
    x, kernel = normal(0, (3, 2, 5, 6, 8), dtype), normal(1, (3, 3, 3, 1, 8), dtype)
    together = jax.vmap(native.depthwise, (0, None))(x, kernel[0])
    for i in range(3):
        np.testing.assert_array_equal(together[i], native.depthwise(x[i], kernel[0]))
    together = jax.vmap(native.depthwise)(x, kernel)
    for i in range(3):
        np.testing.assert_array_equal(together[i], native.depthwise(x[i], kernel[i]))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["mini_xception", "sequential_cnn"])
def test_whole_networks_train_as_with_xla_operators(arch, monkeypatch):
    """Loss, gradients and batch statistics of a training pass in float64, in both engines."""
    with jax.enable_x64(True):
        model = models.create(arch, 7)
        variables = jax.tree.map(lambda a: a.astype(np.float64), models.init(model, jax.random.key(0), 48))
        images, labels = normal(1, (4, 48, 48, 1), np.float64), jnp.array([0, 3, 6, 2])

        def loss_and_gradients(supports):
            def loss(params):
                inputs = {"params": params, "batch_stats": variables["batch_stats"]}
                (logits, _), updates = model.apply(
                    inputs, images, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(5)}
                )
                return -jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], 1).mean(), updates

            monkeypatch.setattr(native, "supports", supports)
            jax.clear_caches()  # the engine is chosen while tracing
            return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

        found = loss_and_gradients(lambda x, *channels: all(c in (8, 16) or c % 32 == 0 for c in channels))
        expected = loss_and_gradients(lambda *_: False)
        jax.clear_caches()
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11)
