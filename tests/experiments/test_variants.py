"""mini-Xception's variants against SciPy's filters, and against the plain network where they must agree."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import experiments.architectures  # noqa: F401 (registers the variants)
from faceflax import models
from faceflax.inference import program
from faceflax.models.blocks import EPSILON
from faceflax.models.mini_xception import AntialiasedModule


def random_variables(model, size=48):
    """Variables with no value left at its initial 0 or 1, and variances above 0."""
    rng = np.random.default_rng(0)
    tree = jax.eval_shape(lambda: models.init(model, jax.random.key(0), size))
    params = jax.tree.map(lambda v: rng.normal(0, 0.3, v.shape).astype(np.float32), tree["params"])
    statistics = jax.tree.map(lambda v: rng.uniform(0.5, 1.5, v.shape).astype(np.float32), tree["batch_stats"])
    return {"params": params, "batch_stats": statistics}


def smoothed(x):
    for axis in (1, 2):
        x = ndimage.correlate1d(x, [0.25, 0.5, 0.25], axis, mode="nearest")
    return x[:, ::2, ::2]


@pytest.mark.parametrize("size", [(8, 8), (7, 6)])
def test_antialiased_module(size):
    x = np.random.default_rng(1).normal(size=(2, *size, 8)).astype(np.float32)
    module = AntialiasedModule(16)
    variables = jax.tree.map(
        lambda a: np.random.default_rng(a.size).uniform(0.2, 1.2, a.shape).astype(np.float32),
        jax.eval_shape(module.init, jax.random.key(0), x),
    )
    y, state = jax.jit(lambda x: module.apply(variables, x, capture_intermediates=True))(x)
    (main,) = state["intermediates"]["bn2"]["__call__"]

    main, wide = np.asarray(main, np.float64), x.astype(np.float64)
    maxima = ndimage.maximum_filter(main, (1, 3, 3, 1), mode="constant", cval=-np.inf)
    shortcut = smoothed(wide) @ variables["params"]["shortcut"]["kernel"][0, 0]
    norm, moments = variables["params"]["shortcut_bn"], variables["batch_stats"]["shortcut_bn"]
    shortcut = (shortcut - moments["mean"]) / np.sqrt(moments["var"] + EPSILON) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(y, smoothed(maxima) + shortcut, rtol=2e-5, atol=2e-5)


def test_open_gates_leave_the_plain_network():
    plain, gated = (models.create(name, 7) for name in ("mini_xception", "mini_xception_se"))
    variables = random_variables(gated)
    for name, block in variables["params"].items():
        if name.startswith("block"):
            block["excite"] = {"kernel": 0 * block["excite"]["kernel"], "bias": 0 * block["excite"]["bias"] + 40}
    images = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, (2, 48, 48, 1)), jnp.float32)
    same = {
        name: {key: value for key, value in block.items() if key not in ("squeeze", "excite")}
        for name, block in variables["params"].items()
    }
    logits, features = gated.apply(variables, images)
    expected, layers = plain.apply(variables | {"params": same}, images)
    assert list(features) == list(layers)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_gates_weigh_channels_by_the_whole_image():
    model = models.create("mini_xception_se", 7)
    variables = random_variables(model)
    images = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, (2, 48, 48, 1)), jnp.float32)
    captured = model.apply(variables, images, capture_intermediates=True)[1]["intermediates"]["block2"]
    params = variables["params"]["block2"]
    (main,), (gate,) = (np.asarray(captured[name]["__call__"], np.float64) for name in ("bn2", "excite"))
    squeezed = np.maximum(main.mean((1, 2)) @ params["squeeze"]["kernel"] + params["squeeze"]["bias"], 0)
    np.testing.assert_allclose(gate, squeezed @ params["excite"]["kernel"] + params["excite"]["bias"], rtol=1e-4)
    pooled = ndimage.maximum_filter(main / (1 + np.exp(-gate))[:, None, None], (1, 3, 3, 1), mode="constant", cval=-9e9)
    (shortcut,), (y,) = captured["shortcut_bn"]["__call__"], captured["__call__"]
    # SAME at stride 2 sees an even side's windows from pixel 0 on: their middles are 1, 3, ...
    start = 1 - main.shape[1] % 2
    np.testing.assert_allclose(y, shortcut + pooled[:, start::2, start::2], rtol=1e-4, atol=1e-4)


def test_the_fast_engine_leaves_variants_to_flax():
    model = models.create("mini_xception_se", 7)
    assert program.fold(model, random_variables(model)) is None
