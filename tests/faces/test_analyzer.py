import cv2
import jax
import numpy as np
import pytest

import faceflax.pretrained
from faceflax.errors import FaceflaxError
from faceflax.faces.analyzer import PRESETS, FaceAnalyzer
from faceflax.faces.crop import crop_face
from faceflax.faces.detection import Detection
from faceflax.faces.haar import HaarDetector
from faceflax.faces.video import VideoAnalyzer
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


@pytest.mark.parametrize("low", [0.0, 0.9])
def test_a_label_is_sure_from_the_threshold_of_its_weights_on(tmp_path, weights, photo, low):
    files = []
    for number, file in enumerate(weights):
        loaded = faceflax.pretrained.load(file)
        fields = {name: getattr(loaded.info, name) for name in ("arch", "dataset", "labels", "image_size")}
        sure = {"confidence": low if number else 0.1, "accuracy": 0.8, "coverage": 0.5}
        files.append(tmp_path / f"{number}.safetensors")
        faceflax.pretrained.save(files[-1], loaded.variables, **fields, sure=sure, temperature=50.0)
    images, video = FaceAnalyzer(*files), VideoAnalyzer(FaceAnalyzer(*files))
    for (face,) in (images(photo), video(photo)):
        assert face.sure_emotion
        assert face.sure_gender == (face.gender_probabilities.max() >= low) == (low == 0)
        assert (face.to_dict()["sure_emotion"], face.to_dict()["sure_gender"]) == (True, low == 0)


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


def test_accurate_is_the_mean_of_a_face_and_its_mirror_image(photo):
    """To the networks a face and its mirror image are then the same."""
    box = np.array([118, 80, 300, 300])  # with both margins its square is even, and so mirrored to the pixel
    mirrored = np.array([photo.shape[1] - box[0] - box[2], *box[1:]])
    small = "mini_xception-fer2013", "mini_xception-fairface"
    fast, accurate = (FaceAnalyzer(*small, "haar", preset=preset) for preset in ("fast", "accurate"))
    flipped = np.ascontiguousarray(photo[:, ::-1])
    for one, other, mean in zip(
        fast.probabilities(photo, box[None]),
        fast.probabilities(flipped, mirrored[None]),
        accurate.probabilities(photo, box[None]),
        strict=True,
    ):
        assert np.abs(one - other).max() > 1e-3
        np.testing.assert_allclose(mean, (one + other) / 2, atol=1e-5)
    for ours, theirs in zip(
        accurate.probabilities(photo, box[None]), accurate.probabilities(flipped, mirrored[None]), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("preset", ["fast", "accurate"])
def test_a_preset_runs_its_networks_and_gives_way_to_a_weights_file(weights, photo, preset):
    chosen = PRESETS[preset]
    infos = faceflax.pretrained.weights_info(chosen.emotion), faceflax.pretrained.weights_info(chosen.gender)
    (face,) = FaceAnalyzer(detector="haar", preset=preset)(photo)
    assert set(face.crops) == {(info.crop_margin, info.image_size) for info in infos}
    assert len(face.crops) == 1  # both networks read one crop
    (own,) = FaceAnalyzer(gender=weights[1], detector="haar", preset=preset)(photo)
    np.testing.assert_array_equal(own.emotion_probabilities, face.emotion_probabilities)
    assert (own.gender_probabilities != face.gender_probabilities).any()


@pytest.mark.parametrize("name", [n for n in faceflax.pretrained.list_weights() if not n.startswith("face_detector")])
def test_every_shipped_network_is_taken(photo, name):
    emotion = faceflax.pretrained.weights_info(name).labels == EMOTIONS
    chosen = {"emotion" if emotion else "gender": name}
    (face,) = FaceAnalyzer(**chosen, detector="haar", preset="fast")(photo)
    assert face.emotion_probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_scores_and_landmarks_go_from_the_detector_to_the_face(weights, photo):
    points = np.float32([[228, 188], [306, 187], [268, 230], [237, 278], [303, 278]])
    found = Detection(np.array([185.4, 125.3, 164.9, 205.2]), 0.625, points)
    (face,) = FaceAnalyzer(*weights, lambda frame: [found], preset="fast")(photo)
    assert face.box == (185, 125, 165, 205)
    assert face.score == 0.625
    np.testing.assert_array_equal(face.landmarks, points)
    grey = cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)
    for (margin, size), crop in face.crops.items():
        np.testing.assert_array_equal(crop, crop_face(grey, face.box, margin, size, points))
    np.testing.assert_array_equal(face.crop(photo, 0.2, 50), crop_face(grey, face.box, 0.2, 50, points))


def test_bad_presets_and_detectors_are_named(weights, photo):
    with pytest.raises(FaceflaxError, match=r"^preset: unknown 'best'; choose one of: fast, accurate"):
        FaceAnalyzer(*weights, preset="best")
    with pytest.raises(FaceflaxError, match=r"^detector: unknown 'hare'; choose one of: faceflax, haar"):
        FaceAnalyzer(*weights, "hare")
    with pytest.raises(FaceflaxError, match=r"^detector: returned float64 \(1, 4\), which is neither"):
        FaceAnalyzer(*weights, lambda frame: np.ones((1, 4)), preset="fast")(photo)
