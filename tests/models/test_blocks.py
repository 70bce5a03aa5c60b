"""The fast forms against XLA's own operators, in float64: values, gradients, ties, odd and even sizes."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
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


def plain_conv(x, kernel, stride=1, padding="VALID"):
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=LAYOUT)


def conv(x, kernel, stride=1, padding="VALID"):
    return blocks.conv(x, kernel, stride, padding)


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
def test_conv_is_a_valid_convolution(size, inputs):
    assert_same(conv, plain_conv, normal(0, (2, *size, inputs)), normal(1, (3, 3, inputs, 5)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("side", "stride"), [(1, 1), (1, 2), (5, 1)])
def test_conv_of_other_sizes_and_strides_is_a_same_convolution(size, side, stride):
    options = {"stride": stride, "padding": "SAME"}
    kernel = normal(1, (side, side, 3, 5))
    assert_same(partial(conv, **options), partial(plain_conv, **options), normal(0, (2, *size, 3)), kernel)


@pytest.mark.parametrize("relu", [False, True])
def test_normalise_is_flax_batch_norm(relu):
    x, scale, bias = normal(0, (3, 5, 4, 6)) * 2 + 1, normal(1, (6,)), normal(2, (6,))
    layer = nn.BatchNorm(use_running_average=False, momentum=0.99, epsilon=1e-3)
    stats = {"mean": jnp.zeros(6), "var": jnp.ones(6)}

    def flax(x, scale, bias):
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
        y = layer.apply(variables, x, mutable=["batch_stats"])[0]
        return nn.relu(y) if relu else y

    assert_same(lambda *arguments: blocks.normalise(*arguments, relu)[0], flax, x, scale, bias)
    _, mean, variance = blocks.normalise(x, scale, bias, relu)
    np.testing.assert_allclose(mean, np.mean(x, (0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(variance, np.var(x, (0, 1, 2)), rtol=1e-12)


@pytest.mark.parametrize("activation", [None, nn.relu, nn.tanh])
def test_batch_norm_of_a_convolution_is_flax_conv_and_batch_norm(activation):
    """Values, gradients and statistics in training; values and gradients with the running statistics."""

    class Flax(nn.Module):
        train: bool

        @nn.compact
        def __call__(self, x):
            x = nn.Conv(6, (3, 3), name="conv")(x)
            x = nn.BatchNorm(not self.train, momentum=0.99, epsilon=1e-3, name="bn")(x)
            return x if activation is None else activation(x)

    class Ours(nn.Module):
        train: bool

        @nn.compact
        def __call__(self, x):
            layer = blocks.Conv(6, 3, use_bias=True, name="conv")
            return blocks.BatchNorm(not self.train, name="bn")(layer, x, activation)

    x = normal(0, (3, 5, 4, 2))
    shapes, expected = (jax.eval_shape(net.init, jax.random.key(0), x) for net in (Ours(True), Flax(True)))
    assert jax.tree.map(lambda a: a.shape, shapes) == jax.tree.map(lambda a: a.shape, expected)
    variables = jax.tree.map_with_path(lambda path, a: jnp.abs(normal(len(str(path)), a.shape)) + 0.1, shapes)

    def trained(module):
        def loss(params):
            y, updates = module.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return (y * normal(5, y.shape)).sum(), (y, updates)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    for train in (True, False):
        found, expected = trained(Ours(train)), trained(Flax(train))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6), found, expected)


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


@pytest.mark.parametrize(("function", "kernel_shape"), [(blocks.depthwise_conv, (3, 3, 1, 2)), (conv, (3, 3, 2, 3))])
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
    np.testing.assert_allclose(layer.apply({"params": kernels}, x)[0], expected, rtol=1e-12, atol=1e-12)
