"""Every metric of maps that say nothing, or the same of many pixels: against closed forms; and of NaN, refused.

The network adds up the pixels, and the images are flat, or flat in two halves: so what a metric measures does not
depend on the order of pixels that are equal in the map.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import entropy

from faceflax.errors import FaceflaxError
from interpret import metrics, sanity

SIDE = 16
PIXELS = SIDE * SIDE
COUNT = 3
FLAT = np.ones((COUNT, SIDE, SIDE, 1), np.float32)
HALVES = np.concatenate([FLAT[:, :, : SIDE // 2], 3 * FLAT[:, :, SIDE // 2 :]], 2)
"""1 at the left and 3 at the right; as a map it has two values only."""
RIGHT = HALVES[..., 0] == 3
CONSTANT = {"zeros": 0 * FLAT, "ones": FLAT, "negative": -2 * FLAT}
KEY = jax.random.key(0)


class Sum(nn.Module):
    """The logit of class 0 is the pixels' mean more than that of class 1."""

    def __call__(self, images, train=False):
        mean = images.mean((1, 2, 3))
        return jnp.stack([mean + 1, 0 * mean + 1], 1), {"last_conv": images}


def probability(mean):
    return 1 / (1 + np.exp(-np.asarray(mean)))


@pytest.mark.parametrize("name", CONSTANT)
def test_faithfulness_of_constant_maps(name):
    """Any order of equal pixels gives one curve, and a constant map has no scale that explains anything but evenly."""
    made = CONSTANT[name]
    matters, call = made[..., 0], partial(partial, model=Sum(), variables={}, images=FLAT, target=0)
    shares = np.arange(9) / 8
    falling = probability(1 - shares)
    np.testing.assert_allclose(call(metrics.deletion_curve)(importance=matters, steps=8), [falling] * COUNT, rtol=1e-5)
    rising = probability(shares)
    curve = call(metrics.insertion_curve)(importance=matters, steps=8, baseline=0.0)
    np.testing.assert_allclose(curve, [rising] * COUNT, rtol=1e-5)
    np.testing.assert_allclose(
        call(metrics.selectivity)(importance=matters, patch=8),
        np.trapezoid(probability([1, 0.75, 0.5, 0.25, 0])) / 4,
        rtol=1e-5,
    )
    np.testing.assert_array_equal(call(metrics.monotonicity)(importance=matters), 1)
    # What is filled in from flat surroundings, or by the mean colour, is as it was.
    np.testing.assert_allclose(call(metrics.road)(importance=matters, noise=0.0), probability(1), rtol=1e-4)
    regions = np.broadcast_to(np.arange(PIXELS).reshape(1, SIDE, SIDE) // 32, (COUNT, SIDE, SIDE))
    np.testing.assert_allclose(call(metrics.irof)(importance=matters, regions=regions), 0, atol=1e-6)
    # Removing a square of 4 from ones changes the mean by 16 / 256, and the map of c foretells 16 c.
    square = metrics.SquareRemoval(4)
    level = float(made[0, 0, 0, 0])
    error = call(metrics.infidelity)(attribution=made, key=KEY, perturb=square)
    np.testing.assert_allclose(error, (16 * level - 16 / PIXELS) ** 2, rtol=1e-4)
    share = call(metrics.infidelity)(attribution=made, key=KEY, perturb=square, normalized=True)
    np.testing.assert_allclose(share, 1 if level == 0 else 0, atol=1e-5)
    left = call(metrics.completeness)(attribution=made)
    np.testing.assert_allclose(left, abs(PIXELS * level - 1), rtol=1e-5)


def test_faithfulness_of_maps_with_ties():
    """The right half goes first, in any order, and then the left."""
    call = partial(partial, model=Sum(), variables={}, images=HALVES, target=0)
    matters = HALVES[..., 0]
    means = 2 - np.concatenate([3 * np.arange(5), 12 + np.arange(1, 5)]) / 8
    np.testing.assert_allclose(
        call(metrics.deletion_curve)(importance=matters, steps=8), [probability(means)] * COUNT, rtol=1e-5
    )
    coming = 2 - means
    curve = call(metrics.insertion_curve)(importance=matters, steps=8, baseline=0.0)
    np.testing.assert_allclose(curve, [probability(coming)] * COUNT, rtol=1e-5)
    np.testing.assert_array_equal(call(metrics.monotonicity)(importance=matters), 1)
    covered = call(metrics.selectivity)(importance=matters, patch=8)
    np.testing.assert_allclose(covered, np.trapezoid(probability([2, 1.25, 0.5, 0.25, 0])) / 4, rtol=1e-5)
    # Two regions of columns in each half become the mean, 2: the right ones first.
    regions = np.broadcast_to(np.arange(SIDE) // 4, (COUNT, SIDE, SIDE))
    after = probability([1.75, 1.5, 1.75, 2])
    irof = call(metrics.irof)(importance=matters, regions=regions)
    np.testing.assert_allclose(irof, np.mean(1 - after / probability(2)), rtol=1e-4)


@pytest.mark.parametrize("name", CONSTANT)
def test_complexity_of_constant_maps(name):
    made = CONSTANT[name]
    np.testing.assert_allclose(metrics.gini(made), 0, atol=1e-6)
    np.testing.assert_allclose(metrics.entropy(made), np.log(PIXELS), rtol=1e-6)
    np.testing.assert_array_equal(metrics.effective_complexity(made), float(name != "zeros"))


def test_complexity_of_maps_with_ties():
    shares = HALVES.reshape(COUNT, -1) / HALVES.sum((1, 2, 3))[:, None]
    np.testing.assert_allclose(metrics.gini(HALVES), 1 / 4, rtol=1e-5)  # three quarters in one half of the pixels
    np.testing.assert_allclose(metrics.entropy(HALVES), entropy(shares, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(metrics.effective_complexity(HALVES, threshold=0.5), 0.5)


def test_localisation_of_maps_with_ties():
    """Of the right half, the upper part of the image is meant: half of what is highest lies in it."""
    upper = np.zeros((COUNT, SIDE, SIDE), bool)
    upper[:, : SIDE // 2] = True
    for mask, point, energy, auc, rank in ((upper, 1 / 2, 1 / 2, 1 / 2, 1 / 2), (RIGHT, 1, 3 / 4, 1, 1)):
        matters = HALVES[..., 0]
        np.testing.assert_allclose(metrics.pointing_game(matters, mask), point, rtol=1e-6)
        np.testing.assert_allclose(metrics.energy_inside(matters, mask), energy, rtol=1e-6)
        np.testing.assert_allclose(metrics.attribution_localisation(matters, mask), 2 * energy, rtol=1e-6)
        np.testing.assert_allclose(metrics.localisation_auc(matters, mask), auc, rtol=1e-6)
        np.testing.assert_allclose(metrics.relevance_rank_accuracy(matters, mask), rank, rtol=1e-6)


@pytest.mark.parametrize("name", CONSTANT)
def test_localisation_of_constant_maps(name):
    """As chance does: the mask's share of the image."""
    matters = CONSTANT[name][..., 0]
    mask = np.zeros((COUNT, SIDE, SIDE), bool)
    mask[:, :4, :4] = True
    for metric, expected in (
        (metrics.pointing_game, 1 / 16),
        (metrics.energy_inside, 1 / 16),
        (metrics.attribution_localisation, 1),
        (metrics.localisation_auc, 1 / 2),
        (metrics.relevance_rank_accuracy, 1 / 16),
    ):
        np.testing.assert_allclose(metric(matters, mask), expected, rtol=1e-5)


def constantly(level, model, variables, images, target, *, layer="last_conv"):
    return jnp.full_like(images, level)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_robustness_and_randomisation_of_constant_maps(level):
    """A map that never moves is perfectly stable, and perfectly unmoved by what should move it."""
    method = partial(constantly, level)
    for metric in (
        metrics.max_sensitivity,
        metrics.avg_sensitivity,
        metrics.relative_input_stability,
        metrics.relative_output_stability,
        metrics.continuity,
    ):
        np.testing.assert_array_equal(metric(method, Sum(), {}, FLAT, 0, key=KEY, samples=2), 0)
    np.testing.assert_array_equal(metrics.input_invariance(method, Sum(), {}, FLAT, 0), 0)
    likeness = sanity.random_logit(method, Sum(), {}, FLAT, 0, key=KEY)
    np.testing.assert_array_equal(likeness.rank_correlation, 1)
    np.testing.assert_allclose(likeness.ssim, 1, rtol=1e-6)
    variables = {"params": {"weight": jnp.ones(2)}}
    np.testing.assert_array_equal(sanity.efficient_randomization(method, Weighted(), variables, variables, FLAT, 0), 0)
    for test in (sanity.cascading_randomization, partial(sanity.smooth_cascading_randomization, samples=2)):
        (left,) = test(method, Weighted(), variables, variables, FLAT, 0).values()
        np.testing.assert_array_equal(left.rank_correlation, 1)
        np.testing.assert_allclose(left.ssim, 1, rtol=1e-6)


class Weighted(nn.Module):
    """Logits with a weight each."""

    @nn.compact
    def __call__(self, images, train=False):
        weight = self.param("weight", nn.initializers.ones, (2,))
        return images.mean((1, 2)) * weight[None], {"last_conv": images}


def test_sufficiency_of_maps_without_a_direction():
    """Zeros are as near to one map as to another: neighbours in the order of the set; equal maps are all nearest."""
    labels = np.array([0, 0, 1, 1])
    np.testing.assert_allclose(metrics.sufficiency(np.ones((4, 9)), labels, neighbours=3), 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics.sufficiency(np.zeros((4, 9)), labels, neighbours=3), 1 / 3, rtol=1e-6)


def broken(model, variables, images, target, *, layer="last_conv"):
    return jnp.full_like(images, jnp.nan)


NAN = np.where(np.arange(COUNT)[:, None, None, None] == 1, np.nan, FLAT)
MODELLED = {"model": Sum(), "variables": {}, "images": FLAT, "target": 0}
OF = {
    "attribution": (metrics.gini, metrics.entropy, metrics.effective_complexity),
    "importance": (
        metrics.pointing_game,
        metrics.energy_inside,
        metrics.attribution_localisation,
        metrics.localisation_auc,
        metrics.relevance_rank_accuracy,
    ),
    "ranked": (
        metrics.deletion,
        metrics.insertion,
        metrics.road,
        metrics.selectivity,
        metrics.irof,
        metrics.monotonicity,
    ),
    "method": (
        metrics.max_sensitivity,
        metrics.avg_sensitivity,
        metrics.relative_input_stability,
        metrics.relative_output_stability,
        metrics.continuity,
    ),
}
REFUSED = [
    *((partial(metric, NAN), "attribution: map 1") for metric in OF["attribution"]),
    *((partial(metric, NAN[..., 0], RIGHT), "importance: map 1") for metric in OF["importance"]),
    *((partial(metric, **MODELLED, importance=NAN[..., 0]), "importance: map 1") for metric in OF["ranked"]),
    *(
        (partial(metric, broken, **MODELLED, key=KEY, samples=2), "method: its map of image 0")
        for metric in OF["method"]
    ),
    (partial(metrics.infidelity, **MODELLED, attribution=NAN, key=KEY), "attribution: map 1"),
    (partial(metrics.completeness, **MODELLED, attribution=NAN), "attribution: map 1"),
    (partial(metrics.input_invariance, broken, **MODELLED), "method: map 0"),
    (partial(metrics.sufficiency, NAN, np.zeros(COUNT, int), neighbours=1), "attributions: map 1"),
    (partial(metrics.importance, NAN, signed=True), "attribution: map 1"),
    (partial(sanity.random_logit, broken, **MODELLED, key=KEY), "first: map 0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_maps_with_nan_are_refused(call, message):
    with pytest.raises(FaceflaxError, match=f"{message}.*NaN or infinity"):
        call()
