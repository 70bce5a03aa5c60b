"""Networks as people write them, each through `interpret.wrap`, against plain JAX of the same network."""

from __future__ import annotations

import dataclasses
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import interpret
from faceflax.errors import FaceflaxError
from interpret.methods import ATTENTION, METHODS

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGES = jax.random.uniform(jax.random.key(1), (2, 8, 12, 3), minval=-1.0)
QUICK = {
    "integrated_gradients": {"steps": 3},
    "expected_gradients": {"samples": 3},
    "guided_integrated_gradients": {"steps": 3},
    "blur_integrated_gradients": {"steps": 3},
    "occlusion": {"patch": 4},
    "rise": {"masks": 8, "cells": 2},
    "shapley_sampling": {"permutations": 2},
    "kernel_shap": {"samples": 64},
    "lime": {"samples": 40},
    "sobol": {"designs": 4, "cells": 2},
    "hsic": {"masks": 16, "cells": 2},
    "extremal_perturbation": {"steps": 5, "cells": 4},
}


class Residual(nn.Module):
    """Two convolutions with BatchNorm and a shortcut."""

    width: int
    strides: int

    @nn.compact
    def __call__(self, x, train):
        norm = partial(nn.BatchNorm, use_running_average=not train)
        y = nn.relu(norm()(nn.Conv(self.width, (3, 3), self.strides, use_bias=False)(x)))
        y = norm()(nn.Conv(self.width, (3, 3), use_bias=False)(y))
        return nn.relu(y + norm()(nn.Conv(self.width, (1, 1), self.strides, use_bias=False)(x)))


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Conv(4, (3, 3), name="stem")(x))
        x = Residual(4, 1, name="block1")(x, train)
        x = Residual(6, 2, name="block2")(x, train)
        return nn.Dense(3)(x.mean((1, 2)))


class NnxResidual(nnx.Module):
    """The same with GroupNorm, in NNX."""

    def __init__(self, width, rngs):
        self.convs = nnx.List([nnx.Conv(width, width, (3, 3), rngs=rngs) for _ in range(2)])
        self.norms = nnx.List([nnx.GroupNorm(width, num_groups=2, rngs=rngs) for _ in range(2)])

    def __call__(self, x):
        y = nnx.relu(self.norms[0](self.convs[0](x)))
        return nnx.relu(x + self.norms[1](self.convs[1](y)))


class NnxResNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.block2 = NnxResidual(4, rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(self.block2(self.stem(x)).mean((1, 2))))


class ConvNext(nn.Module):
    """A depthwise convolution, LayerNorm, GELU, a scale of its own, a shortcut."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (2, 2), 2, padding="VALID", name="stem")(x)
        y = nn.LayerNorm()(nn.Conv(4, (5, 5), feature_group_count=4, name="depthwise")(x))
        y = nn.Dense(4)(nn.gelu(nn.Dense(8)(y)))
        x = nn.Sequential([lambda y: y], name="block2")(x + self.param("scale", nn.initializers.ones, (1, 1, 1, 4)) * y)
        return nn.Dense(3)(nn.LayerNorm()(x.mean((1, 2))))


class ViT(nn.Module):
    """Patches of 4x4, a class token, positions, two blocks of attention."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (4, 4), 4, padding="VALID", name="patches")(x).reshape(x.shape[0], -1, 8)
        token = self.param("token", nn.initializers.normal(), (1, 1, 8))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, 8)), x], 1)
        x = x + self.param("positions", nn.initializers.normal(), (1, x.shape[1], 8))
        for i in range(2):
            x = Encoder(name=f"encoder{i}")(x)
        return nn.Dense(3, name="head")(nn.LayerNorm(name="norm")(x)[:, 0])


class Encoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(nn.LayerNorm(name="norm1")(x))
        return x + nn.Dense(8)(nn.silu(nn.Dense(16)(nn.LayerNorm(name="norm2")(x))))


class Mixer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (4, 4), 4, padding="VALID")(x).reshape(x.shape[0], -1, 6)
        y = nn.Dense(6)(nn.gelu(nn.Dense(5)(nn.LayerNorm()(x).swapaxes(1, 2)))).swapaxes(1, 2)
        x = x + y
        x = nn.Sequential([lambda y: y], name="mixed")(x + nn.Dense(6)(nn.gelu(nn.Dense(9)(nn.LayerNorm()(x)))))
        return nn.Dense(3)(x.mean(1))


class UNet(nn.Module):
    """Two heads: a mask, and a label of its own from the bottom."""

    @nn.compact
    def __call__(self, x):
        top = nn.leaky_relu(nn.Conv(4, (3, 3), name="down")(x))
        bottom = nn.relu6(nn.Conv(6, (3, 3), name="bottom")(nn.max_pool(top, (2, 2), (2, 2))))
        up = jax.image.resize(bottom, (*top.shape[:3], 6), "nearest")
        mask = nn.Conv(2, (3, 3), name="mask")(jnp.concatenate([up, top], -1))
        return {"mask": mask, "heads": (nn.Dense(3)(bottom.mean((1, 2))), nn.Dense(1)(bottom.mean((1, 2)))[:, 0])}


KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
HEAD = np.random.default_rng(9).normal(size=(4, 3)).astype(np.float32)


def convolved(x, layout):
    """A plain function; HWIO kernels whatever the layout."""
    kernel = jnp.asarray(KERNEL, x.dtype)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=(layout, "HWIO", layout))


def plain(x):
    hidden = jnp.maximum(convolved(x, "NHWC"), 0)
    return hidden.mean((1, 2)) @ jnp.asarray(HEAD, x.dtype), {"hidden": hidden}


def channels_first(x):
    hidden = jnp.maximum(convolved(x, "NCHW"), 0)
    return hidden.mean((2, 3)) @ HEAD, {"hidden": hidden}


@partial(jax.tree_util.register_dataclass, data_fields=["kernel", "head", "activation"], meta_fields=["name"])
@dataclasses.dataclass(frozen=True)
class OneImage:
    """As an Equinox module is: a pytree of arrays and functions that takes one image, channels first."""

    kernel: jax.Array
    head: jax.Array
    activation: object
    name: str

    def __call__(self, x):
        hidden = jax.lax.conv_general_dilated(x[None], self.kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)[0]
        hidden = self.activation(hidden)
        return hidden.mean((1, 2)) @ self.head, {"hidden": hidden.transpose(1, 2, 0).transpose(2, 0, 1)}


LAYOUT = ("NCHW", "HWIO", "NCHW")


def initialised(module, *arguments):
    """Random variables, without compiling the initialisers."""
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), IMAGES, *arguments))

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return generator.uniform(0.5, 2, leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1]) if path[-1].key == "kernel" else 100
        return (generator.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def resnet():
    variables = initialised(ResNet(), False)
    return (ResNet(), variables), {"train": False}, lambda x: ResNet().apply(variables, x, False), "block2"


def nnx_resnet():
    module = NnxResNet(nnx.Rngs(0))
    module.eval()
    return (module,), {}, module, "block2"


def linen(module, layer, of=lambda y: y, **options):
    variables = initialised(module)
    return (module, variables), options, lambda x: of(module.apply(variables, x)), layer


def one_image():
    module = OneImage(jnp.asarray(KERNEL), jnp.asarray(HEAD), nn.relu, "small")
    return (module,), {"per_image": True, "channels_first": True}, lambda x: plain(x)[0], "hidden"


NETWORKS = {
    "ResNet, Linen": resnet,
    "ResNet, NNX": nnx_resnet,
    "ConvNeXt": lambda: linen(ConvNext(), "block2"),
    "ViT": lambda: linen(ViT(), "encoder0", grids={"encoder0": (2, 3)}),
    "MLP-Mixer": lambda: linen(Mixer(), "mixed", grids={"mixed": (2, 3)}),
    "U-Net, label": lambda: linen(UNet(), "bottom", lambda y: y["heads"][0], output=("heads", 0)),
    "U-Net, one logit": lambda: linen(UNet(), "bottom", lambda y: y["heads"][1][:, None], output=("heads", 1)),
    "U-Net, mask": lambda: linen(UNet(), "bottom", mask_area, output=mask_area),
    "function": lambda: ((plain,), {}, lambda x: plain(x)[0], "hidden"),
    "function, channels first": lambda: (
        (channels_first,),
        {"channels_first": True},
        lambda x: plain(x)[0],
        "hidden",
    ),
    "pytree of one image": one_image,
}
NETWORKS = {name: cache(make) for name, make in NETWORKS.items()}  # made once, not for each method


def mask_area(outputs):
    return outputs["mask"].mean((1, 2)) if isinstance(outputs, dict) else outputs


RELUS = {"guided_backprop", "deconvnet", "guided_grad_cam"}
RULES = {name for name in METHODS if name.startswith("lrp_")}
REFUSED = {
    "ConvNeXt": RELUS | RULES | ATTENTION,
    "ViT": RELUS | RULES,
    "MLP-Mixer": RELUS | RULES | ATTENTION,
    "ResNet, NNX": RULES | ATTENTION,
}
"""For want of a ReLU, of a rule for LayerNorm, GroupNorm, GELU and attention, or of attention, which most lack."""


@pytest.mark.parametrize("network", NETWORKS)
def test_the_gradient_is_that_of_the_network_itself(network):
    arguments, options, logits, _ = NETWORKS[network]()
    model, variables = interpret.wrap(*arguments, **options)
    own, expected = jax.jit(lambda x: (logits(x), jax.grad(lambda x: logits(x)[:, -1].sum())(x)))(IMAGES)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, IMAGES)[0], own, rtol=1e-3, atol=1e-4)
    ours = interpret.gradient(model, variables, IMAGES, own.shape[1] - 1)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_on_every_network(network, name):
    """It runs, and an image's map is the same alone and in a batch; or it says why it cannot."""
    arguments, options, _, layer = NETWORKS[network]()
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
    (module, variables), options, _, layer = NETWORKS["ViT"]()
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


@pytest.mark.parametrize("network", ["function, channels first", "pytree of one image"])
@pytest.mark.parametrize("name", ["grad_cam", "guided_backprop", "lrp_alpha_beta"])
def test_channels_first_and_single_images_have_the_maps_of_channels_last(network, name):
    (function,), _, _, layer = NETWORKS["function"]()
    expected = METHODS[name](*interpret.wrap(function), IMAGES, 1, layer=layer)
    arguments, options, _, layer = NETWORKS[network]()
    ours = METHODS[name](*interpret.wrap(*arguments, **options), IMAGES, 1, layer=layer)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-6)


def test_a_pixel_of_a_mask_is_a_neuron():
    (module, variables), options, _, _ = NETWORKS["U-Net, label"]()
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
        (lambda: interpret.wrap({}), "model: a dict is neither a module nor a function"),
        (lambda: interpret.wrap(ViT()), "variables: ViT holds none; give those it was trained to"),
        (lambda: interpret.wrap(NnxResNet(nnx.Rngs(0)), {}), "variables: NnxResNet holds its own; leave them out"),
        (lambda: interpret.wrap(plain, train=False), "options: .train. are of a module's call; bind them"),
        (lambda: interpret.wrap(ViT(), {}, per_image=True), "per_image: a ViT takes a batch"),
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
