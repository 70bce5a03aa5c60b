"""The report of how faces are found, run whole on a few pictures, and the shipped detector's card."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import faceflax
from experiments.detection import card
from experiments.detection.conditions import covered, darkened, tilted
from faceflax.data import Scene
from faceflax.errors import FaceflaxError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scene():
    box = np.array([[60, 40, 30, 40]], np.float32)
    points = box[:, None, :2] + np.array([[8, 15], [22, 15], [15, 24], [9, 32], [21, 32]], np.float32)
    image = np.full((120, 150), 100, np.uint8)
    cv2.ellipse(image, ((74.5, 59.5), (30.0, 40.0), 0.0), 255, cv2.FILLED)
    return Scene(np.dstack([image] * 3), box, points, np.zeros(1, bool))


@pytest.mark.parametrize("degrees", [-60, -15, 30, 90])
def test_tilted_boxes_hold_the_turned_outline(scene, degrees):
    turned = tilted(scene, degrees)
    ys, xs = np.nonzero(turned.image[..., 0] > 180)
    x, y, width, height = turned.boxes[0]
    np.testing.assert_allclose(
        [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], [x, y, x + width, y + height], atol=1.5
    )
    across = turned.landmarks[0, 1] - turned.landmarks[0, 0]
    assert np.degrees(np.arctan2(across[1], across[0])) == pytest.approx(degrees, abs=1e-3)


def test_a_cover_begins_at_the_chin(scene):
    image = covered(scene, 0.25, shade=7).image
    assert (image[70:80, 60:90] == 7).all()
    np.testing.assert_array_equal(image[:70], scene.image[:70])


def test_light_is_a_factor(scene):
    dark = darkened(scene, 0.25, np.random.default_rng(0)).image
    assert dark.mean() == pytest.approx(0.25 * scene.image.mean(), abs=0.5)


def test_the_card_states_the_record_s_recall(tmp_path):
    info = faceflax.weights_info("face_detector-faces")
    text = (Path(faceflax.__file__).parent / "pretrained" / "weights" / "face_detector-faces.md").read_text()
    assert f"{info.accuracy['validation']:.2%}" in text
    (tmp_path / "results.json").write_text(json.dumps({"detectors": {}}))
    with pytest.raises(FaceflaxError, match=r"results: .*holds no measurement"):
        card.main(card.Options(tmp_path / "results.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "0"], "error: --limit: 0 is not a number of pictures"),
        (["--data-dir", "nowhere"], "error: faces: --dataset: is not prepared"),
    ],
)
def test_bad_input_is_named(arguments, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.detection", *arguments, "--output", tmp_path / "out"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert message.split(": ")[1] in done.stderr
    assert "Traceback" not in done.stderr
