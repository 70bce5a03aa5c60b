"""Attributions against hand-computed networks, finite differences and each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax.errors import FaceflaxError
from interpret.rules import deconvnet_relu, guided_relu

METHODS = [interpret.gradient, interpret.guided_backprop, interpret.deconvnet]


class Tiny(nn.Module):
    """Somebody else's model: one pixel, two hidden units, the contract and no more."""

    activation: Callable = nn.relu

    @nn.compact
    def __call__(self, images, train=False):
        kernel = self.param("kernel", nn.initializers.zeros, (1, 2))
        out = self.param("out", nn.initializers.zeros, (2, 2))
        hidden = self.activation(images @ kernel)
        logits = (hidden @ out).sum((1, 2))
        return logits, {"hidden": hidden, "logits": logits}


class Scattered(nn.Module):
    """ReLUs as users write them; a rule given is written in each one's place."""

    rule: Callable = nn.relu

    @nn.compact
    def __call__(self, images, train=False):
        x = self.rule(nn.Conv(3, (3, 3), name="a")(images))
        x = jax.jit(lambda x: 2 * self.rule(x - 0.1))(nn.Conv(3, (3, 3), name="b")(x))
        x = jax.checkpoint(lambda x: self.rule(-x))(x) + x
        x = jax.vmap(self.rule)(nn.LayerNorm()(x))
        return nn.Dense(4)(x.mean((1, 2))), {"last_conv": x}


class Bare(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(3)(images.mean((1, 2)))


class Unhashable:
    __hash__ = None


# hidden = relu([2x, -3x]), logits = hidden @ [[1, -1], [5, 1]]: all can be done by hand.
TINY = {"params": {"kernel": jnp.array([[2.0, -3.0]]), "out": jnp.array([[1.0, -1.0], [5.0, 1.0]])}}


@pytest.mark.parametrize(
    ("method", "x", "target", "expected"),
    [
        (interpret.gradient, 1.0, 0, 2.0),  # only 2x is active, times 1
        (interpret.gradient, 1.0, 1, -2.0),
        (interpret.gradient, -1.0, 0, -15.0),  # only -3x is active, times 5
        (interpret.guided_backprop, 1.0, 0, 2.0),
        (interpret.guided_backprop, 1.0, 1, 0.0),  # the active unit's gradient is -1: cut
        (interpret.guided_backprop, -1.0, 0, -15.0),
        (interpret.guided_backprop, -1.0, 1, -3.0),
        (interpret.deconvnet, 1.0, 0, -13.0),  # 1 * 2 + 5 * -3, whatever is active
        (interpret.deconvnet, 1.0, 1, -3.0),
    ],
)
def test_by_hand(method, x, target, expected):
    images = jnp.full((1, 1, 1, 1), x)
    np.testing.assert_allclose(method(Tiny(), TINY, images, target), np.full((1, 1, 1, 1), expected))


def test_gradient_matches_finite_differences_in_float64(network):
    model, variables, images = network
    target = np.array([4, 0, 2])
    with jax.enable_x64(True):
        variables, images = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (variables, images))

        @jax.jit
        def score(images):
            return model.apply(variables, images, train=False)[0][jnp.arange(3), target].sum()

        ours = np.asarray(interpret.gradient(model, variables, images, target))
        step = 1e-6  # small enough that no ReLU switches, large enough for float64
        for place in [(0, 0, 0), (1, 3, 4), (2, 7, 7), (0, 5, 2)]:
            nudge = jnp.zeros_like(images).at[(*place, 0)].set(step)
            difference = (score(images + nudge) - score(images - nudge)) / (2 * step)
            np.testing.assert_allclose(ours[(*place, 0)], difference, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_default_target_is_the_highest_activation_of_the_layer(network, method):
    model, variables, images = network
    _, features = model.apply(variables, images, train=False)
    for layer in ("last_conv", "conv2"):
        activations = np.asarray(features[layer])
        place = np.array([np.unravel_index(one.argmax(), one.shape) for one in activations]).T
        expected = method(model, variables, images, interpret.Neuron(layer, *place))
        np.testing.assert_allclose(method(model, variables, images, layer=layer), expected, rtol=1e-6, atol=1e-9)


def test_highest_activation_of_a_layer_of_any_rank():
    attribution = interpret.gradient(Tiny(), TINY, jnp.full((1, 1, 1, 1), -1.0), layer="logits")
    np.testing.assert_allclose(attribution, -15.0)  # logits are 15 and 3


@pytest.mark.parametrize("method", METHODS)
def test_images_do_not_mix(network, method):
    model, variables, images = network
    together = method(model, variables, images, np.array([4, 0, 3]))
    alone = [method(model, variables, images[i : i + 1], target)[0] for i, target in enumerate((4, 0, 3))]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_all_classes_in_one_vmapped_call(network, method):
    model, variables, images = network
    every = jax.vmap(partial(method, model, variables, images))(jnp.arange(5))
    assert every.shape == (5, *images.shape)
    for target in (0, 4):
        np.testing.assert_allclose(every[target], method(model, variables, images, target), rtol=1e-4, atol=1e-6)


def test_vmap_over_neurons_and_over_images(network):
    model, variables, images = network
    channels = jax.vmap(lambda c: interpret.gradient(model, variables, images, interpret.Neuron("last_conv", 1, 0, c)))
    neuron = interpret.Neuron("last_conv", 1, 0, 4)
    expected = interpret.gradient(model, variables, images, neuron)
    np.testing.assert_allclose(channels(jnp.arange(5))[4], expected, rtol=1e-4, atol=1e-6)
    each = jax.vmap(lambda image: interpret.gradient(model, variables, image[None], neuron)[0])(images)
    np.testing.assert_allclose(each, expected, rtol=1e-4, atol=1e-6)


def test_targets_may_be_traced(network):
    model, variables, images = network
    under_jit = jax.jit(partial(interpret.guided_backprop, model))
    for target in (2, jnp.array([1, 2, 3]), interpret.Neuron("conv2", 0, jnp.array([0, 1, 3]), 2)):
        expected = interpret.guided_backprop(model, variables, images, target)
        np.testing.assert_allclose(under_jit(variables, images, target), expected, rtol=1e-5, atol=1e-7)


N = interpret.Neuron


@pytest.mark.parametrize(
    ("target", "layer", "message"),
    [
        (5, "last_conv", "target: 5 is out of range; give 0 to 4"),
        (-1, "last_conv", "target: -1 is out of range"),
        (np.array([0, 1, 9]), "last_conv", "target: 9 is out of range"),
        (np.array([0, 1]), "last_conv", r"target: array\(\[0, 1\]\) is neither an integer nor an array of 3"),
        (1.0, "last_conv", "target: 1.0 is neither an integer"),
        ("happy", "last_conv", "target: 'happy' is neither an integer"),
        (None, "conv9", "layer: unknown 'conv9'; choose one of: conv1, conv2, last_conv"),
        (N("conv9", 0, 0, 0), "last_conv", "layer: unknown 'conv9'"),
        (N("last_conv", 4, 0, 0), "last_conv", "target.row: 4 is out of range; give 0 to 3"),
        (N("last_conv", 0, np.array([0, 1, 5]), 0), "last_conv", "target.column: 5 is out of range"),
        (N("last_conv", 0, 0, 7), "last_conv", "target.channel: 7 is out of range"),
    ],
)
def test_wrong_targets(network, target, layer, message):
    with pytest.raises(FaceflaxError, match=message):
        interpret.guided_backprop(*network, target, layer=layer)


@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_layer_whose_first_axis_is_not_the_batch_is_refused(batch, fixed):
    """Stacked rounds of a loop, also where they are as many as the images; a model may take one batch only."""

    class Stacked(nn.Module):
        def __call__(self, images, train=False):
            images = images.reshape(batch, 4, 4, 1) if fixed else images
            _, rounds = jax.lax.scan(lambda x, _: (2 * x, 2 * x), images, length=3)
            return images.mean((1, 2)), {"last_conv": rounds[..., 0], "first": rounds[0]}

    images = jnp.ones((batch, 4, 4, 1))
    assert interpret.gradient(Stacked(), {}, images, layer="first").shape == images.shape
    if fixed and batch == 3:
        return  # nothing tells the axes apart
    message = rf"layer: 'last_conv' has shape \(3, {batch}, 4, 4\), whose first axis is not the batch"
    for call in (interpret.gradient, partial(interpret.grad_cam, target=0)):
        with pytest.raises(FaceflaxError, match=message):
            call(Stacked(), {}, images)
    with pytest.raises(FaceflaxError, match=message):
        interpret.gradient(Stacked(), {}, images, N("last_conv", 0, 0, 0))


def test_neuron_of_a_layer_without_rows():
    with pytest.raises(FaceflaxError, match=r"target: 'logits' has shape \(1, 2\)"):
        interpret.gradient(Tiny(), TINY, jnp.ones((1, 1, 1, 1)), N("logits", 0, 0, 0))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((32, 32, 1), np.float32), r"images: shape \(32, 32, 1\) is not \[batch"),
        (np.zeros((2, 32, 32, 1), np.uint8), "images: uint8 is not floating point; scale them"),
        (np.zeros((2, 32, 32, 3), np.float32), r"images: shape \(2, 32, 32, 3\) does not fit the model's variables"),
        (np.stack([np.zeros((32, 32, 1)), np.full((32, 32, 1), np.nan)]), "images: image 1 holds NaN or infinity"),
    ],
)
def test_wrong_images(network, images, message):
    model, variables, _ = network
    with pytest.raises(FaceflaxError, match=message):
        interpret.gradient(model, variables, images)


@pytest.mark.parametrize(("method", "rule"), [("guided_backprop", guided_relu), ("deconvnet", deconvnet_relu)])
def test_relus_are_found_wherever_they_stand(network, method, rule):
    """In the model's own call, a function, a jitted one, a recomputed block: as if the rule were written there."""
    _, _, images = network
    variables = jax.jit(Scattered().init)(jax.random.key(0), images)
    replaced = getattr(interpret, method)(Scattered(), variables, images, 1)
    np.testing.assert_allclose(
        replaced, interpret.gradient(Scattered(rule), variables, images, 1), rtol=1e-5, atol=1e-7
    )
    assert not np.allclose(replaced, interpret.gradient(Scattered(), variables, images, 1), rtol=1e-2)


SPELLINGS = {
    "maximum": (lambda x: jnp.maximum(x, 0), 1),
    "maximum, turned": (lambda x: jnp.maximum(jnp.zeros_like(x), x), 1),
    "where": (lambda x: jnp.where(x > 0, x, 0), 1),
    "where not": (lambda x: jnp.where(x <= 0, 0.0, x), 1),
    "where, turned": (lambda x: jnp.where(jnp.less(0, x), x, jnp.zeros_like(x)), 1),
    "times": (lambda x: x * (x > 0), 1),
    "clip": (lambda x: jnp.clip(x, 0), 1),
    "relu6": (lambda x: nn.relu6(100 * x) / 100, 0.06),
    "clip, bounded": (lambda x: jnp.clip(x, 0, 0.06), 0.06),
    "clamp": (lambda x: jax.lax.clamp(0.0, x, 0.06), 0.06),
    "scan": (lambda x: jax.lax.scan(lambda x, _: (jnp.maximum(x, 0), None), x, length=1)[0], 1),
}


class Spelled(nn.Module):
    """A ReLU and, behind it, one of another spelling; with activations that must not be taken for one."""

    spelling: str
    rule: Callable | None = None

    @nn.compact
    def __call__(self, images, train=False):
        function, highest = SPELLINGS[self.spelling]
        first, second = self.rule or nn.relu, function
        if self.rule is not None:
            second = self.rule if highest == 1 else lambda x: jnp.minimum(self.rule(x), highest)
        x = first(nn.Conv(3, (3, 3), name="a")(images))
        x = second(nn.GroupNorm(1)(nn.Conv(3, (3, 3), name="b")(x)))
        x = nn.softplus(x) + nn.elu(x - 1) + nn.leaky_relu(x - 1) + jnp.where(x > 0.1, x, 0) + jnp.maximum(x, 0.1)
        return nn.Dense(4)(nn.LayerNorm()(x).mean((1, 2))), {"last_conv": x}


@pytest.mark.parametrize(("method", "rule"), [("guided_backprop", guided_relu), ("deconvnet", deconvnet_relu)])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_relus_are_found_however_they_are_written(network, method, rule, spelling):
    """As if the rule were written there, and nowhere else: not in what keeps a variance positive, nor in softplus."""
    _, _, images = network
    with jax.enable_x64(True):  # a rounding near a kink would be taken for another rule
        images = jnp.asarray(np.asarray(images), jnp.float64)
        variables = jax.jit(Spelled("maximum").init)(jax.random.key(0), images)
        variables = jax.tree.map(lambda x: x.astype(jnp.float64), variables)
        ours = getattr(interpret, method)(Spelled(spelling), variables, images, 1)
        expected = interpret.gradient(Spelled(spelling, rule), variables, images, 1)
        usual = interpret.gradient(Spelled(spelling), variables, images, 1)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)
    assert not np.allclose(ours, usual, rtol=1e-2)


def test_every_way_to_hide_a_relu_is_named(network):
    """Whether the others can be replaced or not."""
    _, _, images = network

    @jax.custom_vjp
    def own(x):
        return jnp.maximum(x, 0)

    own.defvjp(lambda x: (own(x), x), lambda x, g: (g * (x > 0),))

    class Hidden(nn.Module):
        kind: str

        def __call__(self, images, train=False):
            x = nn.relu(images)
            match self.kind:
                case "cond":
                    x = jax.lax.cond(x.sum() > 0, lambda x: jnp.where(x > 0.5, x, 0), lambda x: jnp.clip(x, 0), x - 0.5)
                case "custom_vjp_call":
                    x = own(x - 0.5)
                case "while":
                    x = jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: jnp.where(x > 0, x, 0) - 0.1, x)
            return x.mean((1, 2)), {"last_conv": x}

    for kind in ("cond", "custom_vjp_call", "while"):
        with pytest.raises(FaceflaxError, match=f"model: Hidden applies a ReLU inside '{kind}'"):
            interpret.guided_backprop(Hidden(kind), {}, images, 0)


@pytest.mark.parametrize("method", [interpret.guided_backprop, interpret.deconvnet, interpret.guided_grad_cam])
def test_relus_that_cannot_be_replaced(network, method):
    model, variables, images = network
    with pytest.raises(FaceflaxError, match="model: Small applies no ReLU that could be replaced"):
        method(model.clone(activation=nn.gelu), variables, images)
    with pytest.raises(FaceflaxError, match="model: Looped applies a ReLU inside 'while'"):
        method(Looped(), {}, images)


@pytest.mark.parametrize(
    "variance",
    [
        lambda x: jnp.maximum(0.0, jnp.var(x, -1, keepdims=True)),  # as Equinox has it
        lambda x: jnp.maximum((x * x).mean(-1, keepdims=True), 0),
        lambda x: jnp.maximum((x**2).sum(-1, keepdims=True) / 3, 0.0),
        lambda x: jnp.maximum((x**2).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2, 0),
    ],
)
def test_what_keeps_a_variance_positive_is_no_relu(variance):
    def normalised(images):
        return (images * jax.lax.rsqrt(variance(images) + 1e-5)).mean((1, 2))

    def with_relu(images):
        return normalised(jax.nn.relu(images))

    images = jax.random.normal(jax.random.key(3), (2, 4, 4, 3))
    with pytest.raises(FaceflaxError, match="model: Wrapped applies no ReLU that could be replaced"):
        interpret.guided_backprop(*interpret.wrap(normalised), images, 0)
    ours = interpret.guided_backprop(*interpret.wrap(with_relu), images, 0)
    upper = interpret.gradient(*interpret.wrap(normalised), jax.nn.relu(images), 0)
    np.testing.assert_allclose(ours, jnp.where(images > 0, jax.nn.relu(upper), 0), rtol=1e-5, atol=1e-7)


class Looped(nn.Module):
    def __call__(self, images, train=False):
        _, x = jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, nn.relu(s[1]) - 0.1), (0, nn.relu(images)))
        return x.mean((1, 2)), {"last_conv": x}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Dense(3), r"model: Dense cannot be applied as model.apply\(variables, images, train=False\)"),
        (Bare(), r"model: Bare does not return \(logits \[batch, classes\], features by name\)"),
        (Tiny(activation=Unhashable()), "model: Tiny cannot be hashed"),
    ],
)
def test_wrong_models(model, message):
    images = jnp.ones((1, 1, 1, 1))
    dense = {"kernel": jnp.ones((1, 3)), "bias": jnp.ones(3)}
    variables = {"params": {**dense, "Dense_0": dense}}
    with pytest.raises(FaceflaxError, match=message):
        interpret.gradient(model, variables, images)
