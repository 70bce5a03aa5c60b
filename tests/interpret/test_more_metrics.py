"""Metrics by regions, stability, localisation, complexity and axioms: against loops, closed forms, degenerate maps."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from scipy.stats import entropy, mannwhitneyu

import interpret
from faceflax.errors import FaceflaxError
from interpret import metrics, sanity
from interpret.metrics.regions import filled

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(8, 9, 1)).astype(np.float32)
IMAGES = RANDOM.uniform(-1, 1, (3, 8, 9, 1)).astype(np.float32)
CONTRIBUTIONS = (IMAGES * WEIGHTS)[..., 0]


class Linear(nn.Module):
    def __call__(self, images, train=False):
        score = (images * WEIGHTS[None]).sum((1, 2, 3)) / 4
        return jnp.stack([score, 0 * score], -1), {"last_conv": images}


def probability(images):
    return 1 / (1 + np.exp(-(images * WEIGHTS).sum((1, 2, 3)) / 4))


def test_filled_in_pixels_are_the_mean_of_those_around_them():
    """Against a sparse direct solver."""
    gone = RANDOM.random((3, 8, 9, 1)) < 0.6
    ours = np.asarray(filled(jnp.asarray(IMAGES), jnp.asarray(gone)))
    for image, lost, result in zip(IMAGES[..., 0], gone[..., 0], ours[..., 0], strict=True):
        system, right = sparse.lil_matrix((72, 72)), np.zeros(72)
        for i in range(8):
            for j in range(9):
                at = 9 * i + j
                if not lost[i, j]:
                    system[at, at], right[at] = 1, image[i, j]
                    continue
                for di in (-1, 0, 1):
                    for dj in (-1, 0, 1):
                        if (di or dj) and 0 <= i + di < 8 and 0 <= j + dj < 9:
                            weight = 1 / 12 if di and dj else 1 / 6
                            system[at, at] += weight
                            system[at, 9 * (i + di) + j + dj] -= weight
        expected = sparse.linalg.spsolve(system.tocsr(), right).reshape(8, 9)
        np.testing.assert_allclose(result, expected, atol=1e-4)


def test_road_removes_the_most_important_pixels_first():
    curve = metrics.road_curve(Linear(), {}, IMAGES, 0, CONTRIBUTIONS, steps=8, noise=0.0)
    order = np.argsort(-CONTRIBUTIONS.reshape(3, -1), axis=1)
    for k in range(8):
        gone = np.zeros((3, 72), bool)
        np.put_along_axis(gone, order[:, : 9 * k], True, 1)
        gone = gone.reshape(IMAGES.shape)
        expected = probability(np.asarray(filled(jnp.asarray(IMAGES), jnp.asarray(gone))))
        np.testing.assert_allclose(curve[:, k], expected, atol=1e-4)
    area = metrics.road(Linear(), {}, IMAGES, 0, CONTRIBUTIONS, steps=8, noise=0.0)
    np.testing.assert_allclose(area, np.trapezoid(curve, axis=1) / 7, rtol=1e-5)
    assert (area < metrics.road(Linear(), {}, IMAGES, 0, -CONTRIBUTIONS, steps=8)).all()


REGIONS = RANDOM.integers(0, 5, (3, 8, 9))


def test_irof_matches_a_plain_loop():
    expected = []
    for image, importance, regions in zip(IMAGES, CONTRIBUTIONS, REGIONS, strict=True):
        order = np.argsort([-importance[regions == r].mean() for r in range(5)])
        left, first, shares = image.copy(), probability(image[None])[0], []
        for region in order:
            left[regions == region] = image.mean()
            shares.append(1 - probability(left[None])[0] / first)
        expected.append(np.mean(shares))
    ours = metrics.irof(Linear(), {}, IMAGES, 0, CONTRIBUTIONS, regions=REGIONS)
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)
    alone = metrics.irof(Linear(), {}, IMAGES[:1], 0, CONTRIBUTIONS[:1], regions=REGIONS[:1] * 2)  # unused numbers
    np.testing.assert_allclose(alone[0], expected[0], rtol=1e-3, atol=1e-5)
    assert np.isfinite(metrics.irof(Linear(), {}, IMAGES, 0, np.zeros((3, 8, 9)))).all()


def test_selectivity_matches_a_plain_loop():
    expected = []
    for image, importance in zip(IMAGES, CONTRIBUTIONS, strict=True):
        squares = [np.s_[i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4, 8)]
        left, curve = image.copy(), [probability(image[None])[0]]
        for square in sorted(squares, key=lambda s: -importance[s].sum()):
            left[square] = 0.2
            curve.append(probability(left[None])[0])
        expected.append(np.trapezoid(curve) / 6)
    ours = metrics.selectivity(Linear(), {}, IMAGES, 0, CONTRIBUTIONS, patch=4, baseline=0.2)
    np.testing.assert_allclose(ours, expected, rtol=1e-3)


def test_monotonicity():
    """Where the negative pixels come first and the positive last: falls, then rises."""
    ours = metrics.monotonicity(Linear(), {}, IMAGES, 0, CONTRIBUTIONS, steps=72)
    np.testing.assert_allclose(ours, (CONTRIBUTIONS >= 0).mean((1, 2)), atol=0.02)  # one is smaller than rounding
    best = metrics.monotonicity(Linear(), {}, np.sign(WEIGHTS)[None] * np.abs(IMAGES), 0, np.abs(CONTRIBUTIONS))
    np.testing.assert_array_equal(best, 1)


def test_sufficiency_is_how_often_neighbours_agree():
    maps, labels = RANDOM.normal(size=(20, 3, 3)), RANDOM.integers(0, 3, 20)
    rows = maps.reshape(20, 9)
    cosine = rows @ rows.T / np.outer(*2 * [np.linalg.norm(rows, axis=1)])
    np.fill_diagonal(cosine, -np.inf)
    expected = [(labels[np.argsort(-row)[:4]] == label).mean() for row, label in zip(cosine, labels, strict=True)]
    np.testing.assert_allclose(metrics.sufficiency(jnp.asarray(maps), labels, neighbours=4), expected, rtol=1e-6)
    assert np.isfinite(metrics.sufficiency(jnp.zeros((6, 4)), np.zeros(6, int))).all()


def identity(model, variables, images, target):
    return images


def flat(model, variables, images, target):
    return jnp.ones_like(images)


def test_stability_of_known_methods():
    """Of a map that is the image itself, map and image move alike; one that is flat does not move."""
    key = jax.random.key(1)
    call = partial(metrics.relative_input_stability, model=Linear(), variables={}, images=IMAGES, target=0, key=key)
    np.testing.assert_allclose(call(identity), 1, rtol=1e-4)
    np.testing.assert_array_equal(call(flat), 0)
    steep = metrics.continuity(identity, Linear(), {}, IMAGES, 0, key=key, samples=5)
    changes = [
        np.asarray(jax.random.uniform(k, IMAGES.shape, minval=-0.04, maxval=0.04)) for k in jax.random.split(key, 5)
    ]
    expected = [np.abs(c).sum((1, 2, 3)) / np.sqrt((c**2).sum((1, 2, 3))) for c in changes]
    np.testing.assert_allclose(steep, np.max(expected, 0), rtol=1e-3)
    mean = metrics.avg_sensitivity(identity, Linear(), {}, IMAGES, 0, key=key, samples=5)
    lengths = [np.sqrt((c**2).sum((1, 2, 3)) / (IMAGES**2).sum((1, 2, 3))) for c in changes]
    np.testing.assert_allclose(mean, np.mean(lengths, 0), rtol=1e-3)
    output = metrics.relative_output_stability(identity, Linear(), {}, IMAGES, 0, key=key, samples=5)
    quotients = []
    for change in changes:
        moved = (change * WEIGHTS).sum((1, 2, 3)) / 4
        floor = 1e-3 * np.abs(IMAGES).max((1, 2, 3), keepdims=True)
        below = np.where(np.abs(IMAGES) > floor, IMAGES, floor)
        same = np.sign((IMAGES * WEIGHTS).sum((1, 2, 3))) == np.sign(((IMAGES + change) * WEIGHTS).sum((1, 2, 3)))
        quotients.append(same * np.sqrt(((change / below) ** 2).sum((1, 2, 3))) / np.abs(moved))
    np.testing.assert_allclose(output, np.max(quotients, 0), rtol=1e-2)


def test_localisation_against_scipy_and_by_hand():
    importance = RANDOM.integers(0, 6, (5, 8, 9)).astype(np.float32)  # with ties
    mask = RANDOM.random((5, 8, 9)) < 0.3
    expected = [
        mannwhitneyu(m[inside], m[~inside]).statistic / (inside.sum() * (~inside).sum())
        for m, inside in zip(importance, mask, strict=True)
    ]
    np.testing.assert_allclose(metrics.localisation_auc(importance, mask), expected, rtol=1e-5)
    density = metrics.attribution_localisation(importance, mask)
    np.testing.assert_allclose(density, metrics.energy_inside(importance, mask) / mask.mean((1, 2)), rtol=1e-5)
    distinct = RANDOM.permuted(np.arange(72.0)).reshape(1, 8, 9)
    count = mask[0].sum()
    top = np.argsort(-distinct.ravel())[:count]
    ours = metrics.relevance_rank_accuracy(distinct, mask[:1])
    np.testing.assert_allclose(ours, mask[0].ravel()[top].mean(), rtol=1e-5)


@pytest.mark.parametrize("mask", [np.zeros((1, 8, 9), bool), np.ones((1, 8, 9), bool), np.eye(8, 9, dtype=bool)[None]])
def test_even_maps_score_as_chance_does(mask):
    even = np.full((1, 8, 9), 2.0)
    share = mask.mean()
    np.testing.assert_allclose(metrics.localisation_auc(even, mask), 0.5)
    np.testing.assert_allclose(metrics.relevance_rank_accuracy(even, mask), share, rtol=1e-5)
    np.testing.assert_allclose(metrics.attribution_localisation(even, mask), 1, rtol=1e-5)


def test_complexity():
    maps = RANDOM.normal(size=(4, 8, 9))
    np.testing.assert_allclose(metrics.entropy(maps), entropy(np.abs(maps).reshape(4, -1), axis=1), rtol=1e-5)
    np.testing.assert_allclose(metrics.entropy(np.zeros((1, 7))), np.log(7), rtol=1e-6)
    np.testing.assert_allclose(metrics.entropy(1e-30 * maps), metrics.entropy(maps), rtol=1e-4)
    shares = (np.abs(maps) > 0.2 * np.abs(maps).max((1, 2), keepdims=True)).mean((1, 2))
    np.testing.assert_allclose(metrics.effective_complexity(maps, threshold=0.2), shares, rtol=1e-6)
    assert metrics.effective_complexity(np.zeros((1, 7)))[0] == 0


def test_axioms(network):
    model, variables, images = network
    complete = interpret.integrated_gradients(model, variables, images, 1, steps=200, baseline=0.3)
    error = partial(metrics.completeness, model, variables, images, 1)
    assert error(complete, baseline=0.3).max() < 0.02
    assert error(interpret.gradient(model, variables, images, 1), baseline=0.3).min() > 0.1
    np.testing.assert_allclose(error(0 * images, baseline=images), 0)
    for method in (interpret.gradient, interpret.guided_backprop):
        np.testing.assert_allclose(metrics.input_invariance(method, model, variables, images, 1), 0, atol=1e-4)
    assert metrics.input_invariance(interpret.integrated_gradients, model, variables, images, 1).min() > 0.05


class TwoWays(nn.Module):
    """Class 0 sees the left half, class 1 the right."""

    @nn.compact
    def __call__(self, images, train=False):
        kernel = self.param("kernel", nn.initializers.ones, (16, 16, 1))
        x = images * kernel[None]
        return jnp.stack([x[:, :, :8].sum((1, 2, 3)), x[:, :, 8:].sum((1, 2, 3))], 1), {"last_conv": x}


def test_randomisation():
    images = RANDOM.normal(size=(2, 16, 16, 1)).astype(np.float32)
    kernel = np.zeros((16, 16, 1), np.float32)
    kernel[4:8, 4:8] = 1
    trained = {"params": {"kernel": kernel}}
    random = {"params": {"kernel": RANDOM.normal(size=(16, 16, 1)).astype(np.float32)}}
    rise = sanity.efficient_randomization(interpret.gradient, TwoWays(), trained, random, images, 0)
    spread = entropy(np.abs(random["params"]["kernel"][:, :8]).ravel())
    np.testing.assert_allclose(rise, spread / np.log(16) - 1, rtol=1e-4)
    np.testing.assert_array_equal(sanity.efficient_randomization(flat, TwoWays(), trained, random, images, 0), 0)
    smooth = sanity.smooth_cascading_randomization(interpret.gradient, TwoWays(), trained, random, images, 0)
    plain = sanity.cascading_randomization(interpret.gradient, TwoWays(), trained, random, images, 0)
    np.testing.assert_allclose(smooth["kernel"].ssim, plain["kernel"].ssim, atol=1e-4)  # linear: noise changes nothing
    other = sanity.random_logit(interpret.gradient, TwoWays(), random, images, 0, key=jax.random.key(0))
    assert other.rank_correlation.max() < -0.5  # where one is not zero the other is
    same = sanity.random_logit(flat, TwoWays(), random, images, np.array([0, 1]), key=jax.random.key(0))
    np.testing.assert_array_equal(same.rank_correlation, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.road(Linear(), {}, IMAGES, 0, CONTRIBUTIONS, steps=1), "steps: 1 is out of range"),
        (lambda: metrics.road(Linear(), {}, IMAGES, 0, CONTRIBUTIONS, noise=-1.0), "noise: -1.0 is out of range"),
        (lambda: metrics.selectivity(Linear(), {}, IMAGES, 0, CONTRIBUTIONS, patch=9), "patch: 9 is out of range"),
        (
            lambda: metrics.irof(Linear(), {}, IMAGES, 0, CONTRIBUTIONS, regions=REGIONS[:1]),
            r"regions: shape \(1, 8, 9\) and type int\d+ are not integers \(3, 8, 9\)",
        ),
        (lambda: metrics.sufficiency(np.ones((3, 4)), np.zeros(2, int)), r"labels: shape \(2,\) is not one for each"),
        (lambda: metrics.sufficiency(np.ones((3, 4)), np.zeros(3, int)), "neighbours: 5 is out of range; give 1 to 2"),
        (
            lambda: metrics.completeness(Linear(), {}, IMAGES, 0, CONTRIBUTIONS),
            r"attribution: shape \(3, 8, 9\) is not the images'",
        ),
        (
            lambda: sanity.random_logit(identity, Linear(), {}, IMAGES, None, key=jax.random.key(0)),
            "target: None is no class",
        ),
        (lambda: metrics.entropy(np.full((1, 3), np.nan)), "attribution: map 0 holds NaN"),
        (lambda: metrics.localisation_auc(np.full((1, 2, 2), np.nan), np.ones((1, 2, 2), bool)), "importance: map 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(FaceflaxError, match=message):
        call()
