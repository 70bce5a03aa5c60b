"""Logits and maps together, against the network's own logits and guided backprop."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax import models, native
from faceflax.errors import FaceflaxError


@pytest.fixture(scope="module")
def explain(network):
    model, variables, _ = network
    return interpret.explainer(model, variables)


@pytest.mark.parametrize("count", [0, 1, 3, 21])
@pytest.mark.parametrize("target", [None, 2, "each"])
def test_any_number_of_faces(network, explain, count, target):
    model, variables, _ = network
    faces = np.random.default_rng(count).uniform(-1, 1, (count, 8, 8, 1)).astype(np.float32)
    target = np.arange(count) % 5 if target == "each" else target
    logits, maps = explain(faces, target)
    assert (logits.shape, maps.shape) == ((count, 5), faces.shape)
    assert logits.dtype == maps.dtype == np.float32
    if count:
        expected = np.asarray(model.apply(variables, faces, train=False)[0])
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        chosen = expected.argmax(-1) if target is None else target
        np.testing.assert_allclose(
            maps, interpret.guided_backprop(model, variables, faces, chosen), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(("arch", "size"), [("mini_xception", 40), ("mini_xception", 47), ("sequential_cnn", 36)])
def test_this_project_s_networks(arch, size):
    """Which the C++ kernels may compute, against guided backprop as it is defined."""
    model = models.create(arch, 7)
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return generator.uniform(0.5, 2, leaf.shape).astype(np.float32)
        scale = 0.3 if leaf.ndim == 1 else 1 / np.sqrt(np.prod(leaf.shape[:-1]))
        return (scale * generator.normal(size=leaf.shape)).astype(np.float32)

    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    faces = generator.uniform(-1, 1, (2, size, size, 1)).astype(np.float32)
    explain, guided = interpret.explainer(model, variables), jax.jit(partial(interpret.guided_backprop, model))
    expected, _ = jax.jit(partial(model.apply, train=False))(variables, faces)
    for target in (None, np.array([6, 0])):
        logits, maps = explain(faces, target)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        reference = guided(variables, faces, np.asarray(expected).argmax(-1) if target is None else target)
        assert np.linalg.norm(maps - reference) / np.linalg.norm(reference) < 1e-5


def test_the_kernels_need_no_warm_up():
    model = models.create("mini_xception", 7)
    explain = interpret.explainer(model, models.init(model, jax.random.key(0)))
    explain.warm_up(40)
    assert not explain._explain._programs or not native.available()


def test_warm_up_compiles_all_there_is(network, monkeypatch):
    model, variables, images = network
    fresh = interpret.explainer(model, variables)
    fresh.warm_up(8)
    compiled = dict(fresh._explain._programs)
    fresh(np.asarray(images))
    assert fresh._explain._programs == compiled


@pytest.mark.parametrize(
    ("faces", "target", "message"),
    [
        (np.zeros((2, 8, 8, 1)), None, "faces: float64 is not float32"),
        (np.zeros((2, 8, 8, 1), np.uint8), None, "faces: uint8 is not float32; scale uint8 with"),
        (np.zeros((8, 8, 1), np.float32), None, r"faces: shape \(8, 8, 1\) is not \[batch"),
        (np.zeros((2, 8, 8, 3), np.float32), None, r"faces: shape \(1, 8, 8, 3\) does not fit"),
        (np.full((2, 8, 8, 1), np.nan, np.float32), None, "faces: image 0 holds NaN"),
        (np.zeros((2, 8, 8, 1), np.float32), 5, "target: 5 is no class or array of classes; give 0 to 4"),
        (np.zeros((2, 8, 8, 1), np.float32), -1, "target: -1 is no class"),
        (np.zeros((2, 8, 8, 1), np.float32), "happy", "target: 'happy' is no class"),
        (np.zeros((2, 8, 8, 1), np.float32), np.array([0, 1, 2]), "target: array.* neither one class nor 2"),
    ],
)
def test_wrong_arguments(explain, faces, target, message):
    with pytest.raises(FaceflaxError, match=message):
        explain(faces, target)


def test_a_network_without_relus(network):
    model, variables, images = network
    smooth = interpret.explainer(model.clone(activation=jnp.tanh), variables)
    with pytest.raises(FaceflaxError, match="model: Small applies no ReLU"):
        smooth(np.asarray(images))
