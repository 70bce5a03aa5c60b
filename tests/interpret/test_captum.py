"""Parity with Captum 0.9 on the reference implementation's published emotion weights."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

import interpret
from faceflax import models
from faceflax.pretrained import keras

REFERENCE = Path(__file__).resolve().parents[2] / "../shared/reference"
CASES = [
    (interpret.gradient, "saliency", "class"),
    (interpret.guided_backprop, "guided_backprop", "class"),
    (interpret.deconvnet, "deconvnet", "class"),
    (interpret.guided_backprop, "neuron_guided_backprop_last_conv", "neuron"),
]


@pytest.fixture(scope="module")
def captum():
    file = REFERENCE / "captum_emotion.npz"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    return dict(np.load(file))


@pytest.fixture(scope="module")
def network(captum):
    read = keras.read(REFERENCE / "fer2013_mini_XCEPTION.102-0.66.hdf5")
    return models.create(read.arch, read.num_classes), read.variables


def relative_error(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def target_of(captum, kind):
    return captum["target"] if kind == "class" else interpret.Neuron("last_conv", *captum["neuron_row_col_channel"].T)


@pytest.mark.parametrize(("method", "name", "kind"), CASES, ids=[name for _, name, _ in CASES])
def test_float32(captum, network, method, name, kind):
    """Below 1e-3; all of it comes from one image, where two values compared by the network differ by rounding only."""
    images = captum["images_uint8"][..., None].astype(np.float32) / np.float32(127.5) - 1
    ours = method(*network, images, target_of(captum, kind))
    assert relative_error(ours, captum[name]) < 1e-3
    assert np.median([relative_error(a, b) for a, b in zip(ours, captum[name], strict=True)]) < 1e-6


def test_float64(captum, network):
    """Without rounding every image agrees, so what float32 leaves is no difference of method."""
    model, variables = network
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
        ours = interpret.gradient(model, variables, captum["images_uint8"][..., None] / 127.5 - 1, captum["target"])
        for a, b in zip(ours, captum["saliency"], strict=True):
            assert relative_error(a, b) < 2e-6
