import cv2
import jax
import numpy as np
import pytest

import faceflax.pretrained
from faceflax.errors import FaceflaxError
from faceflax.faces.analyzer import FaceAnalyzer
from faceflax.faces.crop import crop_face
from faceflax.faces.haar import HaarDetector
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.media import demo


@pytest.fixture(scope="module")
def analyzer(weights):
    return FaceAnalyzer(*weights, detector=HaarDetector(), preset="fast")


@pytest.fixture(scope="module")
def photo():
    return demo.photograph()


def test_probabilities_are_the_networks_on_the_crops(analyzer, weights, photo):
    """Crop, network and softmax once more, each by itself, the softmax in float64."""
    frame = np.hstack([photo, photo[:, ::-1]])
    faces = analyzer(frame)
    assert len(faces) == 2
    for file, labels, kind in zip(weights, (EMOTIONS, GENDERS), ("emotion", "gender"), strict=True):
        model, variables = faceflax.pretrained.load(file)
        info = faceflax.pretrained.weights_info(file)
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        for face in faces:
            crop = crop_face(grey, face.box, info.crop_margin, info.image_size)
            images = np.float32(crop[None, :, :, None] / 127.5 - 1)
            logits = np.float64(jax.jit(model.apply)(variables, images)[0][0]) / info.temperature
            expected = np.exp(logits) / np.exp(logits).sum()
            probabilities = getattr(face, f"{kind}_probabilities")
            assert probabilities.dtype == np.float32
            np.testing.assert_allclose(probabilities, expected, atol=1e-5)
            assert getattr(face, kind) == labels[expected.argmax()]


def test_box_is_four_python_integers_about_the_eyes(analyzer, photo):
    (face,) = analyzer(photo)
    assert [type(value) for value in face.box] == [int] * 4
    x, y, width, height = face.box
    assert x < 228 < 306 < x + width
    assert y < 187 < 278 < y + height
    assert face.track_id is None


def test_batch_of_frames_gives_what_each_frame_gives(analyzer, photo):
    frames = [photo, np.zeros((90, 120, 3), np.uint8), np.hstack([photo, photo])]
    batch = analyzer.analyze_batch(frames)
    assert [len(faces) for faces in batch] == [1, 0, 2]
    for faces, frame in zip(batch, frames, strict=True):
        for one, other in zip(faces, analyzer(frame), strict=True):
            assert one.box == other.box
            np.testing.assert_allclose(one.emotion_probabilities, other.emotion_probabilities, atol=1e-6)
            np.testing.assert_allclose(one.gender_probabilities, other.gender_probabilities, atol=1e-6)


def test_no_frames(analyzer):
    assert analyzer.analyze_batch([]) == []


def test_any_number_of_faces_from_a_detector_of_ones_own(analyzer, photo, monkeypatch):
    boxes = np.array([[x, y, 50, 50] for x in range(-20, 500, 50) for y in range(0, 600, 90)], np.int32)
    monkeypatch.setattr(analyzer, "detector", lambda frame: boxes)
    faces = analyzer(photo)
    assert [face.box for face in faces] == [tuple(box) for box in boxes.tolist()]
    np.testing.assert_allclose([face.emotion_probabilities.sum() for face in faces], 1, atol=1e-5)


def test_probabilities_of_given_boxes(analyzer, photo):
    faces = analyzer(np.hstack([photo, photo]))
    emotions, genders = analyzer.probabilities(np.hstack([photo, photo]), np.array([face.box for face in faces]))
    np.testing.assert_allclose(emotions, [face.emotion_probabilities for face in faces], atol=1e-6)
    np.testing.assert_allclose(genders, [face.gender_probabilities for face in faces], atol=1e-6)
    emotions, genders = analyzer.probabilities(photo, np.empty((0, 4), int))
    assert (emotions.shape, genders.shape) == ((0, 7), (0, 2))
    with pytest.raises(FaceflaxError, match="frame: "):
        analyzer.probabilities(photo[:, :, 0], np.array([[0, 0, 9, 9]]))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (None, "None is not an image: it could not be read; check its path"),
        ("photo.jpg", "str"),
        (np.zeros((9, 9, 3), np.float32), "float32"),
        (np.zeros((9, 9), np.uint8), r"\(9, 9\)"),
        (np.zeros((9, 9, 4), np.uint8), r"\(9, 9, 4\)"),
        (np.zeros((0, 9, 3), np.uint8), r"\(0, 9, 3\)"),
    ],
)
def test_bad_frame_is_named(analyzer, frame, message):
    with pytest.raises(FaceflaxError, match=f"frame: .*{message}"):
        analyzer(frame)


def test_weights_for_something_else_are_named(weights):
    emotion, gender = weights
    with pytest.raises(FaceflaxError, match=r"^emotion: .*gender\.safetensors' predicts woman, man; give .*angry"):
        FaceAnalyzer(gender, gender)
    with pytest.raises(FaceflaxError, match=r"^gender: .*emotion\.safetensors' predicts angry"):
        FaceAnalyzer(emotion, emotion)
    with pytest.raises(FaceflaxError, match=r"^gender: .*no-such-weights"):
        FaceAnalyzer(emotion, "no-such-weights")
