"""Somebody else's small Flax networks, with no thought of attribution in them, in Linen and in NNX."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import interpret
from faceflax.errors import FaceflaxError
from interpret.adapters import from_linen, from_nnx


class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.width, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dropout(0.5, deterministic=not train)(nn.max_pool(x, (2, 2), (2, 2)))


class Classifier(nn.Module):
    """As one finds it in a tutorial: blocks, a dense head, logits and nothing else."""

    @nn.compact
    def __call__(self, x, train):
        x = Block(8, name="block1")(x, train)
        x = Block(16, name="block2")(x, train)
        return nn.Dense(4)(x.reshape(x.shape[0], -1))


class NnxClassifier(nnx.Module):
    """The same in NNX."""

    def __init__(self, rngs):
        self.convs = nnx.List([nnx.Conv(1, 8, (3, 3), rngs=rngs), nnx.Conv(8, 16, (3, 3), rngs=rngs)])
        self.norms = nnx.List([nnx.BatchNorm(8, rngs=rngs), nnx.BatchNorm(16, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(64, 4, rngs=rngs)

    def __call__(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.dropout(nnx.max_pool(nnx.relu(norm(conv(x))), (2, 2), (2, 2)))
        return self.head(x.reshape(x.shape[0], -1))


@pytest.fixture(scope="module")
def linen():
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 1), minval=-1.0)
    variables = jax.jit(Classifier().init, static_argnums=2)(jax.random.key(0), images, False)
    return from_linen(Classifier(), train=False), variables, images


@pytest.fixture(scope="module")
def nnx_module(linen):
    """With the weights of the Linen one."""
    params = linen[1]["params"]
    module = NnxClassifier(nnx.Rngs(0))
    for i, block in enumerate(("block1", "block2")):
        module.convs[i].kernel[...] = params[block]["Conv_0"]["kernel"]
    module.head.kernel[...] = params["Dense_0"]["kernel"]
    module.eval()
    return module


def test_layers_are_the_submodules(linen, nnx_module):
    model, variables, images = linen
    logits, features = model.apply(variables, images)
    np.testing.assert_allclose(logits, Classifier().apply(variables, images, False))
    parts = {f"block{i}/{part}" for i in (1, 2) for part in ("Conv_0", "BatchNorm_0", "Dropout_0")}
    assert set(features) == parts | {"block1", "block2", "Dense_0"}
    assert features["block2"].shape == (2, 2, 2, 16)

    model, variables = from_nnx(nnx_module)
    logits, features = model.apply(variables, images)
    np.testing.assert_allclose(logits, nnx_module(images), rtol=1e-5, atol=1e-6)
    assert set(features) == {"convs/0", "convs/1", "norms/0", "norms/1", "dropout", "head"}


class Scanned(nn.Module):
    """The same convolution three times with other weights, in a scan or one after another."""

    scanned: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(3, (3, 3), name="stem")(x)
        if self.scanned:
            axes = {"params": 0, "intermediates": 0}
            x, _ = nn.scan(Round, variable_axes=axes, split_rngs={"params": True}, length=3)(name="blocks")(x, None)
        else:
            for i in range(3):
                x, _ = Round(name=f"blocks{i}")(x, None)
        return nn.Dense(3)(x.mean((1, 2)))


class Round(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Conv(3, (3, 3), name="conv")(x)), None


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_a_scanned_module_s_layers_are_its_rounds(batch):
    """Also where the batch is as long as the scan, or as the images are high."""
    images = jax.random.uniform(jax.random.key(1), (batch, 8, 8, 1), minval=-1.0)
    variables = jax.jit(Scanned(True).init)(jax.random.key(0), images)
    params = dict(variables["params"])
    blocks = params.pop("blocks")
    rounds = {f"blocks{i}": jax.tree.map(lambda leaf, i=i: leaf[i], blocks) for i in range(3)}
    scanned = from_linen(Scanned(True)), variables, images
    written_out = from_linen(Scanned(False)), {"params": params | rounds}, images
    assert set(scanned[0].apply(variables, images)[1]) == {"stem", "Dense_0", *(f"blocks/conv/{i}" for i in range(3))}
    for name in ("grad_cam", "guided_backprop", "lrp_epsilon"):
        ours = interpret.METHODS[name](*scanned, layer="blocks/conv/1")
        expected = interpret.METHODS[name](*written_out, layer="blocks1/conv")
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-6)


METHODS = ["guided_backprop", "grad_cam", "lrp_alpha_beta", "integrated_gradients", "occlusion"]


@pytest.mark.parametrize("name", METHODS)
def test_linen_and_nnx_agree(linen, nnx_module, name):
    """The same network through both doors, and through the contract written out, has the same maps."""
    model, variables, images = linen
    method = interpret.METHODS[name]
    ours = method(model, variables, images, 3, layer="block2/Conv_0")
    assert np.abs(ours).max() > 0
    np.testing.assert_allclose(method(*from_nnx(nnx_module), images, 3, layer="convs/1"), ours, rtol=1e-3, atol=1e-6)


def test_the_gradient_is_that_of_the_module(linen):
    model, variables, images = linen
    expected = jax.grad(lambda x: Classifier().apply(variables, x, False)[:, 2].sum())(images)
    np.testing.assert_allclose(interpret.gradient(model, variables, images, 2), expected, rtol=1e-5, atol=1e-7)


def test_gradients_by_a_layer_are_those_of_perturb(linen):
    """Linen's own way, for which the network must be written anew."""

    class Perturbed(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = self.perturb("block1", Block(8, name="block1")(x, False))
            x = Block(16, name="block2")(x, False)
            return nn.Dense(4)(x.reshape(x.shape[0], -1))

    model, variables, images = linen
    zeros = {"block1": jnp.zeros((2, 4, 4, 8))}

    def score(perturbations):
        return Perturbed().apply({**variables, "perturbations": perturbations}, images)[:, 1].sum()

    gradients = np.asarray(jax.grad(score)(zeros)["block1"])
    activations = np.asarray(model.apply(variables, images)[1]["block1"])
    expected = np.maximum((activations * gradients.mean((1, 2), keepdims=True)).sum(-1, keepdims=True), 0)
    ours = interpret.grad_cam(model, variables, images, 1, layer="block1", enlarge=False)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-7)


def test_the_module_is_left_as_it_was(linen, nnx_module):
    _, _, images = linen
    calls = {kind: kind.__call__ for kind in (NnxClassifier, nnx.Conv, nnx.BatchNorm, nnx.Linear)}
    before = nnx_module(images)
    model, variables = from_nnx(nnx_module)
    interpret.guided_backprop(model, variables, images, 0, layer="head")
    assert all(kind.__call__ is call for kind, call in calls.items())
    np.testing.assert_array_equal(nnx_module(images), before)


def test_nnx_modules_in_training_mode_are_refused(linen, nnx_module):
    """By what they do, not by what they are called: batch statistics change, random numbers are drawn."""
    _, _, images = linen
    method = interpret.gradient
    training = nnx.clone(nnx_module)
    training.train()
    with pytest.raises(FaceflaxError, match=r"module: 'dropout/rngs/count' changes .*; give module.eval\(\) before"):
        method(*from_nnx(training), images, 0, layer="head")
    training.norms.eval()
    with pytest.raises(FaceflaxError, match="module: 'dropout/rngs/count' changes when the module is called"):
        method(*from_nnx(training), images, 0, layer="head")
    training.norms.train()
    training.dropout.eval()
    with pytest.raises(FaceflaxError, match="module: 'norms/0/mean' changes when the module is called"):
        interpret.lrp_epsilon(*from_nnx(training), images, 0, layer="head")
    training.eval()
    ours = method(*from_nnx(training), images, 0, layer="head")
    np.testing.assert_array_equal(ours, method(*from_nnx(nnx_module), images, 0, layer="head"))
    training.dropout.train()
    training.dropout.rate = 0.0  # which draws nothing
    np.testing.assert_array_equal(method(*from_nnx(training), images, 0, layer="head"), ours)


def test_linen_modules_in_training_mode_are_refused(linen):
    _, variables, images = linen
    with pytest.raises(FaceflaxError, match=r"model: Linen is in training mode: .*; evaluate it .* train=False"):
        interpret.gradient(from_linen(Classifier(), train=True), variables, images, 0)
    with pytest.raises(FaceflaxError, match=r"model: Linen cannot be applied as .*batch_stats"):
        interpret.gradient(from_linen(Classifier(), train=False), {"params": variables["params"]}, images, 0)
    with pytest.raises(FaceflaxError, match=r"model: Linen cannot be applied as .*'train'"):
        interpret.gradient(from_linen(Classifier()), variables, images, 0)


def test_wrong_layers_and_modules(linen):
    with pytest.raises(FaceflaxError, match="layer: unknown 'last_conv'; choose one of: Dense_0, block1, "):
        interpret.gradient(*linen)
    for make in (from_linen, from_nnx):
        with pytest.raises(FaceflaxError, match=r"module: dict is no (Linen|NNX) module"):
            make({})
