"""DeepLIFT: complete on every kind of network, its rule by hand, and its mean over baselines."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax.errors import FaceflaxError


class Dense(nn.Module):
    def __call__(self, images, train=False):
        x = nn.relu(images.reshape(images.shape[0], -1) @ FIRST + 0.2)
        return jnp.tanh(x) @ SECOND, {"hidden": x}


FIRST = np.random.default_rng(0).normal(size=(6, 5))
SECOND = np.random.default_rng(1).normal(size=(5, 3))


def test_rescale_rule_by_hand():
    images = np.random.default_rng(2).uniform(-1, 1, (4, 2, 3, 1))
    baseline = 0.3
    with jax.enable_x64(True):
        ours = interpret.deep_lift(Dense(), {}, images, 2, baseline=baseline)
    x, x0 = images.reshape(4, 6), np.full((4, 6), baseline)
    z, z0 = x @ FIRST + 0.2, x0 @ FIRST + 0.2
    y, y0 = np.tanh(np.maximum(z, 0)), np.tanh(np.maximum(z0, 0))
    expected = (x - x0) * ((y - y0) / (z - z0) * SECOND[:, 2] @ FIRST.T)
    np.testing.assert_allclose(ours.reshape(4, 6), expected, rtol=1e-9, atol=1e-12)


class Everything(nn.Module):
    """Max-pooling, BatchNorm, attention, LayerNorm, GELU, SiLU gates, ReLUs in other spellings, a loop."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.BatchNorm(use_running_average=True)(nn.Conv(6, (3, 3))(images))
        x = nn.max_pool(jnp.where(x > 0, x, 0.1 * x), (2, 2), (2, 2))
        x = jnp.maximum(nn.Conv(8, (3, 3))(x), 0)
        x = jnp.maximum(x, nn.Conv(8, (1, 1))(x))
        tokens = x.reshape(x.shape[0], -1, 8)
        tokens = tokens + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(tokens))
        tokens = tokens + nn.Dense(8)(nn.gelu(nn.Dense(9)(tokens)) * nn.silu(nn.Dense(9)(tokens)))
        tokens = jax.lax.fori_loop(0, 3, lambda i, t: t + jnp.tanh(t) / (1 + t**2), tokens)
        return nn.Dense(4)(tokens.mean(1)), {"tokens": tokens}


def random_variables(module, images, seed=0):
    generator = np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return generator.uniform(0.5, 2, leaf.shape)
        return generator.normal(size=leaf.shape) * 0.5

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("target", [1, interpret.Channel("tokens", 3)])
def test_sums_to_the_difference_of_scores_whatever_the_network_is_made_of(target):
    images = np.random.default_rng(3).uniform(-1, 1, (2, 6, 8, 2))
    with jax.enable_x64(True):
        variables = random_variables(Everything(), images)
        ours = interpret.deep_lift(Everything(), variables, images, target, baseline=-0.2)
        scores = []
        for x in (images, np.full_like(images, -0.2)):
            logits, features = Everything().apply(variables, x)
            scores.append(np.asarray(logits[:, 1] if target == 1 else features["tokens"][..., 3].mean(1)))
        ours = np.asarray(ours)
    np.testing.assert_allclose(ours.sum((1, 2, 3)), scores[0] - scores[1], rtol=1e-9)
    assert np.abs(ours).max() > 1e-3


def test_of_a_linear_network_it_is_the_difference_times_the_weights(network):
    images = np.random.default_rng(4).uniform(-1, 1, (3, 2, 3, 1)).astype(np.float32)

    class Linear(nn.Module):
        def __call__(self, images, train=False):
            return images.reshape(images.shape[0], -1) @ jnp.asarray(FIRST, jnp.float32), {}

    ours = interpret.deep_lift(Linear(), {}, images, 3, baseline=0.5)
    np.testing.assert_allclose(ours.reshape(3, 6), (images.reshape(3, 6) - 0.5) * FIRST[:, 3], rtol=1e-5, atol=1e-6)


def test_shap_is_the_mean_over_baselines(network):
    model, variables, images = network
    grounds = jax.random.uniform(jax.random.key(5), (4, 8, 8, 1), minval=-1.0)
    ours = interpret.deep_lift_shap(model, variables, images, 1, baselines=grounds)
    each = [interpret.deep_lift(model, variables, images, 1, baseline=ground) for ground in grounds]
    np.testing.assert_allclose(ours, np.mean(each, 0), rtol=1e-4, atol=1e-6)
    scores, others = (model.apply(variables, x, train=False)[0][:, 1] for x in (images, grounds))
    np.testing.assert_allclose(ours.sum((1, 2, 3)), scores - others.mean(), rtol=1e-3, atol=1e-4)


class Sorting(nn.Module):
    def __call__(self, images, train=False):
        return jnp.sort(images.reshape(images.shape[0], -1), 1)[:, :2], {}


def test_what_has_no_rule_is_named(network):
    images = jnp.ones((1, 2, 3, 1))
    with pytest.raises(FaceflaxError, match="its operation 'sort' on activations has no rule of DeepLIFT; use another"):
        interpret.deep_lift(Sorting(), {}, images, 0)
    with pytest.raises(FaceflaxError, match=r"baselines: shape \(2, 4, 4, 1\) is not \[count, 8, 8, 1\]"):
        interpret.deep_lift_shap(*network, 0, baselines=jnp.zeros((2, 4, 4, 1)))
