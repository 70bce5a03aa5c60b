"""Relevance propagation: conservation, its formulas written out, and what it must do with each kind of layer."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax import models
from faceflax.errors import FaceflaxError


def to_float64(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)


def random_network(name, biases):
    """A network in float64 with random weights and, unless ``biases``, none that adds a constant anywhere."""
    model = models.create(name, 5)
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        kind = path[-1].key
        if kind in ("bias", "mean"):
            return generator.normal(size=leaf.shape) * 0.3 * biases
        if kind in ("var", "scale"):
            return generator.uniform(0.5, 2, leaf.shape)
        return generator.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))

    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
    images = generator.uniform(-1, 1, (1, 32, 32, 1))
    return model, jax.tree_util.tree_map_with_path(draw, shapes), images


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mini_xception", "sequential_cnn"])
def test_conservation_and_gradient_times_input(name):
    """Without biases the pixels' relevance sums to the score, in both networks, whatever they are made of. And with
    them, the epsilon rule goes to gradient times input as epsilon goes to zero: a theorem for networks of ReLUs and
    maxima (Ancona et al., "Towards better understanding of gradient-based attribution methods", ICLR 2018)."""
    target = 4

    def all_at_once(model, variables, images):
        logits, _ = model.apply(variables, images, train=False)
        arguments = (model, variables, images, target)
        return (
            logits[:, target],
            interpret.lrp_epsilon(*arguments, epsilon=1e-12),
            interpret.lrp_alpha_beta(*arguments),
            interpret.gradient_x_input(*arguments),
        )

    compiled = jax.jit(all_at_once, static_argnums=0)
    with jax.enable_x64(True):
        scores, by_epsilon, by_signs, _ = compiled(*random_network(name, biases=False))
        np.testing.assert_allclose(by_epsilon.sum((1, 2, 3)), scores, rtol=1e-5)
        np.testing.assert_allclose(by_signs.sum((1, 2, 3)), scores, rtol=1e-5)
        _, by_epsilon, by_signs, expected = compiled(*random_network(name, biases=True))
        np.testing.assert_allclose(by_epsilon, expected, rtol=1e-5, atol=1e-9)
        assert not np.allclose(by_signs, expected, rtol=0.1)


class Dense(nn.Module):
    """Two dense layers with BatchNorm between, or with it folded into the first."""

    folded: bool = False

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Dense(8, name="first")(images.reshape(images.shape[0], -1))
        if not self.folded:
            x = nn.BatchNorm(use_running_average=True, name="norm")(x)
        x = nn.relu(x)
        return nn.Dense(3, name="second")(x), {"last_conv": x}


@pytest.fixture(scope="module")
def dense():
    generator = np.random.default_rng(0)
    images = generator.uniform(-1, 1, (4, 2, 3, 1))
    with jax.enable_x64(True):
        shapes = jax.eval_shape(Dense().init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape), shapes)
    norm = variables["params"]["norm"]
    variables["batch_stats"]["norm"]["var"] **= 2
    factor = norm["scale"] / np.sqrt(variables["batch_stats"]["norm"]["var"] + 1e-5)
    first = variables["params"]["first"]
    shift = first["bias"] - variables["batch_stats"]["norm"]["mean"]
    kernels = [first["kernel"] * factor, variables["params"]["second"]["kernel"]]
    biases = [shift * factor + norm["bias"], variables["params"]["second"]["bias"]]
    assert (factor < 0).any()  # BatchNorm that turns signs around
    return variables, images, kernels, biases


def written_out(images, kernels, biases, target, share):
    """Relevance of two dense layers, image by image."""
    maps = []
    for image in images:
        x = image.ravel()
        hidden = np.maximum(x @ kernels[0] + biases[0], 0)
        scores = hidden @ kernels[1] + biases[1]
        relevance = np.where(np.arange(3) == target, scores, 0)
        for inputs, kernel, bias in ((hidden, kernels[1], biases[1]), (x, kernels[0], biases[0])):
            relevance = share(inputs[:, None] * kernel, bias) @ relevance
        maps.append(relevance.reshape(image.shape))
    return np.array(maps)


@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_epsilon_rule(dense, epsilon):
    variables, images, kernels, biases = dense

    def share(contributions, bias):
        z = contributions.sum(0) + bias
        return contributions / (z + epsilon * np.where(z < 0, -1, 1))

    with jax.enable_x64(True):
        ours = interpret.lrp_epsilon(Dense(), variables, images, 1, epsilon=epsilon)
    np.testing.assert_allclose(ours, written_out(images, kernels, biases, 1, share), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_alpha_beta_rule(dense, alpha):
    variables, images, kernels, biases = dense

    def share(contributions, bias):
        up, down = np.maximum(contributions, 0), np.minimum(contributions, 0)
        for_it, against = up.sum(0) + np.maximum(bias, 0), down.sum(0) + np.minimum(bias, 0)
        shares = np.zeros_like(contributions)
        for j, (p, n) in enumerate(zip(for_it, against, strict=True)):
            if p and n:
                shares[:, j] = alpha * up[:, j] / p - (alpha - 1) * down[:, j] / n
            elif p or n:  # one side is empty
                shares[:, j] = contributions[:, j] / (p + n)
        return shares

    with jax.enable_x64(True):
        ours = interpret.lrp_alpha_beta(Dense(), variables, images, 1, alpha=alpha)
    np.testing.assert_allclose(ours, written_out(images, kernels, biases, 1, share), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", ["z_plus", "gamma", "flat", "w_squared", "epsilon"])
def test_rules_of_composites(dense, rule):
    """Of both layers alike, and of the first alone with the epsilon rule above it."""
    variables, images, kernels, biases = dense
    gamma = 0.4

    def share(contributions, bias, kernel):
        up, down = np.maximum(contributions, 0), np.minimum(contributions, 0)
        for_it, against = up.sum(0) + np.maximum(bias, 0), down.sum(0) + np.minimum(bias, 0)
        z = contributions.sum(0) + bias
        match rule:
            case "z_plus":
                return np.where(for_it > 0, up / np.where(for_it > 0, for_it, 1), contributions / z)
            case "gamma":
                above = (contributions + gamma * up) / (z + gamma * for_it)
                return np.where(z >= 0, above, (contributions + gamma * down) / (z + gamma * against))
            case "flat":
                return np.full_like(contributions, 1 / len(contributions))
            case "w_squared":
                return kernel**2 / (kernel**2).sum(0)
        return contributions / z

    expected, expected_first = [], []
    for image in images:
        x = image.ravel()
        hidden = np.maximum(x @ kernels[0] + biases[0], 0)
        start = np.where(np.arange(3) == 1, hidden @ kernels[1] + biases[1], 0)
        first = share(x[:, None] * kernels[0], biases[0], kernels[0])
        second = share(hidden[:, None] * kernels[1], biases[1], kernels[1])
        expected.append(first @ second @ start)
        contributions = hidden[:, None] * kernels[1]
        expected_first.append(first @ (contributions / (contributions.sum(0) + biases[1])) @ start)
    # The folded network: flat and squared weights are those of one layer.
    names = ("first", "second")
    folded = {"params": {n: {"kernel": k, "bias": b} for n, k, b in zip(names, kernels, biases, strict=True)}}
    with jax.enable_x64(True):
        options = {"epsilon": 1e-12, "gamma": gamma}
        both = interpret.lrp_composite(Dense(folded=True), folded, images, 1, dense=rule, first=None, **options)
        one = interpret.lrp_composite(Dense(folded=True), folded, images, 1, first=rule, **options)
        normed = interpret.lrp_composite(Dense(), variables, images, 1, first="epsilon", **options)
        plain = interpret.lrp_epsilon(Dense(), variables, images, 1, epsilon=1e-12)
    np.testing.assert_allclose(both.reshape(4, 6), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(one.reshape(4, 6), expected_first, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(normed, plain, rtol=1e-9, atol=1e-12)


def test_epsilon_plus_flat_tells_the_kinds_of_layers_apart():
    """The first convolution is flat, also behind a scaling; the second by z+; the last product by epsilon."""
    generator = np.random.default_rng(3)
    kernels = generator.normal(size=(3, 3, 1, 2)), generator.normal(size=(3, 3, 2, 2)), generator.normal(size=(2, 2))
    images = generator.uniform(0.1, 1, (1, 4, 5, 1))

    def convolved(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    class Net(nn.Module):
        def __call__(self, images, train=False):
            x = nn.relu(convolved((images - 0.1) * 2, kernels[0]))
            x = nn.relu(convolved(x, kernels[1]))
            return x.mean((1, 2)) @ kernels[2], {"last_conv": x}

    with jax.enable_x64(True):
        ours = interpret.lrp_composite(Net(), {}, images, 0, epsilon=1e-12)
        first = jnp.maximum(convolved((images - 0.1) * 2, kernels[0]), 0)
        second = jnp.maximum(convolved(first, kernels[1]), 0)
        relevance = np.asarray(second) / 20 * kernels[2][:, 0]  # the product's and the mean's shares, by epsilon
        up, back = jax.vjp(lambda x: convolved(x, np.maximum(kernels[1], 0)), first)
        relevance = first * back(jnp.where(up > 0, relevance / up, 0))[0]
        seen, back = jax.vjp(lambda x: convolved(x, np.ones((3, 3, 1, 2))), jnp.ones((1, 4, 5, 1)))
        expected = back(relevance / seen)[0] * 2 * images / ((images - 0.1) * 2)  # the scaling's own share
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-9)


class Transformer(nn.Module):
    """Attention, LayerNorm by hand and by Flax, GELU, a SiLU gate; or, if ``frozen``, what its rules make of it.

    The epsilon rule is then gradient times input where products of activations have half of their gradient, functions
    of one value are their ratio of result and argument, and deviations are constants (Achtibat et al., section 3).
    """

    frozen: bool = False

    @nn.compact
    def __call__(self, images, train=False):
        stop = jax.lax.stop_gradient if self.frozen else (lambda x: x)

        def half(x):
            return x / 2 + stop(x / 2)

        def passing(function, x):
            return x * stop(function(x) / x) if self.frozen else function(x)

        def norm(x):
            centred = x - x.mean(-1, keepdims=True)
            return centred / stop(jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3))

        x = nn.Dense(6, name="in")(images.reshape(images.shape[0], 4, -1))
        y = norm(x)
        query, key, value = (nn.Dense(6, name=name)(y) for name in ("query", "key", "value"))
        attention = jax.nn.softmax(half(jnp.einsum("nqc,nkc->nqk", query, key)) / 2)
        x = x + nn.Dense(6, name="out")(half(jnp.einsum("nqk,nkc->nqc", attention, value)))
        y = norm(x) * self.param("scale", nn.initializers.ones, (1, 1, 6))
        x = x + nn.Dense(6, name="mlp")(passing(nn.gelu, nn.Dense(7, name="up")(y)))
        gate = passing(nn.silu, nn.Dense(6, name="gate")(x))
        x = x + half(gate * nn.Dense(6, name="gated")(x))
        return nn.Dense(3, name="head")(x.mean(1)), {"last_conv": x}


def test_attn_lrp_is_gradient_times_input_of_the_network_that_its_rules_make():
    generator = np.random.default_rng(0)
    images = generator.normal(size=(2, 4, 3, 1))
    with jax.enable_x64(True):
        shapes = jax.eval_shape(Transformer().init, jax.random.key(0), images)
        variables = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape) * 0.6, shapes)
        ours = np.asarray(interpret.attn_lrp(Transformer(), variables, images, 2, epsilon=1e-12))
        expected = np.asarray(interpret.gradient_x_input(Transformer(frozen=True), variables, images, 2))
        plain = np.asarray(interpret.gradient_x_input(Transformer(), variables, images, 2))
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-9)
    assert not np.allclose(plain, expected, rtol=0.1)


def test_attn_lrp_of_masked_attention_and_of_convolutions():
    """What a mask of minus infinity hides gets nothing; without gates it is the epsilon rule."""

    def masked(x):
        tokens = x.reshape(1, 2, 2)
        logits = jnp.where(jnp.array([[True, False], [True, True]])[None], tokens @ tokens.swapaxes(1, 2), -jnp.inf)
        return jax.nn.softmax(logits) @ tokens

    ours = np.asarray(interpret.attn_lrp(Layers(masked), {}, X, 0)).ravel()
    assert np.isfinite(ours).all()
    np.testing.assert_array_equal(ours[2:], 0)
    model = models.create("mini_xception", 5)
    variables, images = random_network("mini_xception", biases=True)[1:]
    variables, images = jax.tree.map(lambda x: np.asarray(x, np.float32), (variables, images))
    expected = interpret.lrp_epsilon(model, variables, images, 4)
    ours = interpret.attn_lrp(model, variables, images, 4)
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("method", [interpret.lrp_epsilon, interpret.lrp_alpha_beta])
def test_batch_norm_is_folded(dense, method):
    """A network with BatchNorm gets the maps of the one whose weights have it in them."""
    variables, images, kernels, biases = dense
    names = ("first", "second")
    folded = {n: {"kernel": k, "bias": b} for n, k, b in zip(names, kernels, biases, strict=True)}
    with jax.enable_x64(True):
        ours = method(Dense(), variables, images, 0)
        expected = method(Dense(folded=True), {"params": folded}, images, 0)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


class Layers(nn.Module):
    """One operation between the image and the score."""

    operation: Callable

    def __call__(self, images, train=False):
        x = self.operation(images)
        return x.reshape(x.shape[0], -1)[:, :2], {"last_conv": x}


X = jnp.array([1.0, -2.0, 3.0, 5.0]).reshape(1, 2, 2, 1)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (lambda x: x + 2 * x, [1, 0, 0, 0]),  # a sum of branches: 1 of 3, 2 of 3, each back to the same pixel
        (lambda x: x - 3 * jnp.roll(x, 1, 2), [1 / 7, 6 / 7, 0, 0]),  # 1 - 3 * -2
        (lambda x: nn.max_pool(x, (2, 2)), [0, 0, 0, 1]),
        (lambda x: nn.avg_pool(x, (2, 2)), [1 / 7, -2 / 7, 3 / 7, 5 / 7]),
        (lambda x: x.mean((1, 2)), [1 / 7, -2 / 7, 3 / 7, 5 / 7]),
        (lambda x: jnp.concatenate([x, -x], 1)[:, 1:3, ::-1], [0, 0, 0, 1]),
        (lambda x: jnp.tanh(x).transpose(0, 2, 1, 3), [1, 0, 0, 0]),
        (lambda x: nn.leaky_relu(-x), [1, 0, 0, 0]),
        (lambda x: jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, 1:], [1, 0, 0, 0]),
        (lambda x: sum(jnp.split(x, 2, 2)), [1 / -1, -2 / -1, 0, 0]),
        (lambda x: jnp.maximum(x, 0.0) * jnp.array([2.0, 3.0])[None, None, :, None], [1, 0, 0, 0]),
        (lambda x: jnp.einsum("bhwc,hwk->bk", x, jnp.arange(8.0).reshape(2, 2, 2) / 8), None),
    ],
)
def test_what_each_operation_hands_back(operation, expected):
    """As shares of the first score, by the epsilon rule."""
    ours = interpret.lrp_epsilon(Layers(operation), {}, X, 0, epsilon=0.0)
    score = operation(X).ravel()[0]
    if expected is None:  # linear: weight times pixel
        expected = (X.ravel() * jnp.arange(8.0).reshape(4, 2)[:, 0] / 8) / score
    np.testing.assert_allclose(ours.ravel() / score, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("operation", [jax.nn.softmax, lambda x: x * x, jnp.exp, nn.gelu])
def test_operations_without_a_rule(operation):
    with pytest.raises(FaceflaxError, match=r"model: its operation '.*' on activations has no rule of relevance"):
        interpret.lrp_epsilon(Layers(operation), {}, X, 0)


ROUNDS = np.random.default_rng(18).normal(size=(3, 2, 2)).astype(np.float32)


class Rounds(nn.Module):
    """Three linear layers with ReLUs, in a loop of each kind."""

    loop: str

    def __call__(self, images, train=False):
        kernels = jnp.asarray(ROUNDS)
        x = images.reshape(images.shape[0], 2, 2)

        def one(i, x):
            return nn.relu(x @ kernels[i] + 0.1)

        def scanned(x, kernel):
            x = nn.relu(x @ kernel + 0.1)
            return x, x

        match self.loop:
            case "python":
                for i in range(3):
                    x = one(i, x)
            case "fori_loop":
                x = jax.lax.fori_loop(0, 3, one, x)
            case "scan":
                x, _ = jax.lax.scan(scanned, x, kernels)
            case "scan, stacked":
                x = jax.lax.scan(scanned, x, kernels)[1][2]
            case "scan, reversed":
                x, _ = jax.lax.scan(scanned, x, kernels[::-1], reverse=True)
            case "while":
                _, x = jax.lax.while_loop(lambda state: state[0] < 3, lambda s: (s[0] + 1, one(s[0], s[1])), (0, x))
            case "cond":
                _, x = jax.lax.cond(x.sum() > 0, lambda x: (0, one(0, x)), lambda x: (1, one(1, x)), x)
            case "long scan":
                x, _ = jax.lax.scan(lambda x, _: (x @ kernels[0], None), x, length=9999)
        return x.reshape(x.shape[0], -1), {"last_conv": x}


@pytest.mark.parametrize("method", [interpret.lrp_epsilon, interpret.lrp_alpha_beta])
@pytest.mark.parametrize("loop", ["fori_loop", "scan", "scan, stacked", "scan, reversed"])
def test_a_loop_s_rounds_are_layers(method, loop):
    """As if they were written one after another; and by the epsilon rule that is gradient times input."""
    expected = method(Rounds("python"), {}, X, 3)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(method(Rounds(loop), {}, X, 3), expected, rtol=1e-4, atol=1e-6)
    if method is interpret.lrp_epsilon:
        gradient = interpret.gradient_x_input(Rounds(loop), {}, X, 3)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("loop", "name"), [("while", "while"), ("cond", "cond"), ("long scan", "scan")])
def test_loops_that_cannot_be_written_out_are_named(loop, name):
    """The first result of each is a count, whatever the others are."""
    with pytest.raises(FaceflaxError, match=f"model: its operation '{name}' on activations has no rule"):
        interpret.lrp_epsilon(Rounds(loop), {}, X, 3)


def test_only_what_leads_to_the_target_needs_rules():
    class Branch(nn.Module):
        def __call__(self, images, train=False):
            return images.mean((1, 2)), {"last_conv": images * 2, "odd": jnp.exp(images)}

    ours = interpret.lrp_epsilon(Branch(), {}, X, interpret.Neuron("last_conv", 1, 0, 0))
    np.testing.assert_allclose(ours.ravel(), [0, 0, 6, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (interpret.lrp_epsilon, {"epsilon": -1.0}, "epsilon: -1.0 is out of range"),
        (interpret.lrp_alpha_beta, {"alpha": 0.5}, "alpha: 0.5 is out of range; give 1 or more"),
        (interpret.lrp_composite, {"gamma": -1.0}, "gamma: -1.0 is out of range"),
        (interpret.lrp_composite, {"first": "zplus"}, "first: unknown 'zplus'; choose one of: epsilon, z_plus, gamma"),
        (interpret.attn_lrp, {"epsilon": -1.0}, "epsilon: -1.0 is out of range"),
    ],
)
def test_options_out_of_range(method, options, message):
    with pytest.raises(FaceflaxError, match=message):
        method(Layers(jnp.negative), {}, X, 0, **options)
