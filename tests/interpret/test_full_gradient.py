"""FullGrad: its parts sum to the score of any network, and the map is the paper's."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from interpret.full_gradient import full_gradients
from interpret.graph import trace
from interpret.targets import as_score


class Net(nn.Module):
    """Biases, BatchNorm, an average and a maximum, ReLU; or a gate and a normalisation as well."""

    smooth: bool = False

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(nn.Conv(3, (3, 3), name="conv")(images)))
        x = nn.max_pool(x, (2, 2), (2, 2)) - 0.3
        if self.smooth:
            x = nn.LayerNorm()(nn.gelu(x) * nn.sigmoid(nn.Dense(3)(x)) / (1 + x**2))
            x = nn.softmax(x) + jax.lax.stop_gradient(jnp.tanh(x))
        return nn.Dense(4, name="head")(x.mean((1, 2))), {"last_conv": x}


def random_variables(module, images):
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    return jax.tree.map(lambda leaf: generator.uniform(0.3, 1.2, leaf.shape), shapes)


@pytest.mark.slow
@pytest.mark.parametrize("smooth", [False, True])
def test_its_parts_sum_to_the_score(smooth):
    images = np.random.default_rng(1).uniform(-1, 1, (2, 4, 6, 2))
    with jax.enable_x64(True):
        variables = random_variables(Net(smooth), images)
        answer = Net(smooth).apply(variables, images)
        parts = full_gradients(trace(Net(smooth), variables, images, plain=True), as_score(2, "", *answer))
        sums = sum(np.asarray(part).reshape(part.shape[0], -1).sum(1) for part in parts)
        scores = np.asarray(answer[0][:, 2])
    np.testing.assert_allclose(sums, scores, rtol=1e-9)


def test_the_map_is_that_of_the_paper():
    """Through a network whose biases are written as inputs, so that their gradients are JAX's own."""
    images = np.random.default_rng(2).uniform(-1, 1, (2, 6, 6, 1)).astype(np.float32)
    kernel = np.random.default_rng(3).normal(size=(3, 3, 1, 3)).astype(np.float32)
    bias = np.array([0.3, -0.2, 0.1], np.float32)

    def score(x, b):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + b
        return nn.relu(y).mean((1, 2))[:, 1] * 3

    class Function(nn.Module):
        def __call__(self, images, train=False):
            return score(images, bias[None, None, None])[:, None], {}

    everywhere = np.broadcast_to(bias, (2, 6, 6, 3))
    to_image, to_bias = jax.grad(lambda x, b: score(x, b).sum(), (0, 1))(jnp.asarray(images), jnp.asarray(everywhere))
    expected = np.zeros((2, 6, 6))
    for part in (images * to_image, everywhere * to_bias):
        size = np.abs(np.asarray(part))
        low, high = size.min((1, 2, 3), keepdims=True), size.max((1, 2, 3), keepdims=True)
        expected += ((size - low) / (high - low)).sum(-1)
    ours = interpret.full_grad(Function(), {}, images, 0)
    np.testing.assert_allclose(ours[..., 0], expected, rtol=1e-4, atol=1e-5)
