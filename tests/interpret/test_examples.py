"""Concepts and examples against plain NumPy and networks whose answer is known."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax.errors import FaceflaxError
from interpret.concepts import concept_direction

DRAW = np.random.default_rng(0)


class Stripes(nn.Module):
    """Class 0 is the contrast across, class 1 the brightness."""

    def __call__(self, images, train=False):
        across = images * jnp.array([1.0, -1.0, 1.0, -1.0])[None, None, :, None]
        pixels = jnp.concatenate([across, images], -1)
        return pixels.mean((1, 2)), {"pixels": pixels, "beside": images * 2}


def test_a_concept_that_the_class_is_made_of_is_found_and_another_is_not():
    stripes = np.tile([1.0, -1.0, 1.0, -1.0], (4, 1))[None, ..., None]
    sets = [DRAW.normal(size=(20, 4, 4, 1)).astype(np.float32) for _ in range(6)]
    images = DRAW.normal(size=(9, 4, 4, 1)).astype(np.float32)
    concept = (sets[0] + 2 * stripes).astype(np.float32)
    tested = partial(interpret.tcav, Stripes(), {}, images, layer="pixels", random=sets[1:])
    found = tested(target=0, concept=concept)
    assert found.score == 1
    assert found.accuracy.mean() > 0.9
    assert found.p_value < 0.05
    opposite = tested(target=0, concept=-concept)
    assert opposite.score == 0
    noise = tested(target=0, concept=sets[0])
    assert noise.p_value > 0.05


def test_the_direction_is_that_of_logistic_regression():
    """Where both sets are one another's mirror image in a plane, its normal."""
    normal = np.array([3.0, 4.0]) / 5
    points = DRAW.normal(size=(200, 2))
    points -= np.outer(points @ normal, normal)  # in the plane
    direction = concept_direction(points + 0.5 * normal, points - 0.5 * normal)
    np.testing.assert_allclose(direction, normal, atol=1e-3)


class Dense(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(images.shape[0], -1)
        return nn.Dense(3)(x), {"flat": x}


def test_tracin_is_the_sum_of_the_gradients_products():
    """Of a linear softmax classifier the gradient is (p - y) x, and p - y for the bias."""
    train, images = (DRAW.normal(size=(n, 2, 2, 1)).astype(np.float32) for n in (5, 2))
    train_labels, labels = np.array([0, 1, 2, 1, 0]), np.array([2, 1])
    checkpoints, rates, expected = [], (0.1, 0.5), 0.0
    for rate in rates:
        kernel, bias = DRAW.normal(size=(4, 3)), DRAW.normal(size=3)
        checkpoints.append({"params": {"Dense_0": {"kernel": kernel.astype(np.float32), "bias": bias.astype("f4")}}})
        gradients = []
        for batch, classes in ((images, labels), (train, train_labels)):
            x = batch.reshape(len(batch), 4)
            odds = np.exp(x @ kernel + bias)
            error = odds / odds.sum(1, keepdims=True) - np.eye(3)[classes]
            gradients.append(np.concatenate([(x[:, :, None] * error[:, None]).reshape(len(x), -1), error], 1))
        expected = expected + rate * gradients[0] @ gradients[1].T
    ours = interpret.tracin(Dense(), checkpoints, train, train_labels, images, labels, rates=rates)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_nearest_activations():
    images, among = (DRAW.normal(size=(n, 4, 4, 1)).astype(np.float32) for n in (3, 10))
    rows = [np.asarray(Stripes().apply({}, x)[1]["pixels"]).reshape(len(x), -1) for x in (images, among)]
    euclidean = np.linalg.norm(rows[0][:, None] - rows[1][None], axis=-1)
    unit = [r / np.linalg.norm(r, axis=1, keepdims=True) for r in rows]
    for distance, expected in (("euclidean", euclidean), ("cosine", 1 - unit[0] @ unit[1].T)):
        order, distances = interpret.nearest_activations(
            Stripes(), {}, images, among, layer="pixels", count=4, distance=distance
        )
        np.testing.assert_array_equal(order, expected.argsort(1)[:, :4])
        np.testing.assert_allclose(distances, np.sort(expected, 1)[:, :4], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_feature_visualisation_finds_what_the_target_likes_wherever_it_is():
    """Brightness: white, and dark for its opposite; of a pattern's contrast more than any smooth image has."""

    class Tones(nn.Module):
        def __call__(self, images, train=False):
            rough = ((images[:, 1:] - images[:, :-1]) ** 2).mean((1, 2))
            return jnp.concatenate([images.mean((1, 2)), -images.mean((1, 2)), rough], 1), {}

    start = jnp.zeros((3, 12, 12, 1))
    best = interpret.feature_visualisation(Tones(), {}, start, jnp.arange(3), steps=60, rate=0.3)
    assert np.abs(best).max() <= 1
    means, rough = np.asarray(best).mean((1, 2, 3)), (np.diff(best, axis=1) ** 2).mean((1, 2, 3))
    assert means[0] > 0.7
    assert means[1] < -0.7
    assert rough[2] > 0.5 > rough[0]
    alone = interpret.feature_visualisation(Tones(), {}, start[:1], 0, steps=60, rate=0.3)
    np.testing.assert_allclose(alone[0], best[0], atol=1e-3)


IMAGES = DRAW.normal(size=(6, 4, 4, 1)).astype(np.float32)
STRIPES = (Stripes(), {})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: interpret.tcav(*STRIPES, IMAGES, 0, layer="pixels", concept=IMAGES, random=[]),
            "random: holds no set of images",
        ),
        (
            lambda: interpret.tcav(*STRIPES, IMAGES, 0, layer="pixels", concept=IMAGES[:2], random=[IMAGES]),
            "concept: 2 images are too few",
        ),
        (
            lambda: interpret.tcav(*STRIPES, IMAGES, 0, layer="beside", concept=IMAGES, random=[IMAGES]),
            "layer: 'beside' does not lead to the logits",
        ),
        (
            lambda: interpret.tracin(Dense(), [], IMAGES, np.zeros(6, int), IMAGES, np.zeros(6, int)),
            "checkpoints: hold no variables",
        ),
        (
            lambda: interpret.tracin(
                *(Stripes(), [{}]), IMAGES, np.zeros(6, int), IMAGES, np.zeros(6, int), rates=[0.1, 0.2]
            ),
            "rates: 2 do not fit 1 checkpoints",
        ),
        (
            lambda: interpret.tracin(Stripes(), [{}], IMAGES, np.full(6, 2), IMAGES, np.zeros(6, int)),
            "train_labels: are out of range; give 0 to 1",
        ),
        (
            lambda: interpret.nearest_activations(*STRIPES, IMAGES, IMAGES, layer="pixels", distance="L1"),
            "distance: unknown 'L1'; choose one of: euclidean, cosine",
        ),
        (
            lambda: interpret.nearest_activations(*STRIPES, IMAGES, IMAGES, layer="pixels", count=7),
            "count: 7 is out of range; give 1 to 6",
        ),
        (
            lambda: interpret.feature_visualisation(*STRIPES, jnp.asarray(IMAGES), 0, transforms=0),
            "transforms: 0 is out of range",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(FaceflaxError, match=message):
        call()
