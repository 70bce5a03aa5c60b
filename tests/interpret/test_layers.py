"""Attributions of a layer's activations: sums that must hold, and formulas by hand."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax.errors import FaceflaxError


@pytest.mark.parametrize("method", [interpret.layer_integrated_gradients, interpret.layer_conductance])
@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_sums_to_the_difference_of_scores(network, method, layer):
    model, variables, images = network
    ours = method(model, variables, images, 2, layer=layer, steps=200, baseline=-0.3)
    logits, features = model.apply(variables, images, train=False)
    assert ours.shape == features[layer].shape
    start = model.apply(variables, jnp.full_like(images, -0.3), train=False)[0]
    difference = (logits - start)[:, 2]
    np.testing.assert_allclose(ours.sum((1, 2, 3)), difference, atol=0.01 * np.abs(difference).max())


def test_conductance_of_the_pixels_is_integrated_gradients(network):
    model, variables, images = network

    class Seen(nn.Module):
        def __call__(self, images, train=False):
            logits, features = model.apply(variables, 2 * images, train=False)
            return logits, features | {"twice": 2 * images}

    expected = interpret.integrated_gradients(Seen(), {}, images, 1, steps=5)

    class Before(nn.Module):
        def __call__(self, images, train=False):
            twice = 2 * images
            logits = model.apply(variables, twice, train=False)[0]
            return logits, {"twice": twice.transpose(0, 3, 1, 2)}

    ours = interpret.layer_conductance(Before(), {}, images, 1, layer="twice", steps=5)
    np.testing.assert_allclose(ours.transpose(0, 2, 3, 1), expected, rtol=1e-3, atol=1e-6)


class Curved(nn.Module):
    """y = x^2, s = sum y^2 / 2, so that ds/dy = y."""

    def __call__(self, images, train=False):
        y = images**2
        return (y**2).sum((1, 2)) / 2, {"y": y, "beside": images + 1}


def test_closed_forms():
    images = jax.random.uniform(jax.random.key(0), (2, 3, 4, 1), minval=-1.0)
    arguments = (Curved(), {}, images, 0)
    ours = interpret.layer_integrated_gradients(*arguments, layer="y", steps=20)
    np.testing.assert_allclose(ours, images**4 / 2, rtol=1e-4, atol=1e-6)  # y times the mean of t y
    ours = interpret.internal_influence(*arguments, layer="y", steps=400)
    np.testing.assert_allclose(ours, images**2 / 3, rtol=1e-4, atol=1e-6)  # the mean of (t x)^2
    ours = interpret.layer_conductance(*arguments, layer="y", steps=400)
    np.testing.assert_allclose(ours, images**4 / 2, rtol=1e-4, atol=1e-6)  # the integral of (t x)^2 2 t x^2


def test_a_layer_beside_the_way_is_refused(network):
    images = jnp.ones((1, 3, 4, 1))
    with pytest.raises(FaceflaxError, match=r"layer: 'beside' does not lead to the logits.*choose one of: y"):
        interpret.layer_conductance(Curved(), {}, images, 0, layer="beside")
    with pytest.raises(FaceflaxError, match="steps: 0 is out of range"):
        interpret.internal_influence(Curved(), {}, images, 0, layer="y", steps=0)
