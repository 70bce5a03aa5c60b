"""Occlusion and RISE on networks whose answer is known."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax.errors import FaceflaxError

WEIGHTS = np.random.default_rng(0).normal(size=(7, 9, 2)).astype(np.float32)


class Linear(nn.Module):
    def __call__(self, images, train=False):
        score = (images * WEIGHTS[None]).sum((1, 2, 3)) + 100
        return jnp.stack([score, -score], -1), {"last_conv": images}


class Corner(nn.Module):
    """Sees a corner alone."""

    def __call__(self, images, train=False):
        return images[:, :4, :4].sum((1, 2)), {"last_conv": images}


@pytest.mark.parametrize(("patch", "stride", "baseline"), [(3, 2, 0.0), (1, 1, 0.0), (4, 4, -1.0), (7, 3, 0.5)])
def test_occlusion_of_a_linear_network(patch, stride, baseline):
    """Covering a square takes its pixels' share away; a pixel gets the mean of the squares that cover it."""
    images = np.random.default_rng(1).uniform(-1, 1, (2, 7, 9, 2)).astype(np.float32)
    shares = ((images - baseline) * WEIGHTS).sum(-1)
    falls, times = np.zeros((2, 7, 9)), np.zeros((7, 9))
    for row in {min(r, 7 - patch) for r in range(0, 7 - patch + stride, stride)}:
        for column in {min(c, 9 - patch) for c in range(0, 9 - patch + stride, stride)}:
            square = np.s_[row : row + patch, column : column + patch]
            falls[:, *square] += shares[:, *square].sum((1, 2), keepdims=True)
            times[square] += 1
    assert times.min() > 0
    ours = interpret.occlusion(Linear(), {}, images, 0, patch=patch, stride=stride, baseline=baseline)
    np.testing.assert_allclose(ours[..., 0], falls / times, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(ours[..., 0], ours[..., 1])


def test_rise_finds_the_corner_and_ignores_the_level_of_the_score():
    images = jnp.ones((1, 32, 32, 1))
    ours = np.asarray(interpret.rise(Corner(), {}, images, 0, masks=2000, cells=8))[0, ..., 0]
    assert ours[:4, :4].min() > 5 * np.abs(ours[12:, 12:]).max()

    class Louder(Corner):
        def __call__(self, images, train=False):
            logits, features = super().__call__(images)
            return logits + 1000, features

    again = interpret.rise(Louder(), {}, images, 0, masks=2000, cells=8)[0, ..., 0]
    np.testing.assert_allclose(again, ours, atol=0.05 * ours.max())


def test_the_baseline_may_be_an_image():
    """Covered by itself an image loses nothing; by another one, a linear score loses the difference's part of it."""
    images = np.random.default_rng(2).uniform(-1, 1, (2, 7, 9, 2)).astype(np.float32)
    for method in (partial(interpret.occlusion, patch=7), partial(interpret.rise, masks=8, cells=2)):
        np.testing.assert_allclose(method(Linear(), {}, images, 0, baseline=images), 0, atol=1e-5)
    ground = images[::-1] + 0.5
    ours = interpret.occlusion(Linear(), {}, images, 0, patch=1, stride=1, baseline=ground)
    expected = ((images - ground) * WEIGHTS).sum(-1, keepdims=True)
    np.testing.assert_allclose(ours, np.broadcast_to(expected, images.shape), rtol=1e-3, atol=1e-4)


def test_rise_of_masks_that_are_written_out():
    """The same masks, behind which the score is computed one by one in float64."""
    images = np.random.default_rng(2).uniform(-1, 1, (2, 7, 9, 2)).astype(np.float32)
    masks, keep, baseline = 20, 0.3, 0.25
    shown = []
    for i in range(masks):
        grid, row, column = jax.random.split(jax.random.fold_in(jax.random.key(5), i), 3)
        cells = jax.random.bernoulli(grid, keep, (4, 4)).astype(jnp.float32)
        whole = jax.image.resize(cells, (12, 12), "linear")
        top, left = (int(jax.random.randint(key, (), 0, 3)) for key in (row, column))
        shown.append(np.asarray(whole[top : top + 7, left : left + 9], np.float64))
    scores = np.array([((baseline + m[None, ..., None] * (images - baseline)) * WEIGHTS).sum((1, 2, 3)) for m in shown])
    expected = np.einsum("mn,mhw->nhw", scores - scores.mean(0), np.array(shown)) / masks / keep
    ours = interpret.rise(Linear(), {}, images, 0, masks=masks, cells=3, keep=keep, seed=5, baseline=baseline)
    np.testing.assert_allclose(ours[..., 1], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (interpret.occlusion, {"patch": 8}, "patch: 8 is out of range; give 1 to 7"),
        (interpret.occlusion, {"patch": (8, 8)}, r"patch: \(8, 8\) is not a number; give one"),
        (
            interpret.occlusion,
            {"patch": 4, "baseline": np.zeros((7, 7, 2))},
            r"baseline: shape \(7, 7, 2\) does not broadcast to the im",
        ),
        (
            interpret.rise,
            {"cells": 2, "baseline": np.zeros((2, 7, 9, 2))},
            r"baseline: shape \(2, 7, 9, 2\) does not broadcast to the",
        ),
        (
            interpret.integrated_gradients,
            {"baseline": np.zeros(9)},
            r"baseline: shape \(9,\) does not broadcast to the",
        ),
        (interpret.occlusion, {"patch": 4, "stride": 5}, "stride: 5 is out of range; give 1 to 4"),
        (interpret.rise, {"masks": 0}, "masks: 0 is out of range"),
        (interpret.rise, {"cells": 8}, "cells: 8 is out of range; give 1 to 7"),
        (interpret.rise, {"keep": 1.5}, "keep: 1.5 is out of range"),
    ],
)
def test_options_out_of_range(method, options, message):
    with pytest.raises(FaceflaxError, match=message):
        method(Linear(), {}, np.zeros((1, 7, 9, 2), np.float32), 0, **options)
