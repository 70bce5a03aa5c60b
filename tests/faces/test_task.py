"""A third task of one's own labels: the network on the crops, in images and videos, drawn and in tables."""

import cv2
import jax
import numpy as np
import pytest

from faceflax import FaceflaxError, models, pretrained
from faceflax.faces.analyzer import FaceAnalyzer
from faceflax.faces.crop import crop_face
from faceflax.faces.haar import HaarDetector
from faceflax.faces.video import VideoAnalyzer
from faceflax.media import demo
from faceflax.media.drawing import draw_faces

LABELS = ("glasses", "hat", "none")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Weights of three labels; the second is likely for any image."""
    model = models.create("mini_xception", 3)
    variables = jax.device_get(models.init(model, jax.random.key(5), 48))
    variables["params"]["last_conv"]["bias"] = np.float32([0, 0.7, 0])
    file = tmp_path_factory.mktemp("task") / "task.safetensors"
    sure = {"confidence": 0.99, "accuracy": 0.8, "coverage": 0.5}
    fields = {"arch": "mini_xception", "dataset": "folder/x", "labels": LABELS, "image_size": 48, "crop_margin": 0.1}
    pretrained.save(file, variables, **fields, temperature=1.5, sure=sure)
    return file, lambda images: model.apply(variables, images)[0]


@pytest.mark.parametrize("preset", ["fast", "accurate"])
def test_its_probabilities_are_the_networks_and_the_other_labels_stay(task, preset):
    file, apply = task
    photo = demo.photograph()
    (face,) = FaceAnalyzer(detector=HaarDetector(), preset=preset, task=file)(photo)
    (plain,) = FaceAnalyzer(detector=HaarDetector(), preset=preset)(photo)
    crop = crop_face(cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY), face.box, 0.1, 48)
    views = [crop] if preset == "fast" else [crop, crop[:, ::-1]]
    logits = np.float64(apply(np.float32(np.stack(views)[..., None]) / 127.5 - 1)) / 1.5
    expected = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(face.task_probabilities, expected, atol=1e-5)
    assert (face.task, face.sure_task) == (LABELS[expected.argmax()], False)
    np.testing.assert_allclose(face.emotion_probabilities, plain.emotion_probabilities, atol=1e-6)
    assert (plain.task, plain.task_probabilities) == (None, None)


def test_tables_say_it_and_pictures_show_it(task):
    file, _ = task
    photo = demo.photograph()
    images = FaceAnalyzer(detector=HaarDetector(), preset="fast", task=file)
    video = VideoAnalyzer(images, detector=HaarDetector())
    (face,) = images(photo)
    followed = [video(photo)[0] for _ in range(2)][-1]
    np.testing.assert_allclose(followed.task_probabilities.sum(), 1, rtol=1e-5)
    for each in (face, followed):
        row = each.to_dict()
        assert (row["task"], row["sure_task"]) == (each.task, False)
        assert row["task_probability"] == pytest.approx(each.task_probabilities.max())
    (plain,) = FaceAnalyzer(detector=HaarDetector(), preset="fast")(photo)
    assert (plain.to_dict()["task"], plain.to_dict()["task_probability"]) == (None, None)
    drawn, without = draw_faces(photo, [face]), draw_faces(photo, [plain])
    assert (drawn != without).any()


def test_weights_of_other_labels_say_where_they_can_go(task):
    file, _ = task
    message = (
        r"emotion: .* predicts glasses, hat, none; give weights that predict .*, or give these as task, beside them"
    )
    with pytest.raises(FaceflaxError, match=message):
        FaceAnalyzer(emotion=file)
    with pytest.raises(FaceflaxError, match="task: unknown 'no-such'"):
        FaceAnalyzer(task="no-such")
