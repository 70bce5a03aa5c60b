"""A detector's teacher, against OpenCV's own reading of the same network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax.data import Scene, Scenes
from faceflax.data.scenes import ASKED
from faceflax.media.demo import photograph
from faceflax.training.detection.loss import places
from faceflax.training.detection.teacher import YuNetTeacher

YUNET = Path(__file__).resolve().parents[3].parent / "shared/reference/yunet_2026may.onnx"


@pytest.fixture(scope="module")
def teacher():
    if not YUNET.is_file():
        pytest.skip(f"{YUNET.name} is not there")
    return YuNetTeacher(YUNET)


def test_scores_and_landmarks_are_those_that_opencv_reads(teacher):
    image = cv2.resize(photograph(), (256, 320))
    said = teacher(image)
    centres, _ = places(320, 256)
    assert said.shape == (len(centres), 11)
    network = cv2.FaceDetectorYN.create(str(YUNET), "", (256, 320), score_threshold=0.5)
    (face,) = network.detect(image)[1]
    best = said[said[:, 0].argmax()]
    np.testing.assert_allclose(best[0], face[14], atol=1e-5)
    np.testing.assert_allclose(best[1:], face[4:14], atol=1e-3)
    middle = face[:2] + face[2:4] / 2
    assert np.abs(centres[said[:, 0].argmax()] - middle).max() < 32


def test_it_is_asked_of_upright_photographs_as_they_were_before_they_are_changed():
    asked = []

    def teacher(image):
        asked.append(image)
        return np.zeros((64 + 16 + 4, 11), np.float32)

    image = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    face = np.array([[20, 20, 30, 36]], np.float32), np.full((1, 5, 2), np.nan, np.float32), np.zeros(1, bool)
    groups = {ASKED[0]: [Scene(image, *face)], "mask": [Scene(image, *face)]}
    taught = Scenes(groups, {ASKED[0]: 0.5, "mask": 0.5}, 64, teacher=teacher).batch(0, 40)
    plain = Scenes(groups, {ASKED[0]: 0.5, "mask": 0.5}, 64).batch(0, 40)
    for name, values in plain.items():
        np.testing.assert_array_equal(values, taught[name])  # asking changes no crop
    answered = np.isfinite(taught["taught"]).all((1, 2))
    assert (np.isnan(taught["taught"]).all((1, 2)) == ~answered).all()
    assert 5 < answered.sum() == len(asked) < 20
    changed = [not np.array_equal(a, b) for a, b in zip(asked, plain["images"][answered], strict=True)]
    assert np.mean(changed) > 0.5
