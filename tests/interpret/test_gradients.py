"""Integrated gradients and the combinators against closed forms; shifts and scales that must not matter."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interpret
from faceflax.errors import FaceflaxError

once = settings(max_examples=12, deadline=None, derandomize=True)


class Square(nn.Module):
    """The score of class k is (k + 1) sum x^2 / 2, whose gradient is (k + 1) x."""

    def __call__(self, images, train=False):
        half = (images**2).sum((1, 2, 3)) / 2
        return jnp.stack([half, 2 * half], -1), {"last_conv": images}


class Shifted(nn.Module):
    """Two dense layers over all pixels, with a bias that can undo a shift of the images."""

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(images.shape[0], -1)
        hidden = nn.relu(nn.Dense(6, name="hidden")(x))
        return nn.Dense(3, name="out")(hidden), {"hidden": hidden, "last_conv": hidden}


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(0), (2, 4, 5, 1), minval=-1.0)


@pytest.fixture(scope="module")
def variables(images):
    made = jax.jit(Shifted().init)(jax.random.key(1), images)
    return jax.tree.map(lambda x: x + 0.1, made)


def test_gradient_x_input(images):
    np.testing.assert_allclose(interpret.gradient_x_input(Square(), {}, images, 1), 2 * images**2, rtol=1e-6)


@pytest.mark.parametrize("baseline", [0.0, -0.5])
def test_integrated_gradients_of_a_square(images, baseline):
    """The integral of x over the way is the mean of its ends, and the midpoint rule is exact for it."""
    maps, error = interpret.integrated_gradients(Square(), {}, images, 0, baseline=baseline, steps=7, return_error=True)
    np.testing.assert_allclose(maps, (images - baseline) * (images + baseline) / 2, rtol=1e-4, atol=1e-6)
    assert error.shape == (2,)
    assert error.max() < 1e-4


def test_integrated_gradients_from_a_picture(images):
    other = images[::-1]
    maps = interpret.integrated_gradients(Square(), {}, images, 0, baseline=other)
    np.testing.assert_allclose(maps, (images**2 - other**2) / 2, rtol=1e-4, atol=1e-5)


def test_more_steps_are_more_complete(network):
    model, variables, images = network
    errors = [
        interpret.integrated_gradients(model, variables, images, 1, steps=steps, return_error=True)[1]
        for steps in (2, 200)
    ]
    assert errors[1].max() < 0.01  # 1% at 200 steps
    assert errors[0].mean() > 3 * errors[1].mean()


def test_the_highest_activation_stays_the_same_neuron_on_the_way(network):
    model, variables, images = network
    _, features = model.apply(variables, images, train=False)
    place = np.array([np.unravel_index(one.argmax(), one.shape) for one in np.asarray(features["conv2"])]).T
    for method in (partial(interpret.integrated_gradients, steps=3), interpret.smooth_grad(interpret.gradient)):
        expected = method(model, variables, images, interpret.Neuron("conv2", *place))
        np.testing.assert_allclose(method(model, variables, images, layer="conv2"), expected, rtol=1e-5, atol=1e-7)


def test_smooth_grad_and_var_grad_are_mean_and_variance():
    """Of a square's gradient x + e they are x and the noise's variance, a share of the image's range squared."""
    images = (
        jnp.tile(jnp.linspace(-1, 1, 20)[None, :, None, None], (2, 1, 1, 1)) * jnp.array([1, 0.5])[:, None, None, None]
    )
    options = {"samples": 2000, "noise": 0.1, "seed": 3}
    deviation = 0.1 * np.array([2.0, 1.0])[:, None, None, None]
    mean = interpret.smooth_grad(interpret.gradient, **options)(Square(), {}, images, 0)
    variance = interpret.var_grad(interpret.gradient, **options)(Square(), {}, images, 0)
    assert np.abs(mean - images).max() < (5 * deviation / np.sqrt(2000)).max()
    np.testing.assert_allclose(variance / deviation**2, np.ones_like(images), atol=5 * np.sqrt(2 / 2000))


def test_without_noise_nothing_changes(network):
    model, variables, images = network
    smooth = interpret.smooth_grad(interpret.guided_backprop, samples=3, noise=0.0)
    variance = interpret.var_grad(interpret.guided_backprop, samples=3, noise=0.0)
    expected = interpret.guided_backprop(model, variables, images, 2)
    np.testing.assert_allclose(smooth(model, variables, images, 2), expected, rtol=1e-5, atol=1e-7)
    assert variance(model, variables, images, 2).max() < 1e-10


def test_combinators_take_methods_with_options_and_are_made_once():
    assert interpret.smooth_grad(interpret.gradient) is interpret.smooth_grad(interpret.gradient)
    few = interpret.smooth_grad(partial(interpret.integrated_gradients, steps=4), samples=2, noise=0.0)
    images = jnp.ones((1, 2, 2, 1))
    np.testing.assert_allclose(few(Square(), {}, images, 0), images / 2, rtol=1e-6)


@once
@given(shift=st.floats(-3, 3))
def test_a_shift_that_the_network_undoes_changes_no_gradient(images, variables, shift):
    """Kindermans et al., "The (Un)reliability of Saliency Methods": x + c, and a first bias that takes W c off."""
    first = variables["params"]["hidden"]
    undone = {"kernel": first["kernel"], "bias": first["bias"] - shift * first["kernel"].sum(0)}
    other = {"params": {**variables["params"], "hidden": undone}}
    for method in (interpret.gradient, interpret.guided_backprop, interpret.deconvnet):
        expected = method(Shifted(), variables, images, 1)
        np.testing.assert_allclose(method(Shifted(), other, images + shift, 1), expected, atol=1e-5)
    expected = interpret.integrated_gradients(Shifted(), variables, images, 1)
    moved = interpret.integrated_gradients(Shifted(), other, images + shift, 1, baseline=shift)
    np.testing.assert_allclose(moved, expected, atol=1e-4)


@once
@given(scale=st.floats(0.1, 10), offset=st.floats(-5, 5))
def test_maps_scale_with_the_score_and_ignore_what_is_added_to_it(images, variables, scale, offset):
    out = variables["params"]["out"]
    louder = {"kernel": scale * out["kernel"], "bias": scale * out["bias"] + offset}
    other = {"params": {**variables["params"], "out": louder}}
    for method in (interpret.gradient, interpret.guided_backprop, interpret.integrated_gradients, interpret.occlusion):
        options = {"patch": 2, "stride": 1} if method is interpret.occlusion else {}
        expected = scale * method(Shifted(), variables, images, 2, **options)
        np.testing.assert_allclose(method(Shifted(), other, images, 2, **options), expected, rtol=1e-3, atol=2e-5)


@once
@given(order=st.permutations(range(6)))
def test_the_order_of_hidden_units_does_not_matter(images, variables, order):
    hidden, out = variables["params"]["hidden"], variables["params"]["out"]
    index = np.array(order)
    moved = {"kernel": hidden["kernel"][:, index], "bias": hidden["bias"][index]}
    other = {"params": {"hidden": moved, "out": {**out, "kernel": out["kernel"][index]}}}
    for method in (interpret.gradient, interpret.guided_backprop, interpret.lrp_epsilon, interpret.lrp_alpha_beta):
        expected = method(Shifted(), variables, images, 0)
        np.testing.assert_allclose(method(Shifted(), other, images, 0), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda *a: interpret.integrated_gradients(*a, steps=0), "steps: 0 is out of range; give 1 or more"),
        (lambda *a: interpret.smooth_grad(interpret.gradient, samples=0), "samples: 0 is out of range"),
        (lambda *a: interpret.smooth_grad(interpret.gradient, noise=-1.0), "noise: -1.0 is out of range"),
        (lambda *a: interpret.var_grad(interpret.gradient, samples=1), "samples: 1 is out of range; give 2 or more"),
        (lambda *a: interpret.smooth_grad({}), "of: dict is not a method; give one, such as interpret.gradient"),
    ],
)
def test_options_out_of_range(images, call, message):
    with pytest.raises(FaceflaxError, match=message):
        call(Square(), {}, images, 0)
