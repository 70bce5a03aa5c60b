"""Ablation, Shapley values, KernelSHAP and LIME on small games that are solved by hand."""

from __future__ import annotations

import itertools
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax.errors import FaceflaxError
from interpret.coalitions import superpixels

METHODS = [interpret.feature_ablation, interpret.shapley_sampling, interpret.kernel_shap, interpret.lime]
WEIGHTS = np.random.default_rng(0).normal(size=(6, 8, 2)).astype(np.float32)
SEGMENTS = np.array([[0, 0, 1, 1, 2, 2, 2, 4]] * 3 + [[3, 3, 3, 1, 2, 2, 4, 4]] * 3)  # 5 regions
IMAGES = np.random.default_rng(1).uniform(-1, 1, (2, 6, 8, 2)).astype(np.float32)


class Linear(nn.Module):
    def __call__(self, images, train=False):
        score = (images * WEIGHTS[None]).sum((1, 2, 3)) + 30
        return jnp.stack([score, -score], -1), {"last_conv": images}


class Together(nn.Module):
    """Regions act together."""

    def __call__(self, images, train=False):
        part = [(images * (WEIGHTS * (r == SEGMENTS)[..., None])[None]).sum((1, 2, 3)) for r in range(5)]
        score = part[0] * part[1] + jnp.maximum(part[2], part[3]) - part[4] * part[0] * part[2] + part[3]
        return score[:, None], {"last_conv": images}


def value(shown, baseline):
    """The game by hand, in float64."""
    mixed = np.where(np.isin(SEGMENTS, list(shown))[..., None], IMAGES, baseline).astype(np.float64)
    part = [(mixed * WEIGHTS * (r == SEGMENTS)[..., None]).sum((1, 2, 3)) for r in range(5)]
    return part[0] * part[1] + np.maximum(part[2], part[3]) - part[4] * part[0] * part[2] + part[3]


def shapley(baseline):
    """By all orders."""
    values = np.zeros((2, 5))
    for order in itertools.permutations(range(5)):
        for i, region in enumerate(order):
            values[:, region] += value(order[: i + 1], baseline) - value(order[:i], baseline)
    return values / math.factorial(5)


def of_regions(maps):
    """The number on each region, and that it is the same on all of its pixels and channels."""
    numbers = np.stack([np.asarray(maps)[:, r == SEGMENTS][:, 0, 0] for r in range(5)], 1)
    np.testing.assert_array_equal(maps, np.broadcast_to(numbers[:, SEGMENTS][..., None], maps.shape))
    return numbers


@pytest.mark.parametrize("method", [interpret.feature_ablation, interpret.shapley_sampling, interpret.kernel_shap])
def test_of_a_linear_network_a_region_gets_its_own_share(method):
    ours = of_regions(method(Linear(), {}, IMAGES, 0, segments=SEGMENTS, baseline=0.25))
    shares = ((IMAGES - 0.25) * WEIGHTS).sum(-1)
    expected = np.stack([shares[:, r == SEGMENTS].sum(1) for r in range(5)], 1)
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)


def test_kernel_shap_of_few_regions_is_exact():
    ours = of_regions(interpret.kernel_shap(Together(), {}, IMAGES, 0, segments=SEGMENTS, baseline=-0.5))
    np.testing.assert_allclose(ours, shapley(-0.5), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", [interpret.shapley_sampling, interpret.kernel_shap])
def test_sampled_shapley_values(method):
    """Near the exact ones, and exact in their sum."""
    options = {"permutations": 600} if method is interpret.shapley_sampling else {"samples": 20}
    ours = of_regions(method(Together(), {}, IMAGES, 0, segments=SEGMENTS, **options))
    expected = shapley(0.0)
    np.testing.assert_allclose(ours.sum(1), value(range(5), 0.0) - value((), 0.0), rtol=1e-3, atol=1e-4)
    near = 0.1 if method is interpret.shapley_sampling else 1.0
    np.testing.assert_allclose(ours, expected, atol=near * np.abs(expected).max())


def test_feature_ablation_by_hand():
    ours = of_regions(interpret.feature_ablation(Together(), {}, IMAGES, 0, segments=SEGMENTS))
    whole = value(range(5), 0.0)
    for region in range(5):
        left = value([r for r in range(5) if r != region], 0.0)
        np.testing.assert_allclose(ours[:, region], whole - left, rtol=1e-3, atol=1e-4)


def test_lime_is_the_weighted_ridge_regression():
    samples, width, ridge = 40, 0.3, 0.7
    ours = of_regions(
        interpret.lime(Together(), {}, IMAGES, 0, segments=SEGMENTS, samples=samples, width=width, ridge=ridge, seed=3)
    )
    keys = [jax.random.fold_in(jax.random.key(3), i) for i in range(samples)]
    shown = np.array([jax.random.bernoulli(key, 0.5, (5,)) for key in keys], float)
    scores = np.array([value(np.flatnonzero(z), 0.0) for z in shown])
    cosine = shown.sum(1) / np.sqrt(5 * np.maximum(shown.sum(1), 1))
    weights = np.exp(-(((1 - cosine) / width) ** 2))
    rows = np.sqrt(weights)[:, None] * np.concatenate([shown, np.ones((samples, 1))], 1)
    penalty = np.diag([ridge] * 5 + [0.0])
    expected = np.linalg.solve(rows.T @ rows + penalty, rows.T @ (np.sqrt(weights)[:, None] * scores))[:5].T
    np.testing.assert_allclose(ours, expected, rtol=1e-2, atol=1e-3)


def test_each_image_may_have_regions_of_its_own():
    both = np.stack([SEGMENTS, SEGMENTS[:, ::-1]])
    ours = interpret.feature_ablation(Linear(), {}, IMAGES, 0, segments=both)
    for i in range(2):
        alone = interpret.feature_ablation(Linear(), {}, IMAGES[i : i + 1], 0, segments=both[i])
        np.testing.assert_allclose(ours[i], alone[0], rtol=1e-4, atol=1e-4)


def test_superpixels_keep_to_the_edges_and_do_not_depend_on_the_batch():
    disc = (np.hypot(*np.mgrid[-10:10, -12:12]) < 7).astype(np.float32)
    noise = np.random.default_rng(2).uniform(0, 0.01, (2, 20, 24)).astype(np.float32)  # so that no two are as near
    images = (np.stack([disc, disc[::-1]]) + noise)[..., None]
    regions = np.asarray(superpixels(jnp.asarray(images), 30))
    assert 15 < len(np.unique(regions[0])) <= 36
    assert all(np.ptp(disc[regions[0] == r]) == 0 for r in np.unique(regions[0]))
    np.testing.assert_array_equal(superpixels(jnp.asarray(images[1:]), 30)[0], regions[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segments": np.zeros((3, 3), int)}, r"segments: shape \(1, 3, 3\) is neither \(6, 8\) nor \(2, 6, 8\)"),
        ({"segments": np.zeros((6, 8))}, "segments: .*float64.* is no integer type"),
        ({"segments": SEGMENTS - 1}, "segments: -1 is negative; number regions from 0"),
        ({"baseline": np.zeros(9)}, r"baseline: shape \(9,\) does not broadcast"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_wrong_regions(method, options, message):
    with pytest.raises(FaceflaxError, match=message):
        method(Linear(), {}, IMAGES, 0, **options)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (interpret.kernel_shap, {"samples": 12}, "samples: 12 is out of range; give 20 or more"),
        (interpret.kernel_shap, {"segments": np.zeros((6, 8), int)}, "segments: make one region; give two or more"),
        (interpret.shapley_sampling, {"permutations": 0}, "permutations: 0 is out of range"),
        (interpret.lime, {"ridge": 0.0}, "ridge: 0.0 is out of range"),
    ],
)
def test_options_out_of_range(method, options, message):
    with pytest.raises(FaceflaxError, match=message):
        partial(method, **{"segments": SEGMENTS} | options)(Linear(), {}, IMAGES, 0)
