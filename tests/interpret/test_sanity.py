"""Sanity checks against SciPy, closed forms, and models whose answer is known."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import spearmanr

import interpret
from faceflax import models
from faceflax.errors import FaceflaxError
from interpret import adapters, sanity


class Net(nn.Module):
    """Three layers whose names do not sort in their order; BatchNorm, so that a layer spans two collections."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Conv(8, (3, 3), name="z_first")(images))
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(nn.Conv(8, (3, 3), name="a_second")(x)))
        x = nn.Conv(3, (3, 3), name="m_third")(x)
        return x.mean((1, 2)), {"last_conv": x}


@pytest.fixture(scope="module")
def network():
    images = np.random.default_rng(0).normal(size=(4, 24, 24, 1)).astype(np.float32)
    return Net(), jax.jit(Net().init)(jax.random.key(0), images), images


def test_rank_correlation_is_scipy_s():
    generator = np.random.default_rng(0)
    first = generator.normal(size=(5, 9, 7))
    second = first + generator.normal(size=first.shape)
    second[0] = np.round(second[0])  # ties
    expected = [spearmanr(one.ravel(), other.ravel()).statistic for one, other in zip(first, second, strict=True)]
    np.testing.assert_allclose(sanity.rank_correlation(first, second), expected, rtol=1e-12)


def test_rank_correlation_of_constant_maps():
    some, even = np.random.default_rng(0).random((1, 5, 5)), np.ones((1, 5, 5))
    np.testing.assert_array_equal(sanity.rank_correlation(some, even), 0)
    np.testing.assert_array_equal(sanity.rank_correlation(even, 3 * even), 1)


def test_ssim_is_the_formula_at_one_window():
    # 11 x 11 pixels hold one window: means, variances and covariance under a Gaussian of 1.5 pixels, by hand.
    first, second = np.random.default_rng(0).random((2, 1, 11, 11))
    first, second = first / first.max(), second / second.max()
    bell = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(bell, bell) / bell.sum() ** 2
    a, b = first[0], second[0]
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
    covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
    expected = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
    expected /= (mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)
    np.testing.assert_allclose(sanity.ssim(2 * first, second), expected, rtol=1e-6)


def test_ssim_of_unrelated_and_of_zero_maps():
    generator = np.random.default_rng(0)
    first, second = generator.random((2, 8, 32, 32))
    assert abs(sanity.ssim(first, second).mean()) < 0.1
    np.testing.assert_allclose(sanity.ssim(0 * first, 0 * first), 1)


def test_maps_are_compared_by_magnitude(network):
    maps = interpret.gradient(*network, 0)
    similarity = sanity.compare(maps, -2 * maps)
    np.testing.assert_allclose(similarity.ssim, 1, rtol=1e-5)
    np.testing.assert_allclose(similarity.rank_correlation, 1, rtol=1e-6)


def test_shuffling_keeps_the_numbers_and_nothing_else(network):
    _, variables, _ = network
    drawn, again = (sanity.shuffled(variables, key=jax.random.key(seed)) for seed in (0, 0))
    other = sanity.shuffled(variables, key=jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, drawn, again)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.sort(a, None), np.sort(b, None)), drawn, variables)
    kernels = [tree["params"]["a_second"]["kernel"].ravel() for tree in (variables, drawn, other)]
    correlations = np.corrcoef(kernels)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 0.2  # 576 numbers: 5 standard deviations


def test_layers_run_from_the_output_to_the_input(network):
    assert sanity.layers(*network) == ["m_third", "norm", "a_second", "z_first"]


def test_layers_of_an_nnx_module():
    class Module(nnx.Module):
        def __init__(self, rngs):
            self.z_first = nnx.Conv(1, 4, (3, 3), rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.a_second = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, images):
            return self.a_second(self.drop(nnx.relu(self.z_first(images))).mean((1, 2)))

    images = np.random.default_rng(0).normal(size=(2, 16, 16, 1)).astype(np.float32)
    module = Module(nnx.Rngs(0))
    module.eval()
    model, variables = adapters.from_nnx(module)
    random = sanity.shuffled(variables, key=jax.random.key(0))
    steps = sanity.cascading_randomization(interpret.gradient, model, variables, random, images, 0)
    assert list(steps) == ["a_second", "z_first"]
    assert (steps["z_first"].rank_correlation < 0.99).all()


@pytest.mark.parametrize("arch", models.list_classifiers())
def test_layers_of_the_project_s_networks(arch):
    model = models.create(arch, 7)
    variables = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, np.float32), jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
    )
    found = sanity.layers(model, variables, np.zeros((1, 48, 48, 1), np.float32))
    assert sorted(found) == sorted(variables["params"])
    names = [name for name in models.layer_names(model) if name in variables["params"]]
    assert [name for name in found if name in names] == names[::-1]


def test_cascade_takes_one_layer_after_another(network):
    model, variables, images = network
    random = sanity.shuffled(variables, key=jax.random.key(0))
    order = sanity.layers(model, variables, images)
    for i, (layer, drawn) in enumerate(sanity.cascade(variables, random, order)):
        assert layer == order[i]
        for name in order:
            source = random if name in order[: i + 1] else variables
            for collection in source:
                if name in source[collection]:
                    jax.tree.map(np.testing.assert_array_equal, drawn[collection][name], source[collection][name])
    jax.tree.map(np.testing.assert_array_equal, drawn, random)


def test_cascade_ends_at_the_maps_of_the_random_network(network):
    model, variables, images = network
    random = jax.jit(model.init)(jax.random.key(7), images)
    steps = sanity.cascading_randomization(interpret.gradient, model, variables, random, images, 1)
    assert list(steps) == sanity.layers(model, variables, images)
    last = sanity.compare(interpret.gradient(model, variables, images, 1), interpret.gradient(model, random, images, 1))
    np.testing.assert_allclose(steps["z_first"].ssim, last.ssim, atol=1e-6)
    np.testing.assert_allclose(steps["z_first"].rank_correlation, last.rank_correlation, atol=1e-6)
    assert steps["z_first"].ssim.mean() < 0.5


def test_a_map_that_ignores_the_network_passes_through_unchanged(network):
    model, variables, images = network

    def edges(model, variables, images, target):
        return jnp.gradient(images, axis=1)

    random = sanity.shuffled(variables, key=jax.random.key(0))
    for step in sanity.cascading_randomization(edges, model, variables, random, images, 0).values():
        np.testing.assert_allclose(step.ssim, 1)
        np.testing.assert_allclose(step.rank_correlation, 1)


def test_only_what_is_above_matters_to_a_linear_readout():
    # The gradient of logit k of a linear model is its weights' column k: with random weights, unrelated to before.
    class Readout(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            return nn.Dense(2, name="readout")(images.reshape(len(images), -1)), {}

    images = np.ones((1, 32, 32, 1), np.float32)
    variables = jax.jit(Readout().init)(jax.random.key(0), images)
    random = sanity.shuffled(variables, key=jax.random.key(1))
    (step,) = sanity.cascading_randomization(interpret.gradient, Readout(), variables, random, images, 0).values()
    assert abs(step.rank_correlation[0]) < 5 / 32  # 1024 pixels: standard deviation 1 / 32
    same = sanity.label_randomization(interpret.gradient, Readout(), variables, variables, images, 0)
    np.testing.assert_allclose([same.ssim[0], same.rank_correlation[0]], 1)
    other = sanity.label_randomization(interpret.gradient, Readout(), variables, random, images, 0)
    np.testing.assert_allclose(other.rank_correlation, step.rank_correlation, atol=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((2, 16, 16), (2, 16, 15), r"second: shape \(2, 16, 15\) is not that of first \(2, 16, 16\)"),
        ((16, 16), (16, 16), r"second: shape \(16, 16\) is not that of first"),
        ((2, 8, 16), (2, 8, 16), r"first: maps of \(8, 16\) pixels are too small; give 11 a side"),
    ],
)
def test_maps_that_cannot_be_compared(first, second, message):
    with pytest.raises(FaceflaxError, match=message):
        sanity.ssim(np.ones(first), np.ones(second))


@pytest.mark.parametrize("collection", [tuple, list])
def test_layers_of_variables_in_tuples_and_lists(collection):
    """By their numbers, from output to input, whatever the order in which they are kept."""

    def network(kernels, images):
        return jnp.tanh(jnp.tanh(images @ kernels[2]) @ kernels[0]).mean((1, 2)) @ kernels[1]

    kernels = collection(np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32))
    images = jnp.ones((1, 16, 16, 4))
    model, variables = interpret.wrap(network, kernels)
    assert sanity.layers(model, variables, images) == ["1", "0", "2"]
    random = sanity.shuffled(variables, key=jax.random.key(0))
    similar = sanity.cascading_randomization(interpret.gradient, model, variables, random, images, 0)
    assert list(similar) == ["1", "0", "2"]


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e25])
def test_scale_and_half_precision_do_not_matter(scale):
    maps = np.random.default_rng(0).normal(size=(2, 2, 16, 16, 3)).astype(np.float32)
    expected = sanity.compare(*maps)
    scaled = sanity.compare(scale * maps[0], maps[1])
    half = jnp.asarray(100 * maps[0], jnp.float16)
    halved = sanity.compare(jnp.repeat(half, 400, -1), jnp.repeat(jnp.asarray(half, jnp.float32), 400, -1))
    np.testing.assert_allclose(scaled.ssim, expected.ssim, rtol=1e-5)
    np.testing.assert_allclose(scaled.rank_correlation, expected.rank_correlation, atol=1e-3)
    np.testing.assert_allclose([halved.ssim, halved.rank_correlation], 1, rtol=1e-6)


def test_maps_with_nan_are_refused():
    maps = np.random.default_rng(0).random((2, 16, 16))
    spoilt = maps.copy()
    spoilt[1, 0, 0] = np.nan
    for call in (sanity.ssim, sanity.rank_correlation):
        with pytest.raises(FaceflaxError, match="second: map 1 holds NaN or infinity"):
            call(maps, spoilt)
    with pytest.raises(FaceflaxError, match="first: map 1 holds NaN or infinity"):
        sanity.compare(spoilt[..., None], maps[..., None])
