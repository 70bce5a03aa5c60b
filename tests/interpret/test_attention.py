"""Attention rollout and relevance against the formula, with the attention that Flax itself records."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax.errors import FaceflaxError


class ViT(nn.Module):
    """Six patches and, if ``token``, a class token; attention by hand, so that its weights can be moved and
    returned."""

    token: bool = True

    @nn.compact
    def __call__(self, images, shifts=(0.0, 0.0), train=False):
        x = nn.Conv(8, (4, 4), 4, padding="VALID", name="patches")(images).reshape(images.shape[0], -1, 8)
        if self.token:
            token = self.param("token", nn.initializers.normal(1.0), (1, 1, 8))
            x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, 8)), x], 1)
        maps = []
        for i, shift in enumerate(shifts):
            y = nn.LayerNorm(name=f"norm{i}")(x)
            query, key, value = (nn.DenseGeneral((2, 4), name=f"{n}{i}")(y) for n in ("query", "key", "value"))
            weights = jax.nn.softmax(jnp.einsum("nqhc,nkhc->nhqk", query, key) / 2) + shift
            maps.append(weights)
            mixed = jnp.einsum("nhqk,nkhc->nqhc", weights, value)
            x = x + nn.DenseGeneral(8, axis=(-2, -1), name=f"out{i}")(mixed)
        return nn.Dense(3, name="head")(x[:, 0] if self.token else x.mean(1)), {"last": x, "0": maps[0], "1": maps[1]}


IMAGES = jax.random.uniform(jax.random.key(1), (2, 8, 12, 3), minval=-1.0)


@pytest.fixture(scope="module", params=[True, False], ids=["class token", "mean"])
def vit(request):
    module = ViT(request.param)
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), IMAGES)
    return module, jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32) * 0.4, shapes)


def drawn(flow, token):
    row = (flow[:, 0] if token else flow.mean(1))[:, -6:].reshape(2, 2, 3)
    return np.repeat(np.asarray(jax.image.resize(row, (2, 8, 12), "linear"))[..., None], 3, -1)


def test_rollout(vit):
    module, variables = vit
    features = module.apply(variables, IMAGES)[1]
    flow = np.eye(6 + module.token)[None]
    for name in ("0", "1"):
        flow = (0.3 * np.eye(flow.shape[-1]) + 0.7 * np.asarray(features[name]).mean(1)) @ flow
    token = 0 if module.token else None
    ours = interpret.attention_rollout(module, variables, IMAGES, 1, token=token, residual=0.3)
    np.testing.assert_allclose(ours, drawn(flow, module.token), rtol=1e-4, atol=1e-6)


def test_relevance(vit):
    module, variables = vit
    features = module.apply(variables, IMAGES)[1]
    shifts = tuple(jnp.zeros_like(features[name]) for name in ("0", "1"))
    gradients = jax.jit(jax.grad(lambda s: module.apply(variables, IMAGES, s)[0][:, 2].sum()))(shifts)
    flow = np.eye(6 + module.token)[None]
    for name, gradient in zip(("0", "1"), gradients, strict=True):
        flow = flow + np.maximum(np.asarray(features[name]) * np.asarray(gradient), 0).mean(1) @ flow
    token = 0 if module.token else None
    ours = interpret.attention_relevance(module, variables, IMAGES, 2, token=token)
    expected = drawn(flow - np.eye(flow.shape[-1]), module.token)
    assert expected.max() > 0
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-6)


class Flax(nn.Module):
    """The attention of Flax, and of JAX."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(8, (4, 4), 4, padding="VALID", name="patches")(images).reshape(images.shape[0], -1, 8)
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(x, sow_weights=True)
        heads = x.reshape(*x.shape[:2], 2, 4)
        x = x + jax.nn.dot_product_attention(heads, heads, heads).reshape(x.shape)
        return x.mean(1), {"last": x}


def test_attention_is_found_in_modules_and_functions():
    variables = jax.tree.map(lambda x: 2 * x, jax.jit(Flax().init)(jax.random.key(0), IMAGES))
    variables = {"params": variables["params"]}
    _, state = Flax().apply(variables, IMAGES, mutable=["intermediates"])
    (first,) = state["intermediates"]["attention"]["attention_weights"]
    embedded = nn.Conv(8, (4, 4), 4, padding="VALID").apply({"params": variables["params"]["patches"]}, IMAGES)
    embedded = embedded.reshape(2, -1, 8)
    attended = nn.MultiHeadDotProductAttention(2).apply({"params": variables["params"]["attention"]}, embedded)
    heads = (embedded + attended).reshape(2, 6, 2, 4)
    second = jax.nn.softmax(jnp.einsum("nqhc,nkhc->nhqk", heads, heads) / 2)
    flow = np.eye(6)[None]
    for weights in (first, second):
        flow = (np.eye(6) + np.asarray(weights).mean(1)) / 2 @ flow
    ours = interpret.attention_rollout(Flax(), variables, IMAGES, 0, token=None)
    np.testing.assert_allclose(ours, drawn(flow, False), rtol=1e-4, atol=1e-6)


def test_what_cannot_be_done(network, vit):
    with pytest.raises(FaceflaxError, match=r"model: Small computes no self-attention, a softmax over \[batch, heads"):
        interpret.attention_rollout(*network, 0)
    module, variables = vit
    with pytest.raises(FaceflaxError, match=r"grid: .*tokens are not on a grid of '\(3, 3\)'; give the rows"):
        interpret.attention_relevance(module, variables, IMAGES, 0, grid=(3, 3))
    with pytest.raises(FaceflaxError, match="token: 9 is out of range"):
        interpret.attention_rollout(module, variables, IMAGES, 0, token=9)
    with pytest.raises(FaceflaxError, match=r"residual: 2.0 is out of range; give 0 to 1"):
        interpret.attention_rollout(module, variables, IMAGES, 0, residual=2.0)
