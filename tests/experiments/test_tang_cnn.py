"""Tang's network: its parameters, layers, crop and sizes, against plain operators; it trains and is saved as others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import experiments.architectures  # noqa: F401 (registers tang_cnn)
import faceflax
from faceflax import models, pretrained
from faceflax.errors import FaceflaxError
from faceflax.labels import EMOTIONS
from faceflax.training.step import adam, create_state, make_train_step


@pytest.fixture(scope="module")
def network():
    model = models.create("tang_cnn", 7)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))

    def draw(leaf):
        scale = 0.1 if leaf.ndim == 1 else 1 / np.sqrt(np.prod(leaf.shape[:-1]))
        return (scale * rng.normal(size=leaf.shape)).astype(np.float32)

    return model, jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(-1, 1, (3, 48, 48, 1)).astype(np.float32)


def test_parameters_and_layers(network):
    model, variables = network
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 5_008_295
    assert variables["batch_stats"] == {}
    assert models.layer_names(model) == ["conv1", "conv2", "last_conv", "dense"]


def test_logits_are_those_of_plain_operators_on_the_middle(network, images):
    model, variables = network
    p = variables["params"]
    x = images[:, 3:45, 3:45]
    for name, pad in (("conv1", 2), ("conv2", 1), ("last_conv", 2)):
        x = lax.conv_general_dilated(
            x, p[name]["kernel"], (1, 1), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jnp.maximum(x + p[name]["bias"][None, None, None], 0)
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    assert x.shape == (3, 5, 5, 64)
    dense = jnp.maximum(x.reshape(3, -1) @ p["dense"]["kernel"] + p["dense"]["bias"][None], 0)
    expected = dense @ p["svm"]["kernel"] + p["svm"]["bias"][None]
    logits, features = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features["dense"], dense, rtol=1e-4, atol=1e-5)
    outside = images.copy()
    outside[:, :3] = 1
    predict = faceflax.compile(model, variables)
    np.testing.assert_array_equal(predict(outside), predict(images))


def test_the_activation_is_every_nonlinearity(network, images):
    model, variables = network
    program = jax.make_jaxpr(lambda v, x: model.clone(activation=jnp.tanh).apply(v, x)[0])(variables, images)
    assert "relu" not in str(program)
    assert str(program).count("tanh") == 4


@pytest.mark.parametrize("size", [42, 64])
def test_other_sizes_are_refused_everywhere(network, size):
    model, variables = network
    message = rf"images: shape \(1, {size}, {size}, 1\) is not \[batch, 48, 48, channels\]"
    image = np.zeros((1, size, size, 1), np.float32)
    with pytest.raises(FaceflaxError, match=message):
        model.apply(variables, image)
    with pytest.raises(FaceflaxError, match=message):
        faceflax.compile(model, variables)(image)
    with pytest.raises(FaceflaxError, match=f"image_size: {size} is not what TangCNN takes; give 48"):
        models.init(model, jax.random.key(0), size)


def test_a_training_step_takes_it_as_it_takes_others(network, images):
    model, variables = network
    optimizer = adam(0.0)

    def squared_error(logits, targets):
        return optax.squared_error(logits, targets).mean()

    step = make_train_step(
        model,
        optimizer,
        augment=lambda key, x: x,
        mix=lambda key, x, y: (x, y),
        loss=squared_error,
        key=jax.random.key(0),
    )
    pixels = jnp.asarray((images + 1) * 127, jnp.uint8)
    state = create_state(jax.tree.map(jnp.asarray, variables), optimizer)
    losses = []
    for _ in range(5):
        state, metrics = step(state, pixels, jnp.eye(7)[:3], jnp.array([[0, 1, 2]]), jnp.array([1e-4]))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0]


def test_saved_weights_come_back(network, images, tmp_path):
    model, variables = network
    file = tmp_path / "tang.safetensors"
    pretrained.save(file, variables, arch="tang_cnn", dataset="synthetic", labels=EMOTIONS, image_size=48)
    same, loaded = faceflax.load(file)
    assert same == model
    np.testing.assert_array_equal(faceflax.compile(same, loaded)(images), faceflax.compile(model, variables)(images))
    with pytest.raises(FaceflaxError, match=r"emotion: .*tang.* is a tang_cnn, which FaceAnalyzer"):
        faceflax.FaceAnalyzer(emotion=file)
