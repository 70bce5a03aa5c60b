"""Copies of images evaluated some at a time: the same sums, whatever the number, in bounded memory."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax.errors import FaceflaxError
from interpret import copies

COPYING = {
    "integrated_gradients": partial(interpret.integrated_gradients, steps=7),
    "smooth_grad": interpret.smooth_grad(interpret.gradient, samples=7),
    "var_grad": interpret.var_grad(interpret.gradient, samples=7),
    "occlusion": partial(interpret.occlusion, patch=4, stride=3),
    "rise": partial(interpret.rise, masks=7, cells=2),
}


@pytest.mark.parametrize("size", [1, 3, 5, 100])
def test_totals_and_stacks_are_those_of_a_loop(size):
    def function(i):
        return {"square": (i * i).astype(jnp.float32), "row": jnp.arange(3) * i, "share": 1.0 / (11 - i)}

    expected = [function(jnp.asarray(i)) for i in range(11)]
    summed = copies.total(function, 11, 1, size)
    stacked = copies.every(function, 11, 1, size)
    for name in ("square", "row"):
        column = np.stack([each[name] for each in expected])
        np.testing.assert_array_equal(summed[name], column.sum(0))
        np.testing.assert_array_equal(stacked[name], column)
    np.testing.assert_allclose(summed["share"], sum(1 / (11 - i) for i in range(11)), rtol=1e-5)  # beyond it: no matter


@pytest.mark.parametrize("name", COPYING)
def test_how_many_at_once_changes_no_map_and_progress_is_told(network, name):
    model, variables, images = network
    expected = COPYING[name](model, variables, images, 1)
    done = []
    ours = COPYING[name](
        model, variables, images, 1, internal_batch_size=6, progress=lambda *seen: done.append(seen)
    )  # two copies of three images
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    counts = {count for _, count in done}
    assert len(counts) == 1
    count = counts.pop()
    assert sorted(seen for seen, _ in done) == [*range(2, count, 2), count]


def test_fewer_than_one_at_a_time_is_refused(network):
    with pytest.raises(FaceflaxError, match="internal_batch_size: 0 is out of range; give 1 or more"):
        interpret.integrated_gradients(*network, 0, internal_batch_size=0)


class Wide(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Conv(16, (3, 3))(images))
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        return x.mean((1, 2)), {"last_conv": x}


@pytest.mark.parametrize("name", ["integrated_gradients", "smooth_grad", "occlusion"])
def test_memory_is_bounded_by_bytes_as_the_compiler_counts_them(name, monkeypatch):
    """128 copies of one image need eight times the budget."""
    budget = 16 * 2**20
    monkeypatch.setattr(copies, "BYTES_AT_ONCE", budget)
    images = jax.ShapeDtypeStruct((1, 128, 128, 1), jnp.float32)
    variables = jax.eval_shape(Wide().init, jax.random.key(0), images)
    many = {
        "integrated_gradients": partial(interpret.integrated_gradients, steps=128),
        "smooth_grad": interpret.smooth_grad(interpret.gradient, samples=128),
        "occlusion": partial(interpret.occlusion, patch=16, stride=10),
    }[name]
    compiled = jax.jit(lambda v, x: many(Wide(), v, x, 1)).lower(variables, images).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1.5 * budget
    one = jax.make_jaxpr(lambda v, x: interpret.gradient(Wide(), v, x, 1))(variables, images).jaxpr
    assert budget / 16 < copies.peak_bytes(one) < budget  # so the bound is no accident


def test_peak_bytes_of_a_program_counts_what_is_alive_together():
    x = jnp.zeros(1000, jnp.float32)
    assert copies.peak_bytes(jax.make_jaxpr(lambda x: jnp.sin(x) + 1)(x).jaxpr) == 8000
    kept = jax.make_jaxpr(lambda x: (a := jnp.sin(x), jnp.cos(jnp.tan(jnp.exp(a)))))(x).jaxpr
    assert copies.peak_bytes(kept) == 12000
    nested = jax.make_jaxpr(jax.jit(lambda x: jnp.cos(jnp.sin(x)).sum()))(x).jaxpr
    assert copies.peak_bytes(nested) == 8000
