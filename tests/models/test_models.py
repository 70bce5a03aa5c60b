"""The two networks: how many parameters, which features, replaceable activation, sizes, BatchNorm, bad arguments."""

from __future__ import annotations

import logging
import subprocess
import sys
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from faceflax import models
from faceflax.errors import FaceflaxError
from faceflax.models.mini_xception import MiniXception

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["mini_xception", "sequential_cnn"]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def abstract_variables(model, **sizes):
    return jax.eval_shape(lambda: models.init(model, jax.random.key(0), **sizes))


def images(size, channels=1, batch=2, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (batch, size, size, channels)), jnp.float32)


def random_variables(model, seed=0):
    """Variables with no value left at its initial 0 or 1, and variances above 0."""
    rng = np.random.default_rng(seed)
    tree = abstract_variables(model)
    params = jax.tree.map(lambda v: rng.normal(0, 0.3, v.shape).astype(np.float32), tree["params"])
    statistics = jax.tree.map(lambda v: rng.uniform(0.5, 1.5, v.shape).astype(np.float32), tree["batch_stats"])
    return {"params": params, "batch_stats": statistics}


@pytest.mark.parametrize(
    ("name", "num_classes", "parameters"),
    [
        ("mini_xception", 7, 58_423),
        ("mini_xception", 2, 52_658),
        ("sequential_cnn", 7, 642_935),
        ("sequential_cnn", 2, 631_410),
    ],
)
def test_counts_of_parameters(name, num_classes, parameters):
    assert count(abstract_variables(models.create(name, num_classes))) == parameters


def test_trainable_parameters_of_mini_xception():
    assert count(abstract_variables(models.create("mini_xception", 7))["params"]) == 56_951


@pytest.mark.parametrize(("size", "channels"), [(32, 3), (48, 1), (63, 3), (64, 1)])
def test_mini_xception_features(size, channels):
    model = models.create("mini_xception", 7)
    variables = abstract_variables(model, image_size=size, channels=channels)
    shape = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    logits, features = jax.eval_shape(model.apply, variables, shape)
    sides = [size - 2, size - 4]
    for _ in range(4):
        sides.append(-(-sides[-1] // 2))
    widths = [8, 8, 16, 32, 64, 128]
    expected = {
        name: (2, side, side, width)
        for name, side, width in zip(
            ["stem1", "stem2", "block1", "block2", "block3", "block4"], sides, widths, strict=True
        )
    } | {"last_conv": (2, sides[-1], sides[-1], 7)}
    assert logits.shape == (2, 7)
    assert {name: feature.shape for name, feature in features.items()} == expected


@pytest.mark.parametrize(("size", "channels"), [(32, 3), (48, 1), (63, 3), (64, 1)])
def test_sequential_cnn_features(size, channels):
    model = models.create("sequential_cnn", 2)
    variables = abstract_variables(model, image_size=size, channels=channels)
    shape = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    logits, features = jax.eval_shape(model.apply, variables, shape)
    expected, side = {}, size
    for index, width in enumerate((16, 32, 64, 128), start=1):
        side = -(-side // 2)
        expected[f"stage{index}"] = (2, side, side, width)
    expected |= {"stage5": (2, side, side, 256), "last_conv": (2, side, side, 2)}
    assert logits.shape == (2, 2)
    assert {name: feature.shape for name, feature in features.items()} == expected


def test_layer_names_run_from_input_to_output():
    mini = ["stem1", "stem2", "block1", "block2", "block3", "block4", "last_conv"]
    assert models.layer_names(models.create("mini_xception", 7)) == mini
    sequential = ["stage1", "stage2", "stage3", "stage4", "stage5", "last_conv"]
    assert models.layer_names(models.create("sequential_cnn", 7)) == sequential


@pytest.mark.parametrize(("name", "activations"), [("mini_xception", 6), ("sequential_cnn", 4)])
def test_activation_is_every_nonlinearity_and_none_is_left(name, activations):
    calls = []

    def record(x):
        calls.append(x.shape)
        return nn.relu(x)

    def program(activation):
        model = models.create(name, 7, activation=activation)
        return str(jax.make_jaxpr(lambda v, x: model.apply(v, x)[0])(abstract_variables(model), images(64)))

    assert "relu" not in program(jnp.tanh)
    program(record)
    assert len(calls) == 2 * activations  # once for init, once for apply


@pytest.mark.parametrize("name", NAMES)
def test_replacing_the_activation_keeps_the_weights(name):
    model = models.create(name, 3)
    variables = random_variables(model)
    activations = (nn.relu, lambda x: jnp.maximum(x, 0), lambda x: x)

    @jax.jit
    def logits(batch):
        return [model.clone(activation=activation).apply(variables, batch)[0] for activation in activations]

    relu, same, different = logits(images(32))
    np.testing.assert_allclose(same, relu, rtol=1e-5, atol=1e-6)
    assert not np.allclose(different, relu, rtol=1e-2)


def test_sequential_cnn_without_activation_is_affine():
    model = models.create("sequential_cnn", 4, activation=lambda x: x)
    variables = random_variables(model)
    x, y = images(32, batch=1, seed=1), images(32, batch=1, seed=2)
    at_x, at_y, between = jax.jit(model.apply)(variables, jnp.concatenate([x, y, 0.3 * x + 0.7 * y]))[0]
    np.testing.assert_allclose(between, 0.3 * at_x + 0.7 * at_y, rtol=1e-4, atol=1e-4 * np.abs(at_x).max())


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_mean_of_the_last_convolution_and_images_do_not_mix(name):
    model = models.create(name, 5)
    apply = jax.jit(partial(model.apply, random_variables(model)))
    batch = images(32)
    logits, features = apply(batch)
    np.testing.assert_allclose(logits, np.asarray(features["last_conv"]).mean((1, 2)), rtol=1e-5, atol=1e-5)
    with_another = apply(batch.at[0].set(-batch[0]))[0]
    np.testing.assert_allclose(with_another[1], logits[1], rtol=1e-5, atol=1e-6)
    assert not np.allclose(with_another[0], logits[0], rtol=1e-4)


def test_training_updates_statistics_by_one_percent_and_every_parameter_has_a_gradient():
    model = models.create("mini_xception", 2)
    variables = random_variables(model)
    batch = images(32, batch=4)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(params):
        (logits, _), updates = model.apply(variables | {"params": params}, batch, train=True, mutable=["batch_stats"])
        return (logits * jnp.arange(8.0).reshape(4, 2) ** 2).sum(), updates["batch_stats"]

    gradients, statistics = gradient(variables["params"])
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0

    kernel, before = variables["params"]["stem1"]["kernel"], variables["batch_stats"]["stem1_bn"]
    stem = np.asarray(
        lax.conv_general_dilated(batch, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")), np.float64
    )
    after = statistics["stem1_bn"]
    np.testing.assert_allclose(after["mean"], 0.99 * before["mean"] + 0.01 * stem.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after["var"], 0.99 * before["var"] + 0.01 * stem.var((0, 1, 2)), rtol=1e-5)


def test_dropout_follows_its_rate_and_key():
    model = models.create("sequential_cnn", 3)
    variables = random_variables(model)

    @jax.jit
    def logits(seed, batch):
        rngs = {"dropout": jax.random.key(seed)}
        return [
            model.clone(dropout_rate=rate).apply(variables, batch, train=True, rngs=rngs, mutable=["batch_stats"])[0][0]
            for rate in (0.5, 0.0)
        ]

    batch = images(32)
    (dropped, kept), (dropped_again, _), (dropped_otherwise, kept_otherwise) = (logits(s, batch) for s in (1, 1, 2))
    np.testing.assert_array_equal(dropped, dropped_again)
    np.testing.assert_array_equal(kept, kept_otherwise)
    assert not np.allclose(dropped, dropped_otherwise, rtol=1e-2)
    assert not np.allclose(dropped, kept, rtol=1e-2)


def test_an_unknown_network_is_told_the_valid_names():
    with pytest.raises(FaceflaxError, match=r"'resnet'.*mini_xception, sequential_cnn, vgg"):
        models.create("resnet", 7)


def test_a_network_needs_a_class():
    with pytest.raises(FaceflaxError, match="num_classes: 0"):
        models.create("mini_xception", 0)


@pytest.mark.parametrize("name", NAMES)
def test_images_under_32_pixels_are_refused(name):
    with pytest.raises(FaceflaxError, match="image_size: 31"):
        models.init(models.create(name, 7), jax.random.key(0), image_size=31)


def test_networks_of_other_packages_get_a_name():
    class Mine(MiniXception):
        """Another class by the same contract."""

    models.register("mine", Mine)
    models.register("mine", Mine)  # as when a module is imported again
    assert models.list_models()[:4] == ["mini_xception", "sequential_cnn", "vgg", "face_detector"]
    assert "mine" in models.list_models()
    assert type(models.create("mine", 3)) is Mine
    with pytest.raises(FaceflaxError, match=r"name: 'vgg' is the name of faceflax\.models\.vgg:VGG; choose another"):
        models.register("vgg", Mine)


def test_fresh_variables_compile_once_for_equal_networks(caplog):
    def compilations():
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            models.init(models.create("mini_xception", 3), jax.random.key(0), 33)
        return sum("Compiling" in record.message for record in caplog.records)

    assert compilations() > 0
    assert compilations() == 0


def test_names_import_neither_jax_nor_flax():
    code = (
        "import sys; from faceflax import models; models.list_models(); models.MIN_IMAGE_SIZE; "
        "print({'jax', 'jaxlib', 'flax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_package_lists_its_names():
    for name in models.__all__:
        assert getattr(models, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = models.nothing
