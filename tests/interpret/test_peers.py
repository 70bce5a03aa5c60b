"""Parity with Captum and Zennit on PyTorch twins of the same weights."""

from __future__ import annotations

import numpy as np
import pytest

import interpret
from experiments.interpretation import networks, peers
from interpret.methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore:Setting :UserWarning")  # Captum's, of the hooks it sets

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
