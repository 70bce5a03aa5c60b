"""The pieces of a detection against other formulations, and detectors made of weights on disk."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax import models, native, pretrained
from faceflax.errors import FaceflaxError
from faceflax.inference import Detector, detector_in_jax, load_detector
from faceflax.inference.detector_folding import fold_detector
from faceflax.native import Region
from faceflax.training.detection.loss import decode, places

ROOT = Path(__file__).resolve().parents[2]

spec = importlib.util.spec_from_file_location("detectors", ROOT / "tests/native/detectors.py")
detectors = importlib.util.module_from_spec(spec)
spec.loader.exec_module(detectors)


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_shrinking_by_whole_factors_is_opencv_s_area_mean(factor):
    frame = detectors.image(64 * factor, 96 * factor)
    found = detector_in_jax.resize(frame, Region(0, 0, 96 * factor, 64 * factor, 64, 96))
    mean = cv2.resize(frame.astype(np.float32), (96, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(found, mean / 127.5 - 1, rtol=0, atol=2e-6)


@pytest.mark.parametrize("factor", [2, 3])
def test_enlarging_is_opencv_s_bilinear_inside(factor):
    frame = detectors.image(32, 64)
    found = detector_in_jax.resize(frame, Region(0, 0, 64, 32, 32 * factor, 64 * factor))
    other = cv2.resize(frame.astype(np.float32), (64 * factor, 32 * factor), interpolation=cv2.INTER_LINEAR)
    inside = np.s_[factor:-factor, factor:-factor]
    np.testing.assert_allclose(found[inside], (other / 127.5 - 1)[inside], rtol=0, atol=2e-6)


def integral(values, begin, end):
    """Of a step function that is 0 outside its values."""
    total = 0.0
    for i, value in enumerate(values):
        total += value * max(0.0, min(end, i + 1) - max(begin, i))
    return total


@pytest.mark.parametrize(
    ("begin", "length", "count"), [(-7.3, 60, 32), (3.25, 33.5, 32), (-90, 300, 32), (50, 400, 32)]
)
def test_a_pixel_is_the_mean_of_what_it_covers(begin, length, count):
    values = np.random.default_rng(0).normal(size=41)
    step = length / count
    expected = [integral(values, begin + i * step, begin + (i + 1) * step) / step for i in range(count)]
    np.testing.assert_allclose(detector_in_jax.samples(begin, length, count, 41) @ values, expected, atol=1e-12)


def test_a_pixel_between_two_is_interpolated():
    values = np.random.default_rng(1).normal(size=20)
    centres = 3.3 + (np.arange(32) + 0.5) * 25 / 32 - 0.5
    framed = np.concatenate([[0], values, np.zeros(40)])
    expected = np.interp(centres, np.arange(-1, 60), framed)
    np.testing.assert_allclose(detector_in_jax.samples(3.3, 25, 32, 20) @ values, expected, atol=1e-12)


@pytest.mark.parametrize("region", [Region(0, 0, 96, 64, 64, 96), Region(-20, 8, 192, 128, 64, 96)])
def test_faces_are_those_that_training_decodes(region):
    outputs = np.random.default_rng(2).normal(0, 2, (126, 15)).astype(np.float32)
    logits, boxes, points = (np.asarray(x) for x in decode(outputs, *places(64, 96)))
    found = detector_in_jax.faces_of(outputs, region, 3, 0.0)
    scale, corner = region.width / 96, np.array([region.left, region.top])
    np.testing.assert_allclose(found[:, :2], corner + boxes[:, :2] * scale, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(found[:, 2:4], (boxes[:, 2:] - boxes[:, :2]) * scale, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(found[:, 5:15].reshape(-1, 5, 2), corner + points * scale, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(found[:, 4], 1 / (1 + np.exp(-logits)), rtol=1e-5)
    assert set(found[:, 15]) == {3.0}
    likely = detector_in_jax.faces_of(outputs, region, 3, 0.7)
    np.testing.assert_array_equal(likely, found[found[:, 4] >= 0.7])


def test_what_is_no_number_is_no_face():
    outputs = np.zeros((21, 15), np.float32)
    outputs[:5, 0], outputs[1, 0], outputs[2, 4], outputs[3, 9] = 5, np.nan, np.nan, np.inf
    found = detector_in_jax.faces_of(outputs, Region(0, 0, 32, 32, 32, 32), 0, 0.9)
    assert found[:, 0].tolist() == [0.0, 0.0]  # the places 0 and 4, of 8x8 pixels: the left column
    assert found[:, 1].tolist() == [0.0, 8.0]


def test_of_faces_that_overlap_the_best_stays():
    rng = np.random.default_rng(3)
    boxes = np.concatenate([rng.uniform(0, 60, (300, 2)), rng.uniform(5, 30, (300, 2))], 1)
    scores = rng.integers(0, 40, 300) / 40  # many are equal
    for limit in (0.0, 0.3, 0.6, 1.0):
        kept = []
        for i in sorted(range(300), key=lambda i: (-scores[i], i)):
            x, y, w, h = boxes[i]

            def iou(j, x=x, y=y, w=w, h=h):
                a, b, c, d = boxes[j]
                common = max(0, min(x + w, a + c) - max(x, a)) * max(0, min(y + h, b + d) - max(y, b))
                return common / (w * h + c * d - common)

            if all(iou(j) <= limit for j in kept):
                kept.append(i)
        np.testing.assert_array_equal(detector_in_jax.best(boxes, scores, limit, 300), kept)
        np.testing.assert_array_equal(detector_in_jax.best(boxes, scores, limit, 7), kept[:7])
    assert detector_in_jax.best(np.empty((0, 4)), np.empty(0), 0.4, 5).shape == (0,)


@pytest.fixture
def weights(tmp_path):
    """A detector's weights on disk."""
    models.register("face_detector", "faceflax.models.face_detector:FaceDetector")
    file = tmp_path / "face_detector-random.safetensors"
    info = {"arch": "face_detector", "dataset": "random", "labels": ("face",), "image_size": 640}
    pretrained.save(file, detectors.variables(), **info)
    return file


def test_a_detector_of_weights_on_disk(weights):
    frame = detectors.image(168, 320)
    found = load_detector(weights).detect(frame, detectors.REGIONS, min_score=0.4)
    expected = Detector(detectors.program()).detect(frame, detectors.REGIONS, min_score=0.4)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    assert len(found) > 10


def test_a_detector_without_kernels(weights, tmp_path):
    frame = detectors.image(168, 320)
    np.save(tmp_path / "frame.npy", frame)
    code = (
        "import sys, numpy as np\n"
        "from faceflax import models\n"
        "from faceflax.inference import load_detector\n"
        "from faceflax.native import Region\n"
        "models.register('face_detector', 'faceflax.models.face_detector:FaceDetector')\n"
        "frame, region = np.load(sys.argv[2]), Region(0, -12, 320, 192, 96, 160)\n"
        "np.save(sys.argv[3], load_detector(sys.argv[1]).detect(frame, [region], min_score=0.4))\n"
    )
    arguments = [str(weights), str(tmp_path / "frame.npy"), str(tmp_path / "faces.npy")]
    environment = {**os.environ, "FACEFLAX_NATIVE": "0", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, check=True, timeout=300)
    if native.available():
        expected = load_detector(weights).detect(frame, detectors.REGIONS[:1], min_score=0.4)
        np.testing.assert_allclose(np.load(tmp_path / "faces.npy"), expected, rtol=0, atol=1e-3)
        assert len(expected) > 3


def test_weights_of_another_network_are_refused(weights):
    with pytest.raises(FaceflaxError, match="mini_xception, which finds no faces; give those of a face_detector"):
        load_detector("mini_xception-fairface")
    record = weights.with_suffix(".json")
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "sha256": "0" * 64}))
    with pytest.raises(FaceflaxError, match="the SHA-256 of"):
        load_detector(weights)


def test_tensors_that_do_not_fit_are_named():
    from flax.traverse_util import flatten_dict

    tensors = flatten_dict(detectors.variables(), sep="/")
    name = "params/unit16_2/conv1/depthwise"
    with pytest.raises(FaceflaxError, match=f"tensor '{name}' .* of face_detector is missing"):
        fold_detector({k: v for k, v in tensors.items() if k != name})
    with pytest.raises(FaceflaxError, match="face_detector has no tensor 'params/more'"):
        fold_detector({**tensors, "params/more": np.zeros(3)})
    with pytest.raises(FaceflaxError, match="in face_detector it is"):
        fold_detector({**tensors, name: np.zeros((3, 3, 1, 64))})
