"""Parity with Captum and Zennit on PyTorch twins of the same weights, and with Quantus on the same maps."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import interpret
from experiments.interpretation import networks, peers
from interpret import metrics
from interpret.methods import METHODS

pytestmark = pytest.mark.usefixtures("quick_compilation")

AGREES = 1e-5
CAPTUM = [method for method, (peer, _) in peers.PEERS.items() if peer == "Captum"]


@pytest.mark.parametrize(
    ("network", "method"), [*(("function", method) for method in peers.PEERS), *(("ResNet, Linen", m) for m in CAPTUM)]
)
def test_a_peers_answer_is_ours(network, method):
    if peers.PEERS[method].peer in peers.missing():
        pytest.skip(f"{peers.PEERS[method].peer} is not installed")
    made = networks.NETWORKS[network]()
    model, variables = interpret.wrap(*made.arguments, **made.options)
    options = networks.QUICK.get(method, {})
    ours = METHODS[method](model, variables, networks.IMAGES, 0, layer=made.layer, **options)
    theirs = peers.answer(method, network, networks.IMAGES, 0)
    assert np.abs(theirs).max() > 0
    assert peers.relative_error(ours, theirs) < AGREES


@pytest.mark.parametrize(
    ("name", "theirs", "steps"),
    [
        ("layer_integrated_gradients", "LayerIntegratedGradients", 5),
        ("internal_influence", "InternalInfluence", 5),
    ],
)
def test_captum_s_answer_for_a_layer_is_ours(name, theirs, steps):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    attr = pytest.importorskip("captum.attr", reason="Captum is not installed")
    import torch

    from experiments.interpretation.twins import twin

    network = twin("function")
    inputs = torch.tensor(np.asarray(networks.IMAGES, np.float64)).permute(0, 3, 1, 2)
    expected = getattr(attr, theirs)(network, network.layer).attribute(
        inputs, target=1, n_steps=steps, method="riemann_middle"
    )
    model, variables = interpret.wrap(networks.plain)
    ours = getattr(interpret, name)(model, variables, networks.IMAGES, 1, layer="hidden", steps=steps)
    assert peers.relative_error(ours, expected.detach().permute(0, 2, 3, 1).numpy()) < AGREES


def test_quantus_has_the_same_numbers_for_maps_and_masks():
    quantus = pytest.importorskip("quantus", reason="Quantus is not installed")
    generator = np.random.default_rng(0)
    maps = generator.normal(size=(3, 6, 7, 1)).astype(np.float32)
    mask = generator.random((3, 6, 7)) < 0.3
    flat, sizes, inside = maps.reshape(3, -1), np.abs(maps).reshape(3, -1), mask.reshape(3, -1)

    def theirs(name, *, a_batch, **options):
        metric = getattr(quantus, name)(disable_warnings=True)
        images = np.zeros((3, 1, 6, 7))
        return np.asarray(metric.evaluate_batch(x_batch=images, a_batch=np.array(a_batch), **options), np.float64)

    matters = metrics.importance(maps, signed=True)
    np.testing.assert_allclose(metrics.gini(maps), theirs("Sparseness", a_batch=sizes), rtol=1e-4)
    np.testing.assert_allclose(metrics.entropy(maps), theirs("Complexity", a_batch=sizes), rtol=1e-4)
    np.testing.assert_allclose(
        metrics.relevance_rank_accuracy(matters, mask), theirs("RelevanceRankAccuracy", a_batch=flat, s_batch=inside)
    )
    np.testing.assert_allclose(
        metrics.localisation_auc(matters, mask), theirs("AUC", a_batch=flat, s_batch=inside), rtol=1e-5
    )
    np.testing.assert_array_equal(
        metrics.pointing_game(matters, mask), theirs("PointingGame", a_batch=flat, s_batch=inside)
    )
    assert isinstance(metrics.gini(maps), jax.Array)
