"""Networks as people write them, each through `interpret.wrap`, against plain JAX of the same network."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import interpret
from experiments.interpretation import networks
from experiments.interpretation.networks import IMAGES, QUICK, Encoder, NnxResNet, ViT, plain
from faceflax.errors import FaceflaxError
from interpret.methods import ATTENTION, METHODS


def made(name):
    """The network, if its framework is installed."""
    try:
        return networks.NETWORKS[name]()
    except ImportError as error:
        pytest.skip(f"{name} needs a package that is not installed: {error.name or error}")


RELUS = {"guided_backprop", "deconvnet", "guided_grad_cam"}
RULES = {name for name in METHODS if name.startswith("lrp_")}
REFUSED = {
    "ConvNeXt": RELUS | RULES | ATTENTION,
    "ViT": RELUS | RULES,
    "MLP-Mixer": RELUS | RULES | ATTENTION,
    "ResNet, NNX": RULES | ATTENTION,
}
"""For want of a ReLU, of a rule for LayerNorm, GroupNorm, GELU and attention, or of attention, which most lack."""


@pytest.mark.parametrize("network", networks.NETWORKS)
def test_the_gradient_is_that_of_the_network_itself(network):
    arguments, options, logits, _ = made(network)
    model, variables = interpret.wrap(*arguments, **options)
    own, expected = jax.jit(lambda x: (logits(x), jax.grad(lambda x: logits(x)[:, -1].sum())(x)))(IMAGES)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, IMAGES)[0], own, rtol=1e-3, atol=1e-4)
    ours = interpret.gradient(model, variables, IMAGES, own.shape[1] - 1)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("network", networks.NETWORKS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_on_every_network(network, name):
    """It runs, and an image's map is the same alone and in a batch; or it says why it cannot."""
    arguments, options, _, layer = made(network)
    model = interpret.wrap(*arguments, **options)
    method = partial(METHODS[name], *model, **QUICK.get(name, {}), layer=layer)
    if name in REFUSED.get(network, ATTENTION):
        with pytest.raises(FaceflaxError, match=r"applies no ReLU|has no rule of relevance|computes no self-attention"):
            method(IMAGES, 0)
        return
    maps = method(IMAGES, 0)
    assert maps.shape == IMAGES.shape
    assert np.isfinite(maps).all()
    classes = jax.eval_shape(model[0].apply, model[1], IMAGES)[0].shape[1]
    assert any(np.abs(method(IMAGES, target)).max() > 0 for target in range(classes))  # of one a map may be cut to zero
    np.testing.assert_allclose(method(IMAGES[1:], 0)[0], maps[1], rtol=0, atol=2e-5 * np.abs(maps).max())


def test_grad_cam_of_a_transformer_s_tokens_is_the_formula():
    """Through the rest of the network by hand: the last encoder, the norm and the head."""
    (module, variables), options, _, layer = made("ViT")
    params = variables["params"]
    layers = jax.jit(partial(module.apply, capture_intermediates=True))(variables, IMAGES)[1]["intermediates"]
    tokens = layers["encoder0"]["__call__"][0]

    def score(tokens):
        x = Encoder().apply({"params": params["encoder1"]}, tokens)
        x = nn.LayerNorm().apply({"params": params["norm"]}, x)[:, 0]
        return nn.Dense(3).apply({"params": params["head"]}, x)[:, 2].sum()

    gradients = np.asarray(jax.jit(jax.grad(score))(tokens))[:, 1:].reshape(2, 2, 3, 8)
    activations = np.asarray(tokens)[:, 1:].reshape(2, 2, 3, 8)
    expected = (activations * gradients.mean((1, 2), keepdims=True)).sum(-1, keepdims=True)
    model = interpret.wrap(module, variables, **options)
    ours = interpret.grad_cam(*model, IMAGES, 2, layer=layer, relu=False, enlarge=False)
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("network", ["function, channels first", "pytree of one image", "Equinox", "Haiku", "Keras 3"])
@pytest.mark.parametrize("name", ["grad_cam", "guided_backprop", "lrp_alpha_beta"])
def test_channels_first_and_single_images_have_the_maps_of_channels_last(network, name):
    (function,), _, _, layer = made("function")
    expected = METHODS[name](*interpret.wrap(function), IMAGES, 1, layer=layer)
    arguments, options, _, layer = made(network)
    ours = METHODS[name](*interpret.wrap(*arguments, **options), IMAGES, 1, layer=layer)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-6)


def test_a_pixel_of_a_mask_is_a_neuron():
    (module, variables), options, _, _ = made("U-Net, label")
    model = interpret.wrap(module, variables, **options)
    ours = interpret.gradient(*model, IMAGES, interpret.Neuron("output/mask", 3, 7, 1))
    expected = jax.jit(jax.grad(lambda x: module.apply(variables, x)["mask"][:, 3, 7, 1].sum()))(IMAGES)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["grad_cam", "integrated_gradients", "smooth_grad", "var_grad", "rise", "lrp_epsilon"])
def test_half_precision_has_the_maps_of_float32(name):
    """With its own rounding, which sums over many copies of an image do not add to, and the same noise."""
    method = partial(METHODS[name], *interpret.wrap(plain), layer="hidden", **QUICK.get(name, {}))
    expected, ours = (np.asarray(method(IMAGES.astype(dtype), 1), np.float32) for dtype in (jnp.float32, jnp.float16))
    assert np.linalg.norm(ours - expected) < 0.02 * np.linalg.norm(expected)


def test_variables_of_a_function_are_its_first_argument():
    def network(kernel, images):
        return (images @ kernel).mean((1, 2))

    kernel = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    ours = interpret.gradient(*interpret.wrap(network, kernel), IMAGES, 2)
    np.testing.assert_allclose(ours, np.broadcast_to(kernel[:, 2] / 96, IMAGES.shape), rtol=1e-5)


def dense(x):
    return x


def several(x):
    return {"mask": x, "label": x.mean((1, 2))}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interpret.wrap({}), "model: dict is neither a module nor a function"),
        (lambda: interpret.wrap(ViT()), "variables: ViT holds none; give those it was trained to"),
        (lambda: interpret.wrap(NnxResNet(nnx.Rngs(0)), {}), "variables: NnxResNet holds its own; leave them out"),
        (lambda: interpret.wrap(plain, train=False), "options: .train. are of a module's call; bind them"),
        (lambda: interpret.wrap(ViT(), {}, per_image=True), "per_image: ViT takes a batch"),
        (
            lambda: interpret.gradient(*interpret.wrap(dense), IMAGES, 0),
            r"output: shape \(2, 8, 12, 3\) is not \[batch, classes\]; give a function",
        ),
        (
            lambda: interpret.gradient(*interpret.wrap(several), IMAGES, 0),
            "output: the network returns several: label, mask; say which is explained",
        ),
        (
            lambda: interpret.gradient(*interpret.wrap(several, output="age"), IMAGES, 0),
            "output: unknown 'age'; choose one of: label, mask",
        ),
        (
            lambda: interpret.gradient(*interpret.wrap(plain, grids={"tokens": (2, 3)}), IMAGES, 0),
            "grids: unknown 'tokens'; choose one of: hidden",
        ),
        (
            lambda: interpret.gradient(*interpret.wrap(plain, grids={"hidden": (2, 3)}), IMAGES, 0),
            r"grids: 'hidden' has shape \(2, 8, 12, 4\), not \[batch, 6 or more, channels\]",
        ),
    ],
)
def test_networks_that_cannot_be_wrapped_say_why(call, message):
    with pytest.raises(FaceflaxError, match=message):
        call()
