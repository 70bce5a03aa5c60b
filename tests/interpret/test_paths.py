"""Expected gradients, Guided IG and Blur IG against closed forms."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax.errors import FaceflaxError
from interpret.blur import blurred

WEIGHTS = np.random.default_rng(0).normal(size=(6, 7, 1)).astype(np.float32)


class Linear(nn.Module):
    def __call__(self, images, train=False):
        score = (images * WEIGHTS[None]).sum((1, 2, 3)) + 3
        return jnp.stack([score, -score], -1), {"last_conv": images}


class Square(nn.Module):
    def __call__(self, images, train=False):
        return (images**2).sum((1, 2)) / 2, {"last_conv": images}


class Product(nn.Module):
    """The score is the product of two pixels."""

    def __call__(self, images, train=False):
        return images[:, 0, 0] * images[:, 0, 1], {"last_conv": images}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(5).uniform(-1, 1, (3, 6, 7, 1)).astype(np.float32)


def test_expected_gradients_of_a_linear_network_are_exact(images):
    grounds = np.random.default_rng(1).uniform(-1, 1, (4, 6, 7, 1)).astype(np.float32)
    ours = interpret.expected_gradients(Linear(), {}, images, 0, baselines=grounds, samples=8)
    np.testing.assert_allclose(ours, (images - grounds.mean(0)) * WEIGHTS, rtol=1e-4, atol=1e-5)


def test_expected_gradients_go_to_integrated_gradients_from_each_baseline(images):
    grounds = np.random.default_rng(2).uniform(-1, 1, (2, 6, 7, 1)).astype(np.float32)
    ours = interpret.expected_gradients(Square(), {}, images, 0, baselines=grounds, samples=4000)
    expected = np.mean([(images**2 - ground**2) / 2 for ground in grounds], 0)
    np.testing.assert_allclose(ours, expected, atol=0.01)


def test_noise_moves_where_the_gradient_is_taken_and_flat_baselines_span_the_image(images):
    """Of a square the gradient at b + t (x + e - b) is that place itself, whose mean noise does not change."""
    quiet, noisy = (interpret.expected_gradients(Square(), {}, images, 0, samples=4000, noise=n) for n in (0, 0.2))
    assert 1e-4 < np.abs(quiet - noisy).max() < 0.02
    low, high = (f(images, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    flat = [low + (i + 0.5) / 8 * (high - low) for i in range(8)]
    np.testing.assert_allclose(quiet, np.mean([(images**2 - b**2) / 2 for b in flat], 0), atol=0.01)


def test_guided_ig_moves_the_flattest_pixels_first():
    """Of a product of two pixels, the one whose gradient is smaller goes first, along its own axis."""
    images = jnp.array([[1.0, 2.0]]).reshape(1, 1, 2, 1)
    ours = interpret.guided_integrated_gradients(
        Product(), {}, images, 0, baseline=jnp.array([0.5, 0.1]).reshape(1, 2, 1), steps=400, fraction=0.0, distance=1.0
    ).ravel()
    # At (0.5, 0.1) the gradient is (0.1, 0.5). The first goes alone, until its pixel has arrived at 1; then the second.
    np.testing.assert_allclose(ours, [0.1 * 0.5, 1.9 * 1.0], rtol=0.01)


class Smooth(nn.Module):
    def __call__(self, images, train=False):
        first = np.random.default_rng(3).normal(size=(42, 5)).astype(np.float32) / 3
        return jnp.tanh(images.reshape(images.shape[0], -1) @ first), {"last_conv": images}


@pytest.mark.parametrize("distance", [0.0, 0.1, 1.0])
def test_guided_ig_of_a_smooth_network_is_complete(images, distance):
    ours = interpret.guided_integrated_gradients(Smooth(), {}, images, 1, steps=2000, distance=distance)
    scores = Smooth().apply({}, images)[0][:, 1]
    np.testing.assert_allclose(ours.sum((1, 2, 3)), scores, atol=0.02 * np.abs(scores).max())


def test_guided_ig_that_may_not_stray_is_integrated_gradients(network):
    model, variables, images = network
    ours = interpret.guided_integrated_gradients(model, variables, images, 1, steps=400, distance=0.0)
    expected = interpret.integrated_gradients(model, variables, images, 1, steps=400)
    np.testing.assert_allclose(ours, expected, atol=0.01 * np.abs(expected).max())


def test_blur_ig(network, images):
    ours = interpret.blur_integrated_gradients(Linear(), {}, images, 0, sigma=3.0, steps=9)
    np.testing.assert_allclose(ours, np.asarray(images - blurred(images, 3.0)) * WEIGHTS, rtol=1e-3, atol=1e-5)
    model, variables, images = network
    ours = interpret.blur_integrated_gradients(model, variables, images, 1, steps=200)
    scores, ends = (model.apply(variables, x, train=False)[0][:, 1] for x in (images, blurred(images, 4.0)))
    np.testing.assert_allclose(ours.sum((1, 2, 3)), scores - ends, atol=0.01 * np.abs(scores - ends).max())


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (interpret.expected_gradients, {"samples": 0}, "samples: 0 is out of range"),
        (interpret.expected_gradients, {"noise": -1.0}, "noise: -1.0 is out of range"),
        (
            interpret.expected_gradients,
            {"baselines": np.zeros((2, 3, 3, 1))},
            r"baselines: shape \(2, 3, 3, 1\) is not",
        ),
        (interpret.guided_integrated_gradients, {"fraction": 2.0}, "fraction: 2.0 is out of range; give 0 to 1"),
        (interpret.guided_integrated_gradients, {"distance": -0.1}, "distance: -0.1 is out of range; give 0 to 1"),
        (interpret.blur_integrated_gradients, {"sigma": -1.0}, "sigma: -1.0 is out of range"),
        (interpret.blur_integrated_gradients, {"steps": 0}, "steps: 0 is out of range"),
    ],
)
def test_options_out_of_range(images, method, options, message):
    with pytest.raises(FaceflaxError, match=message):
        partial(method, **options)(Linear(), {}, images, 0)
