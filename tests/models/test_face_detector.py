"""The detector network: its size, its pieces against other libraries' forms, and which places see what."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax import lax

from faceflax import models
from faceflax.models.architectures import DETECTOR_OUTPUTS, DETECTOR_STRIDES
from faceflax.models.face_detector import doubled, patches


@pytest.fixture(scope="module")
def network():
    model = models.create("face_detector", 1)
    return model, models.init(model, jax.random.key(0), 64)


def test_it_is_small(network):
    count = sum(leaf.size for leaf in jax.tree.leaves(network[1]["params"]))
    assert count == 155_405


def test_patches_then_a_matrix_are_a_convolution_of_stride_four():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 8, 12, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(4, 4, 3, 5)), jnp.float32)
    expected = lax.conv_general_dilated(images, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(patches(images) @ kernel.reshape(48, 5), expected, atol=1e-5)


def test_doubled_repeats_pixels():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(doubled(jnp.asarray(x)), x.repeat(2, 1).repeat(2, 2))


def test_there_is_a_row_of_outputs_for_each_place(network):
    model, variables = network
    outputs, features = jax.eval_shape(lambda v, x: model.apply(v, x), variables, jnp.zeros((3, 96, 160, 3)))
    count = sum((96 // stride) * (160 // stride) for stride in DETECTOR_STRIDES)
    assert outputs.shape == (3, count, DETECTOR_OUTPUTS)
    assert {name: value.shape[1:3] for name, value in features.items()} == {
        "stride4": (24, 40),
        "stride8": (12, 20),
        "stride16": (6, 10),
        "stride32": (3, 5),
        "top16": (6, 10),
        "top8": (12, 20),
    }


def test_before_training_faces_are_rare(network):
    model, variables = network
    images = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    outputs, _ = jax.jit(model.apply)(variables, images)
    assert jax.nn.sigmoid(outputs[..., 0]).mean() < 0.1


def test_a_pixel_is_seen_at_its_own_places(network):
    """The gradient of a place's score by the image lies about that place, to a stride of its map."""
    model, variables = network
    images = np.random.default_rng(0).uniform(-1, 1, (1, 128, 128, 3)).astype(np.float32)

    @jax.jit
    def gradient(place):
        return jax.grad(lambda x: model.apply(variables, x)[0][0, place, 0])(images)

    for place, stride, (y, x) in ((8 * 16 + 8, 8, (68, 68)), (16 * 16 + 3 * 8 + 4, 16, (56, 72))):
        weight = (np.asarray(gradient(place))[0] ** 2).sum(-1)
        centre = np.array([(weight.sum(axis) * np.arange(128)).sum() for axis in (1, 0)]) / weight.sum()
        np.testing.assert_allclose(centre, (y, x), atol=stride)


def test_every_parameter_is_trained(network):
    model, variables = network
    images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)

    def total(params):
        outputs, _ = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]}, images, train=True, mutable=["batch_stats"]
        )[0]
        return jnp.square(outputs).sum()

    gradients = flatten_dict(jax.jit(jax.grad(total))(variables["params"]), sep="/")
    assert [name for name, value in gradients.items() if not np.abs(value).max() > 0] == []
