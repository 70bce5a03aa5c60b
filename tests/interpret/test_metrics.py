"""Metrics against closed forms, curves done by hand, and plain float64 formulations."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import interpret
from faceflax.errors import FaceflaxError
from interpret import metrics

WEIGHTS = np.random.default_rng(0).normal(size=(8, 8, 1)).astype(np.float32)


class Linear(nn.Module):
    """Two logits, ``w . x`` and 0: all metrics have closed forms."""

    def __call__(self, images, train=False):
        logit = (images * WEIGHTS[None]).sum((1, 2, 3))
        return jnp.stack([logit, jnp.zeros_like(logit)], 1), {"last_conv": images}


class Quadratic(nn.Module):
    """One logit, the squares' sum."""

    def __call__(self, images, train=False):
        return (images**2).sum((1, 2, 3))[:, None], {"last_conv": images}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_deletion_curve_by_hand():
    image = np.zeros((1, 8, 8, 1), np.float32)
    image[0, 2, 3], image[0, 5, 1] = 1.0, -1.0
    first, second = (image[0, row, column, 0] * WEIGHTS[row, column, 0] for row, column in ((2, 3), (5, 1)))
    rank = np.zeros((1, 8, 8))
    rank[0, 2, 3], rank[0, 5, 1] = 9, 7
    curve = metrics.deletion_curve(Linear(), {}, image, 0, rank, steps=64)
    expected = sigmoid([first + second, second, *[0] * 63])
    np.testing.assert_allclose(curve, expected[None], rtol=1e-5)
    area = np.trapezoid(expected, dx=1 / 64)
    np.testing.assert_allclose(metrics.deletion(Linear(), {}, image, 0, rank, steps=64), [area], rtol=1e-5)
    opposite = metrics.deletion_curve(Linear(), {}, image, 1, rank, steps=64)
    np.testing.assert_allclose(opposite, 1 - expected[None], rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 7, 64])
def test_curves_match_a_plain_loop(images, steps):
    rank = np.random.default_rng(2).permutation(64).reshape(1, 8, 8) + np.zeros((3, 1, 1))
    baseline = 0.25
    removed, brought = [], []
    for i in range(steps + 1):
        chosen = (64 - 1 - rank < round(64 * i / steps))[..., None]
        removed.append(sigmoid((np.where(chosen, baseline, images) * WEIGHTS).sum((1, 2, 3))))
        brought.append(sigmoid((np.where(chosen, images, baseline) * WEIGHTS).sum((1, 2, 3))))
    for curve, plain in ((metrics.deletion_curve, removed), (metrics.insertion_curve, brought)):
        ours = curve(Linear(), {}, images, 0, rank, baseline=baseline, steps=steps)
        np.testing.assert_allclose(ours, np.transpose(plain), rtol=1e-5)


def test_true_contributions_are_best(images):
    contributions = metrics.importance(images * WEIGHTS[None], signed=True)
    maps = [contributions, -contributions, *np.random.default_rng(0).normal(size=(8, 3, 8, 8))]
    deletion = np.stack([metrics.deletion(Linear(), {}, images, 0, one) for one in maps])
    insertion = np.stack([metrics.insertion(Linear(), {}, images, 0, one, baseline=0.0) for one in maps])
    assert (deletion.argmin(0) == 0).all()
    assert (deletion.argmax(0) == 1).all()
    assert (insertion.argmax(0) == 0).all()
    assert (insertion.argmin(0) == 1).all()


def test_insertion_starts_from_the_blurred_image_and_ends_at_the_image(images):
    curve = np.asarray(metrics.insertion_curve(Linear(), {}, images, 0, np.ones((3, 8, 8))))
    for at, shown in ((0, metrics.blurred(images, 0.8)), (-1, images)):
        np.testing.assert_allclose(curve[:, at], sigmoid((np.asarray(shown) * WEIGHTS).sum((1, 2, 3))), rtol=1e-5)


def test_blur_is_the_normalised_gaussian_filter(images):
    def filtered(x):
        return gaussian_filter(x.astype(np.float64), 1.3, mode="constant", truncate=20, axes=(1, 2))

    expected = filtered(images) / filtered(np.ones_like(images))
    np.testing.assert_allclose(metrics.blurred(jnp.asarray(images), 1.3), expected, rtol=1e-5, atol=1e-6)


def test_equal_pixels_go_in_no_spatial_order():
    images = np.ones((1, 32, 32, 1), np.float32)

    class Share(nn.Module):
        def __call__(self, images, train=False):
            shares = images[:, :16].mean((1, 2, 3)), images[:, 16:].mean((1, 2, 3))
            return jnp.log(jnp.stack(shares, 1) + 1e-9), {}

    curve = metrics.deletion_curve(Share(), {}, images, 0, np.zeros((1, 32, 32)), steps=8)
    np.testing.assert_allclose(curve[0, :-1], 0.5, atol=0.1)  # the upper half goes as fast as the lower


class Answers(nn.Module):
    """What networks return, made of the logits of :class:`Linear`."""

    kind: str

    @nn.compact
    def __call__(self, images, train=False):
        logits = Linear()(images)[0]
        one = logits[:, :1]
        match self.kind:
            case "softmax":
                answers = nn.softmax(logits)
            case "softmax, cast":
                answers = nn.softmax(logits.astype(jnp.float32), -1)[:, None].reshape(-1, 2)
            case "softmax, written out":
                answers = jnp.exp(logits) / jnp.exp(logits).sum(1, keepdims=True)
            case "sigmoids":
                answers = nn.sigmoid(jnp.concatenate([one, 0 * one], 1))
            case "one logit":
                answers = one
            case "sigmoid":
                answers = nn.sigmoid(one[:, 0])[:, None]
            case "powers":
                answers = 2.0 ** (logits / np.log(2)) / (2.0 ** (logits / np.log(2))).sum(1, keepdims=True)
            case "labels":
                answers = jnp.concatenate([one, one + 3, 1 - one], 1)
        return answers, {"last_conv": images}


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        ("softmax", None),
        ("softmax", "probabilities"),
        ("softmax, cast", None),
        ("softmax, written out", None),
        ("sigmoids", None),
        ("one logit", None),
        ("one logit", "logits"),
        ("one logit", "labels"),
        ("sigmoid", None),
        ("powers", "probabilities"),
        ("labels", "labels"),
    ],
)
def test_the_class_s_probability_is_followed_whatever_a_network_returns(images, kind, outputs):
    """No second softmax of probabilities, and none of a single logit: two classes are a sigmoid of their difference."""
    ours = metrics.deletion_curve(Answers(kind), {}, images, 0, images[..., 0], steps=16, outputs=outputs)
    shown = [
        np.where((images >= np.sort(images.reshape(3, -1))[:, -4 * i, None, None, None]) & (i > 0), 0, images)
        for i in range(17)
    ]
    expected = sigmoid([(x * WEIGHTS).sum((1, 2, 3)) for x in shown]).T
    assert np.ptp(expected, axis=1).min() > 0.05
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("curve", [metrics.deletion_curve, metrics.insertion_curve])
def test_probabilities_are_known_under_jit(images, curve):
    compiled = jax.jit(partial(curve, Answers("softmax"), {}, target=0))
    ours = compiled(images=images, importance=images[..., 0])
    np.testing.assert_allclose(ours, curve(Linear(), {}, images, 0, images[..., 0]), rtol=1e-4)


def test_outputs_that_look_like_probabilities_are_asked_about(images):
    with pytest.raises(FaceflaxError, match=r"outputs: those of Answers are positive and sum to 1, .*; give one of"):
        metrics.deletion(Answers("powers"), {}, images, 0, images[..., 0])
    with pytest.raises(FaceflaxError, match="outputs: unknown 'odds'; choose one of: logits, labels, probabilities"):
        metrics.insertion(Linear(), {}, images, 0, images[..., 0], outputs="odds")


def test_infidelity_of_a_linear_model_is_zero_for_its_gradient(images):
    gradient = interpret.gradient(Linear(), {}, images, 0)
    for perturb in (metrics.SquareRemoval(3), metrics.SquareRemoval(8, 0.5), metrics.GaussianNoise(0.3)):
        score = partial(metrics.infidelity, Linear(), {}, images, 0, key=jax.random.key(0), perturb=perturb)
        np.testing.assert_allclose(score(gradient), 0, atol=1e-10)
        np.testing.assert_allclose(score(3 * gradient, normalized=True), 0, atol=1e-5)
        np.testing.assert_array_equal(score(0 * gradient, normalized=True), 1)


@pytest.mark.parametrize("normalized", [False, True])
def test_infidelity_matches_a_plain_loop(images, normalized):
    key, perturb = jax.random.key(4), metrics.SquareRemoval(3, 0.2)
    attribution = np.random.default_rng(5).normal(size=images.shape).astype(np.float32)
    foretold, change = [], []
    for i in range(50):
        removed = images - np.asarray(perturb(jax.random.fold_in(key, i), images), np.float64)
        foretold.append((removed * attribution).sum((1, 2, 3)))
        change.append((images.astype(np.float64) ** 2 - (images - removed) ** 2).sum((1, 2, 3)))
    foretold, change = np.array(foretold), np.array(change)
    if normalized:
        scale = (foretold * change).mean(0) / (foretold**2).mean(0)
        expected = ((scale * foretold - change) ** 2).mean(0) / (change**2).mean(0)
    else:
        expected = ((foretold - change) ** 2).mean(0)
    options = {"key": key, "perturb": perturb, "samples": 50, "normalized": normalized}
    ours = metrics.infidelity(Quadratic(), {}, images, 0, attribution, **options)
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


def test_square_removal_takes_every_place_equally_often():
    images = jnp.ones((2000, 5, 6, 1))
    removed = np.asarray(metrics.SquareRemoval(2)(jax.random.key(0), images) == 0)
    np.testing.assert_array_equal(removed.sum((1, 2, 3)), 4)
    corner, middle = removed[:, 0, 0].mean(), removed[:, 2, 2].mean()
    assert abs(corner - 1 / 20) < 0.02  # one place of the 4 x 5
    assert abs(middle - 4 / 20) < 0.04
    assert (removed[:, 0].any(1) != removed[:, 4].any(1)).any()


def test_max_sensitivity_of_known_methods(images):
    score = partial(metrics.max_sensitivity, key=jax.random.key(0), radius=0.1, samples=7)
    np.testing.assert_array_equal(score(interpret.gradient, Linear(), {}, images, 0), 0)  # the gradient is constant
    ours = score(interpret.gradient, Quadratic(), {}, images, 0)  # the gradient is 2x
    changes = [
        np.asarray(jax.random.uniform(key, images.shape, minval=-0.1, maxval=0.1))
        for key in jax.random.split(jax.random.key(0), 7)
    ]
    lengths = np.max([np.linalg.norm(change, axis=(1, 2))[:, 0] for change in changes], 0)
    np.testing.assert_allclose(ours, lengths / np.linalg.norm(images, axis=(1, 2))[:, 0], rtol=1e-4)


def test_max_sensitivity_of_a_map_of_zeros_is_zero_if_it_stays():
    def zeros(model, variables, images, target):
        return 0 * images

    sensitivity = metrics.max_sensitivity(zeros, None, {}, np.ones((2, 4, 4, 1)), 0, key=jax.random.key(0))
    np.testing.assert_array_equal(sensitivity, 0)


def test_gini_closed_forms():
    count = 50
    one = np.eye(1, count)
    ramp = np.arange(count, dtype=np.float32)[None]
    np.testing.assert_allclose(metrics.gini(jnp.asarray(one)), 1 - 1 / count, rtol=1e-6)
    np.testing.assert_allclose(metrics.gini(jnp.asarray(-7 * one)), 1 - 1 / count, rtol=1e-6)
    np.testing.assert_allclose(metrics.gini(jnp.full((2, 4, 4, 1), -3.0)), 0, atol=1e-6)
    np.testing.assert_array_equal(metrics.gini(jnp.zeros((2, 4, 4, 1))), 0)
    np.testing.assert_allclose(metrics.gini(jnp.asarray(ramp)), (count + 1) / (3 * count), rtol=1e-5)


def test_gini_is_the_mean_difference_over_twice_the_mean():
    values = np.random.default_rng(0).exponential(size=(4, 30)) ** 2
    difference = np.abs(values[:, :, None] - values[:, None]).mean((1, 2))
    np.testing.assert_allclose(metrics.gini(jnp.asarray(values)), difference / (2 * values.mean(1)), rtol=1e-5)


def test_a_random_map_scores_the_mask_s_area():
    generator = np.random.default_rng(0)
    mask = np.zeros((4000, 10, 10), bool)
    mask[:, 2:5, 1:9] = True
    maps = generator.normal(size=mask.shape)
    assert abs(float(metrics.pointing_game(maps, mask).mean()) - 0.24) < 3 * np.sqrt(0.24 * 0.76 / 4000)
    assert abs(float(metrics.energy_inside(maps, mask).mean()) - 0.24) < 0.01


def test_maps_without_a_highest_point_score_the_mask_s_area():
    mask = np.random.default_rng(0).random((3, 6, 6)) < 0.4
    for even in (np.zeros((3, 6, 6)), np.ones((3, 6, 6))):
        np.testing.assert_allclose(metrics.pointing_game(even, mask), mask.mean((1, 2)), rtol=1e-6)
        np.testing.assert_allclose(metrics.energy_inside(even, mask), mask.mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(metrics.energy_inside(-np.ones((3, 6, 6)), mask), mask.mean((1, 2)), rtol=1e-6)


def test_metrics_compose_with_jit(images):
    rank = np.random.default_rng(2).normal(size=(3, 8, 8))
    compiled = jax.jit(partial(metrics.deletion, Linear(), {}))
    expected = metrics.deletion(Linear(), {}, images, 0, rank)
    np.testing.assert_allclose(compiled(images, jnp.zeros(3, int), rank), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e25])
def test_a_map_s_scale_does_not_matter(images, scale):
    """Not even where squares of its values are too small or too large for float32."""
    mask = np.random.default_rng(0).random((3, 8, 8)) < 0.4
    attribution = np.random.default_rng(5).normal(size=images.shape).astype(np.float32)
    options = {"key": jax.random.key(0), "normalized": True, "perturb": metrics.SquareRemoval(3), "samples": 9}

    def scaled_gradient(model, variables, images, target):
        return scale * interpret.gradient(model, variables, images, target)

    for metric in (
        metrics.gini,
        lambda maps: metrics.pointing_game(metrics.importance(maps, signed=True), mask),
        lambda maps: metrics.energy_inside(metrics.importance(maps, signed=False), mask),
        lambda maps: metrics.deletion(Linear(), {}, images, 0, metrics.importance(maps, signed=True)),
        lambda maps: metrics.infidelity(Linear(), {}, images, 0, maps, **options),
    ):
        np.testing.assert_allclose(metric(scale * attribution), metric(attribution), rtol=1e-5)
    sensitivity = partial(metrics.max_sensitivity, key=jax.random.key(0), samples=3)
    expected = sensitivity(interpret.gradient, Quadratic(), {}, images, 0)
    np.testing.assert_allclose(sensitivity(scaled_gradient, Quadratic(), {}, images, 0), expected, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_counted_in_float32(dtype):
    """Sums of many values, or of large ones, are beyond what half precision holds."""
    maps = jnp.asarray(100 + np.random.default_rng(0).random((2, 64, 64, 1)), dtype)
    plain = jnp.asarray(maps, jnp.float32)
    mask = np.random.default_rng(0).random((2, 64, 64)) < 0.4
    for metric in (
        metrics.gini,
        lambda maps: metrics.energy_inside(maps[..., 0], mask),
        lambda maps: metrics.importance(jnp.repeat(maps, 1000, -1), signed=True),
    ):
        np.testing.assert_allclose(metric(maps), metric(plain), rtol=1e-6)


def test_masks_of_zeros_and_ones_are_masks(images):
    mask = np.random.default_rng(0).random((3, 8, 8)) < 0.4
    for metric in (metrics.pointing_game, metrics.energy_inside):
        expected = metric(images[..., 0], mask)
        for dtype in (np.uint8, np.float32, np.int64):
            np.testing.assert_array_equal(metric(images[..., 0], mask.astype(dtype)), expected)
        np.testing.assert_allclose(jax.jit(metric)(images[..., 0], mask), expected, rtol=1e-6)


def test_maps_and_masks_that_mean_nothing_are_refused(images):
    mask = np.random.default_rng(0).random((3, 8, 8)) < 0.4
    spoilt = images.copy()
    spoilt[1, 2, 3] = np.nan
    flat = spoilt[..., 0]

    def broken(model, variables, images, target):
        return images / 0

    for field, call in (
        ("attribution", lambda: metrics.gini(spoilt)),
        ("attribution", lambda: metrics.importance(spoilt, signed=True)),
        ("attribution", lambda: metrics.infidelity(Linear(), {}, images, 0, spoilt, key=jax.random.key(0))),
        ("importance", lambda: metrics.pointing_game(flat, mask)),
        ("importance", lambda: metrics.energy_inside(flat, mask)),
        ("importance", lambda: metrics.deletion(Linear(), {}, images, 0, flat)),
        ("importance", lambda: metrics.insertion(Linear(), {}, images, 0, flat)),
    ):
        with pytest.raises(FaceflaxError, match=f"{field}: map 1 holds NaN or infinity"):
            call()
    with pytest.raises(FaceflaxError, match="method: its map of image 0 or of one near it holds NaN or infinity"):
        metrics.max_sensitivity(broken, None, {}, images, 0, key=jax.random.key(0))
    for metric in (metrics.pointing_game, metrics.energy_inside):
        with pytest.raises(FaceflaxError, match=r"mask: its value 255 is neither 0 nor 1; .* such as mask > 127"):
            metric(images[..., 0], 255 * mask.astype(np.uint8))
        with pytest.raises(FaceflaxError, match=r"mask: shape \(3, 8, 7\) is not that of importance \(3, 8, 8\)"):
            metric(images[..., 0], mask[..., 1:])
        with pytest.raises(FaceflaxError, match="mask: uint8 is not bool; give mask > 0"):
            jax.jit(metric)(images[..., 0], mask.astype(np.uint8))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: metrics.deletion(Linear(), {}, x, 0, x), r"importance: shape \(3, 8, 8, 1\) is not the images'"),
        (lambda x: metrics.deletion(Linear(), {}, x, 2, x[..., 0]), "target: 2 is out of range; give 0 to 1"),
        (
            lambda x: metrics.deletion(Linear(), {}, x, 0, x[..., 0], steps=65),
            "steps: 65 is out of range; give 1",
        ),
        (lambda x: metrics.insertion(Linear(), {}, x[0], 0, x[0]), r"images: shape \(8, 8, 1\) is not \[batch"),
        (
            lambda x: metrics.infidelity(Linear(), {}, x, 0, x[:1], key=jax.random.key(0)),
            r"attribution: shape \(1, 8, 8, 1\) is not the images'",
        ),
        (
            lambda x: metrics.infidelity(
                Linear(), {}, x, 0, x, key=jax.random.key(0), perturb=metrics.SquareRemoval(9)
            ),
            "perturb.size: 9 is out of range; give 1 to 8",
        ),
        (
            lambda x: metrics.max_sensitivity(
                interpret.gradient, Linear(), {}, x, 0, key=jax.random.key(0), radius=-1.0
            ),
            "radius: -1.0 is out of range",
        ),
    ],
)
def test_bad_arguments_are_named(images, call, message):
    with pytest.raises(FaceflaxError, match=message):
        call(images)
