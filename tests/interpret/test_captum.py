"""Parity with Captum 0.9 on the reference implementation's published emotion weights."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import interpret
from faceflax import models
from faceflax.errors import FaceflaxError
from faceflax.pretrained import keras
from interpret import parity
from interpret.attribution import apply

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "../shared/reference"
CAPTUM = REFERENCE / "captum_emotion.npz"
WEIGHTS = REFERENCE / "fer2013_mini_XCEPTION.102-0.66.hdf5"


@pytest.fixture(scope="module")
def captum():
    if not CAPTUM.is_file():
        pytest.skip(f"{CAPTUM} is not there")
    return dict(np.load(CAPTUM))


@pytest.fixture(scope="module")
def network(captum):
    read = keras.read(WEIGHTS)
    return models.create(read.arch, read.num_classes), read.variables


@pytest.fixture(scope="module")
def ours(captum, network):
    return parity.explain(*network, captum)


@pytest.mark.slow
@pytest.mark.parametrize("name", parity.KEYS)
def test_float32(captum, ours, name):
    """Below 1e-3 each; nearly all of it comes from one image, where two values that the network compares differ by
    rounding only, and for integrated gradients from such places on every image's way to grey."""
    errors = parity.compare(ours[name], captum[parity.KEYS[name]])
    assert errors[0] < 1e-3
    assert np.median(errors[1:]) < (3e-4 if name == "integrated_gradients" else 1e-6)


def test_float64(captum, network):
    """Without rounding every image agrees, so what float32 leaves is no difference of method."""
    model, variables = network
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
        images = captum["images_uint8"][..., None] / 127.5 - 1
        gradient = jax.jit(partial(interpret.gradient, model))(variables, images, captum["target"])
    assert parity.compare(np.asarray(gradient), captum["saliency"])[1:].max() < 2e-6


def test_integrated_gradients_are_complete(captum, network, ours):
    """At 200 steps the sums miss the scores' differences by less than 1%, over all faces and for the median one."""
    model, variables = network
    images = captum["images_uint8"][..., None].astype(np.float32) / np.float32(127.5) - 1
    scores, grey = (
        np.asarray(apply(model, variables, x)[0], np.float64)[np.arange(len(x)), captum["target"]]
        for x in (images, np.zeros_like(images))
    )
    sums = ours["integrated_gradients"].sum((1, 2, 3), dtype=np.float64)
    errors = parity.compare(sums, scores - grey)
    assert errors[0] < 0.01
    assert np.median(errors[1:]) < 0.01


@pytest.mark.parametrize(
    ("reference", "message"),
    [("nothing.npz", "reference: cannot read"), ("other.npz", "reference: .* holds no deconvnet, grad_cam")],
)
def test_wrong_reference(tmp_path, reference, message):
    np.savez(tmp_path / "other.npz", images_uint8=np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(FaceflaxError, match=message):
        parity.main(parity.Options(tmp_path / reference, "mini_xception-fer2013"))


def test_command_line():
    run = [sys.executable, "-m", "interpret.parity"]
    shown = subprocess.run([*run, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search("--reference", shown.stdout)
