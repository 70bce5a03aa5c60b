"""What all methods have in common."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax.errors import FaceflaxError
from interpret import methods

# As the registry has them, and with less work.
QUICK = {
    "integrated_gradients": {"steps": 3},
    "occlusion": {"patch": 4, "stride": 4},
    "rise": {"masks": 8, "cells": 2},
    "expected_gradients": {"samples": 3},
    "guided_integrated_gradients": {"steps": 3},
    "blur_integrated_gradients": {"steps": 3},
    "shapley_sampling": {"permutations": 2},
    "kernel_shap": {"samples": 64},
    "lime": {"samples": 40},
    "sobol": {"designs": 4, "cells": 2},
    "hsic": {"masks": 16, "cells": 2},
    "extremal_perturbation": {"steps": 5, "cells": 4},
}


# Some of every kind, those that compile fast.
FAST = {"gradient", "guided_integrated_gradients", "guided_backprop", "full_grad", "deep_lift", "grad_cam", "score_cam"}
FAST |= {"lrp_epsilon", "attn_lrp", "occlusion", "lime"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
        for name in methods.METHODS
        if name not in methods.ATTENTION
    ],
)
def test_one_contract(network, name):
    """Of the images' shape, finite, the same alone as in a batch, and mapped over all classes in one call."""
    model, variables, images = network
    method = partial(methods.METHODS[name], model, variables, **QUICK.get(name, {}), layer="conv2")
    every = jax.jit(jax.vmap(partial(method, images)))(jnp.arange(5))
    assert every.shape == (5, *images.shape)
    assert np.isfinite(every).all()
    assert (np.asarray(every).min() >= 0) == (name in methods.UNSIGNED)
    each = np.stack([every[target, i] for i, target in enumerate((4, 0, 3))])
    highest = np.abs(every).max()
    assert highest > 0
    for ours, expected in (
        (method(images, np.array([4, 0, 3])), each),
        (method(images[1:2], 0)[0], every[0, 1]),
        (method(images[::-1], 0)[1:], every[0, 1::-1]),
    ):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * highest)


THREE = np.array([0, 1, 5])


@pytest.mark.parametrize(
    ("target", "score"),
    [
        (interpret.Channel("conv2", 3), lambda logits, f: f["conv2"][..., 3].mean((1, 2))),
        (interpret.Channel("conv2", THREE), lambda logits, f: f["conv2"].mean((1, 2))[jnp.arange(3), THREE]),
        (interpret.Layer("conv1"), lambda logits, f: f["conv1"].mean((1, 2, 3))),
        (interpret.Difference(4, 1), lambda logits, f: logits[:, 4] - logits[:, 1]),
        (interpret.Neuron("conv1", 2, 7, 1), lambda logits, f: f["conv1"][:, 2, 7, 1]),
    ],
)
def test_targets(network, target, score):
    model, variables, images = network
    expected = jax.grad(lambda x: score(*model.apply(variables, x, train=False)).sum())(images)
    np.testing.assert_allclose(interpret.gradient(model, variables, images, target), expected, rtol=1e-5, atol=1e-7)
    changed = interpret.occlusion(model, variables, images, target, patch=8, stride=1)  # the whole image
    scores = [score(*model.apply(variables, x, train=False)) for x in (images, jnp.zeros_like(images))]
    np.testing.assert_allclose(changed[:, 0, 0, 0], scores[0] - scores[1], rtol=1e-3, atol=1e-5)


def test_channels_are_mapped_over(network):
    model, variables, images = network
    every = jax.vmap(lambda c: interpret.gradient(model, variables, images, interpret.Channel("conv2", c)))(
        jnp.arange(6)
    )
    expected = interpret.gradient(model, variables, images, interpret.Channel("conv2", 5))
    np.testing.assert_allclose(every[5], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (interpret.Channel("conv9", 0), "layer: unknown 'conv9'; choose one of: conv1, conv2, last_conv"),
        (interpret.Channel("conv2", 6), "target.channel: 6 is out of range; give 0 to 5"),
        (interpret.Layer("conv9"), "layer: unknown 'conv9'"),
        (interpret.Difference(0, 5), "target.second: 5 is out of range; give 0 to 4"),
        (interpret.Difference(-1, 0), "target.first: -1 is out of range"),
    ],
)
def test_wrong_targets(network, target, message):
    with pytest.raises(FaceflaxError, match=message):
        interpret.gradient(*network, target)


def test_every_public_name_is_there():
    assert set(interpret.__all__) <= {name for name in interpret.__all__ if hasattr(interpret, name)}
    assert {name for home in interpret._HOMES.values() for name in home} == set(interpret.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        interpret.nothing  # noqa: B018


class Linear(nn.Module):
    def __call__(self, images, train=False):
        score = (images * WEIGHTS[None]).sum((1, 2, 3))
        return jnp.stack([score, -score], -1), {"last_conv": images}


WEIGHTS = np.random.default_rng(0).choice([-1.0, 1.0], (6, 7, 1)).astype(np.float32)


def test_activation_maximisation():
    """A linear score is highest at the corner that its weights point to; smoothness holds it back from there."""
    start, target = jnp.zeros((2, 6, 7, 1)), jnp.array([0, 1])
    climb = partial(interpret.activation_maximisation, Linear(), {}, start, target, steps=60)
    best = climb(jitter=0, smoothness=0.0)
    np.testing.assert_allclose(best, np.stack([WEIGHTS, -WEIGHTS]), atol=1e-6)
    smooth = climb(jitter=0, smoothness=1.0)
    assert np.abs(np.diff(smooth, axis=1)).mean() < 0.5 * np.abs(np.diff(best, axis=1)).mean()
    assert (Linear().apply({}, smooth)[0][jnp.arange(2), target] > 0).all()
    moved = climb(jitter=2, smoothness=0.0)
    assert np.abs(moved).max() <= 1
    assert not np.allclose(moved, best, atol=0.1)
