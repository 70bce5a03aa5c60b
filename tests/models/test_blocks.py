"""The fast forms against XLA's own operators, in float64: values, gradients, ties, odd and even sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from faceflax.models import blocks

LAYOUT = ("NHWC", "HWIO", "NHWC")
SIZES = [(3, 4), (4, 3), (7, 7), (8, 8)]


def plain_depthwise(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT, feature_group_count=x.shape[-1]
    )


def plain_conv(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=LAYOUT)


def plain_max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_same(function, plain, *arguments):
    """Equal values, and equal gradients of a random projection for every argument."""

    @jax.jit
    def values_and_gradients(*arguments):
        results = []
        for form in (function, plain):
            value, pullback = jax.vjp(form, *arguments)
            results.append((value, *pullback(normal(9, value.shape))))
        return results

    for found, expected in zip(*values_and_gradients(*arguments), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_depthwise_conv_is_a_grouped_convolution(size):
    assert_same(blocks.depthwise_conv, plain_depthwise, normal(0, (3, *size, 4)), normal(1, (3, 3, 1, 4)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("inputs", [1, 3])
def test_stem_conv_is_a_valid_convolution(size, inputs):
    assert_same(blocks.stem_conv, plain_conv, normal(0, (2, *size, inputs)), normal(1, (3, 3, inputs, 5)))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), *SIZES])
def test_max_pool_is_a_window_maximum(size):
    assert_same(blocks.max_pool, plain_max_pool, normal(0, (2, *size, 3)))


@pytest.mark.parametrize("size", SIZES)
def test_max_pool_gives_a_tie_to_the_pixel_that_reduce_window_does(size):
    ties = jnp.asarray(np.random.default_rng(0).integers(0, 3, (4, *size, 3)), jnp.float64)
    assert_same(blocks.max_pool, plain_max_pool, ties.at[0].set(0))


def test_max_pool_lets_nan_through():
    x = normal(0, (1, 7, 8, 2)).at[0, 3, 4, 1].set(jnp.nan)
    np.testing.assert_array_equal(blocks.max_pool(x), plain_max_pool(x))


@pytest.mark.parametrize(
    ("function", "kernel_shape"), [(blocks.depthwise_conv, (3, 3, 1, 2)), (blocks.stem_conv, (3, 3, 2, 3))]
)
def test_second_derivatives_of_the_convolutions(function, kernel_shape):
    check_grads(jax.jit(function), (normal(0, (2, 5, 4, 2)), normal(1, kernel_shape)), order=2, modes=["rev"])


def test_gradients_of_many_targets_in_one_vmap():
    x, kernel, cotangents = normal(0, (1, 6, 6, 2)), normal(1, (3, 3, 1, 2)), normal(2, (5, 1, 6, 6, 2))
    _, pullback = jax.vjp(blocks.depthwise_conv, x, kernel)
    for together, one_by_one in zip(jax.vmap(pullback)(cotangents), jax.lax.map(pullback, cotangents), strict=True):
        np.testing.assert_allclose(together, one_by_one, rtol=1e-12, atol=1e-12)


def test_separable_conv_is_depthwise_then_pointwise():
    x = normal(0, (2, 6, 5, 3))
    layer = blocks.SeparableConv(4)
    kernels = {"depthwise": normal(1, (3, 3, 1, 3)), "pointwise": normal(2, (3, 4))}
    expected = lax.conv_general_dilated(
        plain_depthwise(x, kernels["depthwise"]),
        kernels["pointwise"][None, None],
        (1, 1),
        "SAME",
        dimension_numbers=LAYOUT,
    )
    np.testing.assert_allclose(layer.apply({"params": kernels}, x), expected, rtol=1e-12, atol=1e-12)
