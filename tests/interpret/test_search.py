"""Sobol, HSIC and extremal perturbation where the answer is known."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import qmc

import interpret
from faceflax.errors import FaceflaxError

IMAGES = np.random.default_rng(1).uniform(0.2, 1, (2, 4, 4, 1)).astype(np.float32)
WEIGHTS = np.random.default_rng(2).normal(size=(4, 4, 1)).astype(np.float32)


class Linear(nn.Module):
    def __call__(self, images, train=False):
        score = (images * WEIGHTS[None]).sum((1, 2, 3))
        return jnp.stack([score, -score], -1), {"last_conv": images}


class Product(nn.Module):
    """Cell 0 times cell 1 of a grid of 2 by 2, and nothing of the others."""

    def __call__(self, images, train=False):
        return images[:, :2, :2].mean((1, 2)) * images[:, :2, 2:].mean((1, 2)) * 16, {"last_conv": images}


def test_sobol_of_a_linear_score_is_each_cell_s_share_of_the_variance():
    """The score is a sum over cells of c_i m_i, whose variances c_i^2 / 12 add up. A cell is a pixel here."""
    ours = interpret.sobol(Linear(), {}, IMAGES, 0, designs=512, cells=4)
    shares = (IMAGES * WEIGHTS) ** 2
    np.testing.assert_allclose(ours, shares / shares.sum((1, 2, 3), keepdims=True), rtol=0.15, atol=0.005)


def test_sobol_is_jansen_s_estimate():
    designs = 8
    points = qmc.Sobol(32, seed=3).random_base2(3)
    first, second = points[:, :16], points[:, 16:]

    def f(masks):
        return ((0.3 + masks.reshape(-1, 1, 4, 4, 1) * (IMAGES - 0.3)) * WEIGHTS).sum((2, 3, 4))

    expected = np.zeros((2, 16))
    for i in range(16):
        mixed = first.copy()
        mixed[:, i] = second[:, i]
        expected[:, i] = ((f(first) - f(mixed)) ** 2).mean(0) / 2 / f(first).var(0)
    ours = interpret.sobol(Linear(), {}, IMAGES, 0, designs=designs, cells=4, seed=3, baseline=0.3)
    np.testing.assert_allclose(ours.reshape(2, 16), expected, rtol=1e-3, atol=1e-5)


def test_hsic_is_the_trace_of_the_kernels():
    masks = 60
    shown = np.asarray(jax.random.bernoulli(jax.random.key(5), 0.5, (masks, 16)), float)
    centring = np.eye(masks) - 1 / masks
    expected = np.zeros((2, 16))
    for n in range(2):
        scores = (shown.reshape(-1, 4, 4, 1) * IMAGES[n] * WEIGHTS).sum((1, 2, 3))
        distances = np.abs(scores[:, None] - scores)
        kernel = np.exp(-((distances / np.median(distances)) ** 2) / 2)
        for i in range(16):
            of_masks = 0.5 - (shown[:, None, i] - shown[:, i]) ** 2
            expected[n, i] = np.trace(of_masks @ centring @ kernel @ centring) / (masks - 1) ** 2
    ours = interpret.hsic(Linear(), {}, IMAGES, 0, masks=masks, cells=4, seed=5)
    np.testing.assert_allclose(ours.reshape(2, 16), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", [partial(interpret.sobol, designs=64), partial(interpret.hsic, masks=256)])
def test_cells_that_act_together_are_found_and_the_others_are_not(method):
    ours = np.asarray(method(Product(), {}, jnp.ones((1, 4, 4, 1)), 0, cells=4))[0, ..., 0]
    assert ours[:2].min() > 3 * max(ours[2:].max(), 1e-4)


class Spot(nn.Module):
    """Sees the detail, a checkerboard, of one corner alone."""

    def __call__(self, images, train=False):
        signs = jnp.where(jnp.add(*jnp.mgrid[:24, :24]) % 2 == 0, 1.0, -1.0)[None, ..., None]
        return (images * signs)[:, :8, :8].sum((1, 2)), {"last_conv": images}


@pytest.fixture(scope="module")
def checkerboard():
    signs = np.where(np.add(*np.mgrid[:24, :24]) % 2 == 0, 1.0, -1.0)
    return np.stack([signs, signs * 0.5])[..., None].astype(np.float32)


def test_extremal_perturbation_keeps_what_is_needed(checkerboard):
    ours = np.asarray(interpret.extremal_perturbation(Spot(), {}, checkerboard, 0, area=1 / 9))
    assert ours.min() >= 0
    assert ours.max() <= 1
    assert ours[:, :8, :8].mean() > 0.7
    assert ours[:, 12:].mean() < 0.15
    np.testing.assert_allclose(ours.mean((1, 2, 3)), 1 / 9, atol=0.06)
    alone = interpret.extremal_perturbation(Spot(), {}, checkerboard[1:], 0, area=1 / 9)
    np.testing.assert_allclose(alone[0], ours[1], atol=1e-3)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (interpret.sobol, {"designs": 1}, "designs: 1 is out of range"),
        (interpret.sobol, {"cells": 5}, "cells: 5 is out of range; give 1 to 4"),
        (interpret.hsic, {"masks": 1, "cells": 2}, "masks: 1 is out of range"),
        (interpret.extremal_perturbation, {"area": 1.0}, "area: 1.0 is out of range; give a share between 0 and 1"),
        (interpret.extremal_perturbation, {"steps": 0}, "steps: 0 is out of range"),
    ],
)
def test_options_out_of_range(method, options, message):
    with pytest.raises(FaceflaxError, match=message):
        method(Linear(), {}, IMAGES, 0, **options)
