"""Class activation maps against their formulas, written out."""

from __future__ import annotations

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax.errors import FaceflaxError
from interpret import graph

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def at_conv2(network):
    """Activations of conv2 and the gradient of each image's class by them, through the rest of the network by hand."""
    model, variables, images = network
    head = variables["params"]["last_conv"]
    _, features = model.apply(variables, images, train=False)
    target = np.array([4, 0, 2])

    def score(conv2):
        logits = nn.Conv(5, (3, 3)).apply({"params": head}, conv2).mean((1, 2))
        return logits[jnp.arange(3), target].sum()

    return target, np.asarray(features["conv2"]), np.asarray(jax.grad(score)(features["conv2"]))


def enlarged(maps):
    return np.stack([cv2.resize(one, (8, 8), interpolation=cv2.INTER_LINEAR) for one in maps])[..., None]


def relu(x):
    return np.maximum(x, 0)


def test_grad_cam(network, at_conv2):
    target, activations, gradients = at_conv2
    signed = (activations * gradients.mean((1, 2), keepdims=True)).sum(-1)
    assert signed.min() < 0 < signed.max()
    ours = interpret.grad_cam(*network, target, layer="conv2")
    np.testing.assert_allclose(ours, enlarged(relu(signed)), rtol=1e-4, atol=1e-6)
    raw = interpret.grad_cam(*network, target, layer="conv2", relu=False, enlarge=False)
    np.testing.assert_allclose(raw, signed[..., None], rtol=1e-4, atol=1e-6)


def test_layer_cam(network, at_conv2):
    target, activations, gradients = at_conv2
    expected = enlarged(relu((activations * relu(gradients)).sum(-1)))
    ours = interpret.layer_cam(*network, target, layer="conv2")
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_grad_cam_plus_plus(network, at_conv2):
    target, activations, gradients = at_conv2
    maps = np.zeros((3, 4, 4), np.float32)
    for n in range(3):
        for k in range(activations.shape[-1]):
            a, g = activations[n, ..., k].astype(np.float64), gradients[n, ..., k].astype(np.float64)
            below = 2 * g**2 + a.sum() * g**3
            share = np.divide(g**2, below, where=below != 0, out=np.zeros_like(g))
            maps[n] += (share * relu(g)).sum() * a
    ours = interpret.grad_cam_plus_plus(*network, target, layer="conv2")
    np.testing.assert_allclose(ours, enlarged(relu(maps)), rtol=1e-3, atol=1e-6)


def test_guided_grad_cam(network):
    product = interpret.guided_backprop(*network, 3) * interpret.grad_cam(*network, 3, layer="conv2")
    np.testing.assert_allclose(interpret.guided_grad_cam(*network, 3, layer="conv2"), product, rtol=1e-5, atol=1e-8)


def test_of_the_last_convolution_it_is_the_class_s_own_map(network):
    """Zhou et al., "Learning Deep Features for Discriminative Localization": what is averaged to the logit."""
    model, variables, images = network
    _, features = model.apply(variables, images, train=False)
    own = enlarged(relu(np.asarray(features["last_conv"])[..., 2]) / 16)
    np.testing.assert_allclose(interpret.grad_cam(*network, 2), own, rtol=1e-5, atol=1e-7)


def test_every_channel_of_an_image_gets_the_map():
    class Net(nn.Module):
        def __call__(self, images, train=False):
            return images[:, :4, :4].mean((1, 2)), {"last_conv": images}

    ours = interpret.grad_cam(Net(), {}, jnp.ones((1, 8, 8, 3)), 1)
    assert ours.shape == (1, 8, 8, 3)
    np.testing.assert_array_equal(ours, np.broadcast_to(ours[..., :1], ours.shape))


@pytest.mark.parametrize(
    ("layer", "message"),
    [("conv9", "layer: unknown 'conv9'; choose one of: conv1"), ("flat", r"layer: 'flat' has shape \(1, 3\)")],
)
def test_wrong_layers(layer, message):
    class Net(nn.Module):
        def __call__(self, images, train=False):
            return images.mean((1, 2)), {"conv1": images, "flat": images.mean((1, 2))}

    with pytest.raises(FaceflaxError, match=message):
        interpret.grad_cam(Net(), {}, jnp.ones((1, 4, 4, 3)), 0, layer=layer)


def test_a_shift_of_a_layer_is_what_the_rest_of_the_network_sees(network):
    model, variables, images = network
    logits, features = graph.with_shift(model, variables, images, "last_conv", jnp.full((3, 4, 4, 5), 2.0))
    expected, plain = model.apply(variables, images, train=False)
    np.testing.assert_allclose(logits, expected + 2, rtol=1e-5)
    np.testing.assert_allclose(features["last_conv"], plain["last_conv"] + 2, rtol=1e-5)
    np.testing.assert_allclose(features["conv2"], plain["conv2"], rtol=1e-6)
