"""The teacher network against SciPy's correlation in float64; it is saved and loaded as others are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, signal

import faceflax
from faceflax import models, pretrained
from faceflax.labels import EMOTIONS
from faceflax.models.architectures import EPSILON, VGG_STAGES


@pytest.fixture(scope="module")
def network():
    model = models.create("vgg", 7)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0), 32))

    def draw(path, leaf):
        if leaf.ndim > 1:
            return (rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))).astype(np.float32)
        low = 0.5 if path[-1].key in ("scale", "var") else -0.5
        return rng.uniform(low, low + 1, leaf.shape).astype(np.float32)

    return model, jax.tree_util.tree_map_with_path(draw, shapes)


def plain(variables, x):
    params, moments = (jax.tree.map(lambda a: a.astype(np.float64), variables[k]) for k in ("params", "batch_stats"))
    for stage, (width, depth) in enumerate(VGG_STAGES, start=1):
        for layer in range(1, depth + 1):
            name = f"conv{stage}_{layer}"
            kernel = params[name]["kernel"][::-1, ::-1]
            y = np.zeros((*x.shape[:2], width))
            for k in range(width):
                y[..., k] = sum(
                    signal.convolve2d(x[..., c], kernel[..., c, k], mode="same") for c in range(x.shape[-1])
                )
            norm, moment = params[f"{name}_bn"], moments[f"{name}_bn"]
            y = (y - moment["mean"]) / np.sqrt(moment["var"] + EPSILON) * norm["scale"] + norm["bias"]
            x = np.maximum(y, 0)
        if stage < len(VGG_STAGES):
            # SAME at stride 2 sees an even side's windows from pixel 0 on: their middles are 1, 3, ...
            x = ndimage.maximum_filter(x, (3, 3, 1), mode="constant", cval=-np.inf)[1::2, 1::2]
    return x.mean((0, 1)) @ params["classifier"]["kernel"] + params["classifier"]["bias"]


def test_logits_are_those_of_plain_float64(network):
    model, variables = network
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 1_915_175
    assert models.layer_names(model) == ["stage1", "stage2", "stage3", "last_conv"]
    image = np.random.default_rng(1).uniform(-1, 1, (32, 32, 1))
    logits = jax.jit(model.apply)(variables, image[None].astype(np.float32))[0][0]
    np.testing.assert_allclose(logits, plain(variables, image), rtol=1e-4, atol=1e-4)


def test_dropout_takes_whole_channels(network):
    model, variables = network
    images = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, (4, 32, 32, 1)), jnp.float32)
    _, state = model.apply(
        variables,
        images,
        train=True,
        rngs={"dropout": jax.random.key(0)},
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: module.name == "Dropout_3",
    )
    (dropped,) = state["intermediates"]["Dropout_3"]["__call__"]
    gone = (np.asarray(dropped) == 0).all((1, 2)).mean()
    assert 0.1 < gone < 0.3  # 1,024 channels at a rate of 0.2, and a few that were zero before


def test_saved_and_loaded_it_predicts_the_same(network, tmp_path):
    model, variables = network
    file = tmp_path / "vgg.safetensors"
    pretrained.save(file, variables, arch="vgg", dataset="none", labels=EMOTIONS, image_size=32)
    images = np.random.default_rng(3).uniform(-1, 1, (3, 32, 32, 1)).astype(np.float32)
    expected = model.apply(variables, images)[0]
    np.testing.assert_allclose(faceflax.compile(*pretrained.load(file))(images), expected, rtol=1e-4, atol=1e-4)
