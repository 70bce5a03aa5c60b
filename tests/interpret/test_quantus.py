"""The metrics beside Quantus's own answers, on the same network, images, maps and changes."""

from __future__ import annotations

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quantus

import interpret
from interpret import metrics

SIDE, CLASSES, COUNT = 8, 3, 6
PATCH = 4
RADIUS, SAMPLES = 0.04, 5


class Net(nn.Module):
    """Smooth, so that no gradient is 0."""

    @nn.compact
    def __call__(self, images, train=False):
        hidden = jnp.tanh(nn.Conv(6, (3, 3), name="conv")(images))
        return nn.Dense(CLASSES, name="head")(hidden.reshape(len(images), -1)), {"conv": hidden}


MODEL = Net()
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(0.1, 1.0, (COUNT, SIDE, SIDE, 1)).astype(np.float32)
MASKS = RANDOM.random((COUNT, SIDE, SIDE)) < 0.3
VARIABLES = {
    "params": {
        "conv": {"kernel": RANDOM.normal(0, 0.3, (3, 3, 1, 6)).astype(np.float32), "bias": np.zeros(6, np.float32)},
        "head": {
            "kernel": RANDOM.normal(0, 0.05, (6 * SIDE**2, CLASSES)).astype(np.float32),
            "bias": np.zeros(CLASSES, np.float32),
        },
    }
}


@cache
def labels():
    return np.asarray(MODEL.apply(VARIABLES, IMAGES)[0].argmax(1))


@cache
def maps():
    return interpret.gradient_x_input(MODEL, VARIABLES, jnp.asarray(IMAGES), labels(), layer="conv")


class Theirs:
    """The network as Quantus asks for it: channels first."""

    def __init__(self, softmax: bool = True) -> None:
        self.softmax = softmax

    def predict(self, images, **_):
        logits = MODEL.apply(VARIABLES, np.moveaxis(images, 1, -1).astype(np.float32))[0]
        return np.asarray(jax.nn.softmax(logits) if self.softmax else logits)

    def shape_input(self, x, *_, **__):
        return x


def first(images):
    """Channels first, in float64, and a copy, as Quantus changes what it is given."""
    return np.moveaxis(np.array(images, np.float64), -1, 1)


def theirs(name, **options):
    """One of their metrics, which neither takes magnitudes nor scales maps."""
    return getattr(quantus, name)(abs=False, normalise=False, disable_warnings=True, **options)


def positive():
    return np.maximum(np.asarray(maps()), 0)


def test_complexity():
    sizes = np.abs(np.asarray(maps(), np.float64))
    count = SIDE * SIDE
    np.testing.assert_allclose(
        metrics.gini(maps()), theirs("Sparseness").evaluate_batch(x_batch=None, a_batch=sizes.copy()), atol=1e-4
    )
    np.testing.assert_allclose(
        metrics.entropy(maps()), theirs("Complexity").evaluate_batch(x_batch=None, a_batch=sizes.copy()), rtol=1e-5
    )
    relative = sizes / sizes.max((1, 2, 3), keepdims=True)
    counted = theirs("EffectiveComplexity", eps=0.1).evaluate_batch(a_batch=relative)
    np.testing.assert_allclose(metrics.effective_complexity(maps(), threshold=0.1), counted / count, rtol=1e-6)


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        (metrics.pointing_game, "PointingGame"),
        (metrics.energy_inside, "RelevanceMassAccuracy"),
        (metrics.relevance_rank_accuracy, "RelevanceRankAccuracy"),
        (metrics.localisation_auc, "AUC"),
    ],
)
def test_localisation(ours, name):
    raised = positive() + 1e-6 * np.asarray(jax.random.uniform(jax.random.key(3), maps().shape))  # no two are equal
    answer = theirs(name).evaluate_batch(a_batch=first(raised), s_batch=MASKS.copy())
    np.testing.assert_allclose(ours(raised[..., 0], MASKS), answer, rtol=1e-5)


def test_attribution_localisation_is_theirs_over_the_share_of_the_mask():
    answer = theirs("AttributionLocalisation").evaluate_batch(
        x_batch=first(IMAGES), a_batch=first(positive()), s_batch=MASKS.copy()
    )
    expected = answer / MASKS.mean((1, 2))
    np.testing.assert_allclose(metrics.attribution_localisation(maps()[..., 0], MASKS), expected, rtol=1e-5)


def test_deletion_is_pixel_flipping():
    flipped = theirs("PixelFlipping", features_in_step=4, perturb_baseline=0.0).evaluate_batch(
        model=Theirs(), x_batch=first(IMAGES), y_batch=labels(), a_batch=first(maps())
    )
    curve = metrics.deletion_curve(MODEL, VARIABLES, IMAGES, labels(), maps()[..., 0], steps=SIDE * SIDE // 4)
    np.testing.assert_allclose(curve[:, 1:], flipped, atol=1e-5)


def test_selectivity():
    covered = theirs("Selectivity", patch_size=PATCH, perturb_baseline=0.0).evaluate_batch(
        model=Theirs(), x_batch=first(IMAGES), y_batch=labels(), a_batch=first(maps())
    )
    whole = Theirs().predict(first(IMAGES))[np.arange(COUNT), labels()]
    expected = np.trapezoid(np.concatenate([whole[:, None], covered], 1), axis=1) / covered.shape[1]
    ours = metrics.selectivity(MODEL, VARIABLES, IMAGES, labels(), maps()[..., 0], patch=PATCH)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_monotonicity_as_they_state_it():
    """All steps but the first; what comes in is the image, where their own default brings in the baseline again."""
    images = first(IMAGES).reshape(COUNT, -1)

    def restored(arr, indices, **_):
        arr = arr.copy()
        np.put_along_axis(arr, indices, np.take_along_axis(images, indices, 1), 1)
        return arr

    answers = []
    for tried in (maps(), -maps()):
        metric = theirs("Monotonicity", features_in_step=32, perturb_baseline=0.0)
        metric.perturb_func = partial(restored, perturb_baseline=0.0)
        answer = metric.evaluate_batch(model=Theirs(), x_batch=first(IMAGES), y_batch=labels(), a_batch=first(tried))
        steps = SIDE * SIDE // 32
        rising = metrics.monotonicity(MODEL, VARIABLES, IMAGES, labels(), tried[..., 0], steps=steps)
        curve = metrics.insertion_curve(MODEL, VARIABLES, IMAGES, labels(), -tried[..., 0], steps=steps, baseline=0.0)
        differences = np.diff(np.asarray(curve))
        np.testing.assert_allclose(rising, (differences >= 0).mean(1), atol=1e-6)
        assert list(answer) == list((differences[:, 1:] >= 0).all(1))
        answers += answer
    assert set(answers) == {False, True}


def test_road_fills_in_as_they_do():
    from quantus.functions.perturb_func import noisy_linear_imputation

    order = np.argsort(-np.asarray(maps()).reshape(COUNT, -1), axis=1)[:, :20]
    filled = np.stack(
        [noisy_linear_imputation(image, gone, noise=0.0) for image, gone in zip(first(IMAGES), order, strict=True)]
    )
    expected = Theirs().predict(filled)[np.arange(COUNT), labels()]
    gone = np.zeros((COUNT, SIDE * SIDE), bool)
    np.put_along_axis(gone, order, True, axis=1)
    ours = metrics.regions.filled(IMAGES, jnp.asarray(gone.reshape(COUNT, SIDE, SIDE, 1)))
    np.testing.assert_allclose(first(ours), filled, atol=1e-3)
    np.testing.assert_allclose(Theirs().predict(first(ours))[np.arange(COUNT), labels()], expected, atol=1e-3)


def changes(key, *_, arr, **__):
    """The changes that :func:`interpret.metrics.max_sensitivity` draws, one after the other."""
    change = jax.random.uniform(next(key), IMAGES.shape, jnp.float32, -RADIUS, RADIUS)
    return arr + np.asarray(change).reshape(arr.shape)


def watched(name, **options):
    metric = theirs(name, return_aggregate=False, **options)
    metric.perturb_func = partial(changes, iter(jax.random.split(jax.random.key(7), SAMPLES)))
    gradient = partial(interpret.gradient_x_input, MODEL, VARIABLES, layer="conv")
    metric.explain_batch = lambda _, images, labels: first(
        gradient(jnp.asarray(np.moveaxis(images, 1, -1), jnp.float32), labels)
    )
    return metric


def method(model, variables, images, target):
    return interpret.gradient_x_input(model, variables, images, target, layer="conv")


@pytest.mark.parametrize(
    ("ours", "name"), [(metrics.max_sensitivity, "MaxSensitivity"), (metrics.avg_sensitivity, "AvgSensitivity")]
)
def test_sensitivity(ours, name):
    answer = watched(name, nr_samples=SAMPLES).evaluate_batch(
        model=Theirs(), x_batch=first(IMAGES), y_batch=labels(), a_batch=first(maps())
    )
    got = ours(method, MODEL, VARIABLES, IMAGES, labels(), key=jax.random.key(7), radius=RADIUS, samples=SAMPLES)
    np.testing.assert_allclose(got, answer, rtol=1e-3)


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        (metrics.relative_input_stability, "RelativeInputStability"),
        (metrics.relative_output_stability, "RelativeOutputStability"),
    ],
)
def test_stability(ours, name):
    answer = watched(name, nr_samples=SAMPLES).evaluate_batch(
        model=Theirs(softmax=False), x_batch=first(IMAGES), y_batch=labels(), a_batch=first(maps())
    )
    got = ours(method, MODEL, VARIABLES, IMAGES, labels(), key=jax.random.key(7), radius=RADIUS, samples=SAMPLES)
    known = ~np.isnan(answer) & (np.abs(maps()).min((1, 2, 3)) > 1e-3 * np.abs(maps()).max((1, 2, 3)))
    assert known.any()
    np.testing.assert_allclose(np.asarray(got)[known], np.asarray(answer)[known], rtol=1e-2)


def test_completeness_is_of_the_difference_that_they_compare_with():
    metric = theirs("Completeness", perturb_baseline=0.0)
    difference = []
    metric.output_func = lambda values: difference.append(values) or values
    metric.evaluate_batch(model=Theirs(softmax=False), x_batch=first(IMAGES), y_batch=labels(), a_batch=first(maps()))
    expected = np.abs(np.asarray(maps()).sum((1, 2, 3)) - difference[0]) / np.abs(difference[0])
    assert expected.min() > 1e-3
    np.testing.assert_allclose(metrics.completeness(MODEL, VARIABLES, IMAGES, labels(), maps()), expected, rtol=1e-2)
