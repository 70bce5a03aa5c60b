"""The detector path against the analyzer on the same frame, and the frame against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from faceflax import FaceAnalyzer, preprocessing, pretrained
from faceflax.evaluation.detected import BORDER, SIDE, find_faces, frame_of, search_frames
from faceflax.evaluation.metrics import predict_logits
from faceflax.faces.analyzer import PRESETS
from faceflax.faces.crop import crop_face
from faceflax.faces.haar import HaarDetector
from faceflax.media.demo import photograph
from faceflax.opencv import cv2


@pytest.fixture(scope="module")
def images():
    """A face as a dataset has it, cut at its box, and an image without one."""
    grey = cv2.cvtColor(photograph(), cv2.COLOR_BGR2GRAY)
    face = crop_face(grey, HaarDetector()(photograph())[0].box.astype(int), margin=0.02, size=48)
    return np.stack([preprocessing.resize(image, SIDE) for image in (face, np.full((48, 48), 90, np.uint8))])[..., None]


def test_the_frame_repeats_the_border_around_the_image(images):
    frame = frame_of(images[0, :, :, 0])
    expected = np.pad(images[0, :, :, 0], BORDER, mode="edge")
    np.testing.assert_array_equal(frame, np.repeat(expected[..., None], 3, axis=2))


def test_a_face_is_found_where_it_was_cut(images):
    found, none = search_frames(images, HaarDetector())
    assert none == []
    assert len(found) == 1
    np.testing.assert_allclose(found[0].box, [BORDER, BORDER, SIDE, SIDE], atol=0.06 * SIDE)


def test_the_prediction_is_the_analyzers_on_the_same_frame(images):
    detector = HaarDetector()
    name = PRESETS["fast"].emotion
    info = pretrained.weights_info(name)
    crops = find_faces(images, detector).cut(info.crop_margin, info.image_size)
    logits = predict_logits(*pretrained.load(name), crops)[0] / info.temperature
    (face,) = FaceAnalyzer(detector=detector, preset="fast")(frame_of(images[0, :, :, 0]))
    probabilities = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(probabilities, face.emotion_probabilities, atol=1e-4)
