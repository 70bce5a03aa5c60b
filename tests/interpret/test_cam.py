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


def test_grad_cam_plus_plus_of_a_score_of_any_scale():
    """As its gradient goes to zero the map goes to Grad-CAM's weights, positive ones alone, halved; never to zeros."""

    class Net(nn.Module):
        scale: float

        def __call__(self, images, train=False):
            return self.scale * (images * jnp.arange(3.0)[None, None, None]).mean((1, 2)), {"last_conv": images}

    images = jax.random.uniform(jax.random.key(0), (2, 4, 4, 3))
    ours = interpret.grad_cam_plus_plus(Net(1e-25), {}, images, 2)
    expected = interpret.grad_cam(Net(1.0), {}, images, 2) * 1e-25 * 16 / 2
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


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
    traced = graph.trace(model, variables, images)
    (slot,) = traced.place("last_conv", None).sources
    logits, features = traced.answer(traced.run(shifts={slot: jnp.full((3, 4, 4, 5), 2.0)}))
    expected, plain = model.apply(variables, images, train=False)
    np.testing.assert_allclose(logits, expected + 2, rtol=1e-5)
    np.testing.assert_allclose(features["last_conv"], plain["last_conv"] + 2, rtol=1e-5)
    np.testing.assert_allclose(features["conv2"], plain["conv2"], rtol=1e-6)


WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
KERNELS = np.random.default_rng(1).normal(size=(3, 3, 3)).astype(np.float32)


class Copies(nn.Module):
    """A score whose gradient by its activations is known: the squares' weighted sum, with copies of them beside."""

    def __call__(self, images, train=False):
        tokens = jnp.tanh(images).reshape(images.shape[0], 16, 3) @ KERNELS[0]
        tokens = jnp.concatenate([jnp.ones((images.shape[0], 1, 3)), tokens], 1)  # a class token before the grid's
        logits = (tokens**2).sum(1) @ WEIGHTS.T
        grid = tokens[:, 1:].reshape(-1, 4, 4, 3)
        return logits, {
            "grid": grid,
            "transposed": grid.transpose(0, 2, 1, 3),
            "cast": grid.astype(jnp.float16).astype(jnp.float32),
            "parts": jnp.stack([grid[..., 0], grid[..., 2], jnp.zeros(grid.shape[:-1])], -1)[:, ::-1],
            "images": images,
            "beside": grid * 2,
            "stopped": jax.lax.stop_gradient(grid),
            "constant": jnp.ones((images.shape[0], 4, 4, 3)),
            "tokens": tokens,
        }


COPIED = jax.random.uniform(jax.random.key(3), (2, 4, 4, 3), minval=-1.0)


def copies_by_hand(target):
    """The grid, and the gradient by it."""
    grid = np.tanh(np.asarray(COPIED)) @ KERNELS[0]
    return grid, 2 * grid * WEIGHTS[target]


@pytest.mark.parametrize(
    ("layer", "view"),
    [
        ("grid", lambda x: x),
        ("transposed", lambda x: x.transpose(0, 2, 1, 3)),
        ("cast", lambda x: x),
        ("stopped", lambda x: x),
        ("parts", lambda x: np.stack([x[..., 0], x[..., 2], 0 * x[..., 0]], -1)[:, ::-1]),
    ],
)
def test_a_layer_may_be_a_copy_of_what_leads_to_the_score(layer, view):
    """Tokens put on a grid, a transpose, a cast, some of the channels: each has the map of the values it copies."""
    activations, gradients = map(view, copies_by_hand(2))
    signed = (activations * gradients.mean((1, 2), keepdims=True)).sum(-1, keepdims=True)
    assert np.abs(signed).max() > 0.1
    ours = interpret.grad_cam(Copies(), {}, COPIED, 2, layer=layer, relu=False, enlarge=False)
    np.testing.assert_allclose(ours, signed, rtol=5e-3, atol=1e-3)
    raised = relu((activations * relu(gradients)).sum(-1, keepdims=True))
    ours = interpret.layer_cam(Copies(), {}, COPIED, 2, layer=layer)
    np.testing.assert_allclose(ours[..., :1], raised, rtol=5e-3, atol=1e-3)


def test_the_images_themselves_may_be_the_layer():
    expected = jax.grad(lambda x: Copies().apply({}, x)[0][:, 1].sum())(COPIED)
    expected = (COPIED * expected.mean((1, 2), keepdims=True)).sum(-1, keepdims=True)
    ours = interpret.grad_cam(Copies(), {}, COPIED, 1, layer="images", relu=False, enlarge=False)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", [interpret.grad_cam, interpret.grad_cam_plus_plus, interpret.layer_cam])
@pytest.mark.parametrize("layer", ["beside", "constant"])
def test_a_layer_that_does_not_lead_to_the_score_is_refused(method, layer):
    message = f"layer: '{layer}' does not lead to the logits, nor .*; choose one of: cast, grid, images, parts, "
    with pytest.raises(FaceflaxError, match=message):
        method(Copies(), {}, COPIED, 2, layer=layer)


def test_a_layer_above_the_target_is_refused(network):
    message = "layer: 'last_conv' does not lead to the target's layer 'conv1', nor .*; choose one of: conv1(?!,)"
    with pytest.raises(FaceflaxError, match=message):
        interpret.grad_cam(*network, interpret.Neuron("conv1", 0, 0, 0))


def test_a_layer_inside_a_loop():
    """Each round of a scan is a layer; its maps are those of the rounds written one after another."""

    class Rounds(nn.Module):
        scanned: bool

        def __call__(self, images, train=False):
            def one(x, kernel):
                x = jnp.tanh(x @ kernel)
                return x, x

            x, outputs = images, []
            if self.scanned:
                x, outputs = jax.lax.scan(one, x, jnp.asarray(KERNELS))
            else:
                for kernel in KERNELS:
                    x, output = one(x, kernel)
                    outputs.append(output)
            return x.mean((1, 2)), {f"round{i}": outputs[i] for i in range(3)}

    for layer in ("round0", "round1", "round2"):
        scanned, written_out = (
            interpret.grad_cam(Rounds(scanned), {}, COPIED, 1, layer=layer, relu=False) for scanned in (True, False)
        )
        assert np.abs(written_out).max() > 0
        np.testing.assert_allclose(scanned, written_out, rtol=1e-4, atol=1e-6)


def test_hires_cam_and_x_grad_cam(network, at_conv2):
    target, activations, gradients = at_conv2
    ours = interpret.hires_cam(*network, target, layer="conv2")
    np.testing.assert_allclose(ours, enlarged(relu((activations * gradients).sum(-1))), rtol=1e-4, atol=1e-6)
    weights = (activations * gradients).sum((1, 2), keepdims=True) / activations.sum((1, 2), keepdims=True)
    ours = interpret.x_grad_cam(*network, target, layer="conv2")
    np.testing.assert_allclose(ours, enlarged(relu((weights * activations).sum(-1))), rtol=1e-4, atol=1e-5)


def test_eigen_cam(network, at_conv2):
    target, activations, _ = at_conv2
    maps = []
    for one in activations.astype(np.float64):
        matrix = one.reshape(-1, one.shape[-1])
        along = matrix @ np.linalg.svd(matrix, full_matrices=False)[2][0]
        maps.append(relu(along * np.sign(along.sum())).reshape(one.shape[:2]))
    ours = interpret.eigen_cam(*network, target, layer="conv2")
    np.testing.assert_allclose(ours, enlarged(np.array(maps, np.float32)), rtol=1e-3, atol=1e-5)


def test_score_cam(network, at_conv2):
    model, variables, images = network
    target, activations, _ = at_conv2
    scores = []
    for k in range(activations.shape[-1]):
        mask = enlarged(activations[..., k])
        low, high = mask.min((1, 2), keepdims=True), mask.max((1, 2), keepdims=True)
        mask = np.divide(mask - low, high - low, where=high > low, out=np.zeros_like(mask))
        behind = 0.5 + mask * (images - 0.5)
        scores.append(model.apply(variables, behind, train=False)[0][np.arange(3), target])
    weights = np.exp(scores) / np.exp(scores).sum(0)
    expected = enlarged(relu((weights.T[:, None, None] * activations).sum(-1)))
    ours = interpret.score_cam(*network, target, layer="conv2", baseline=0.5)
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)


def test_ablation_cam(network, at_conv2):
    variables = network[1]
    target, activations, _ = at_conv2
    head = {"params": variables["params"]["last_conv"]}

    def score(conv2):
        return np.asarray(nn.Conv(5, (3, 3)).apply(head, conv2).mean((1, 2)))[np.arange(3), target]

    whole, weights = score(activations), []
    for k in range(activations.shape[-1]):
        without = activations.copy()
        without[..., k] = 0
        weights.append((whole - score(without)) / np.abs(whole))
    expected = enlarged(relu((np.array(weights).T[:, None, None] * activations).sum(-1)))
    ours = interpret.ablation_cam(*network, target, layer="conv2")
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)


def test_ablation_of_a_layer_that_is_a_transposed_copy(network):
    """Its channels are those of the value on the way."""
    model, variables, images = network

    class Copied(nn.Module):
        def __call__(self, images, train=False):
            logits, features = model.apply(variables, images, train=False)
            return logits, features | {"copy": features["conv2"].transpose(0, 2, 1, 3)}

    ours = interpret.ablation_cam(Copied(), {}, images, np.array([4, 0, 2]), layer="copy")
    expected = interpret.ablation_cam(model, variables, images, np.array([4, 0, 2]), layer="conv2")
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(ours, np.transpose(expected, (0, 2, 1, 3)), rtol=1e-4, atol=1e-6)
