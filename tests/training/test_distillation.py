"""Teachers' predictions against OpenCV's resizing and float64 probabilities; what a student's loss is made of."""

from __future__ import annotations

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

import experiments.architectures  # noqa: F401 (registers tang_cnn)
import faceflax
from faceflax import data, models, pretrained
from faceflax.data.augment import Augmentation
from faceflax.errors import FaceflaxError
from faceflax.labels import EMOTIONS
from faceflax.preprocessing import normalize
from faceflax.training.config import TrainConfig
from faceflax.training.distillation import teacher
from faceflax.training.loop import train
from tests.training.test_loop import rows_of

EMOTION_WEIGHTS = ("mini_xception-fer2013", "sequential_cnn-fer2013")


def test_the_prediction_is_the_mean_of_calibrated_probabilities_at_each_networks_size():
    images = np.random.default_rng(0).uniform(-1, 1, (2, 40, 40, 1)).astype(np.float32)
    expected = []
    for name in EMOTION_WEIGHTS:
        info = pretrained.weights_info(name)
        resized = np.stack([cv2.resize(i, (info.image_size, info.image_size)) for i in images])[..., None]
        logits = faceflax.compile(*pretrained.load(name))(resized)
        expected.append(softmax(np.asarray(logits, np.float64) / info.temperature, axis=1))
    predicted = jax.jit(teacher(EMOTION_WEIGHTS, EMOTIONS))(images)
    np.testing.assert_allclose(predicted, np.mean(expected, 0), atol=2e-4)


@pytest.mark.slow
def test_a_students_loss_is_the_cross_entropy_with_its_teacher(tmp_path):
    model = models.create("tang_cnn", 7)  # without BatchNorm and dropout it predicts in training what it does elsewhere
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
    variables = jax.tree.map(lambda a: rng.normal(0, 1 / max(a.shape) ** 0.5, a.shape).astype(np.float32), shapes)
    file = tmp_path / "teacher.safetensors"
    pretrained.save(file, variables, arch="tang_cnn", dataset="none", labels=EMOTIONS, image_size=48)
    settings = TrainConfig(
        arch="tang_cnn",
        dataset="synthetic",
        output=tmp_path / "run",
        epochs=1,
        learning_rate=0.0,
        init_weights=str(file),
        teachers=(str(file),),
        teacher_weight=0.25,
        label_smoothing=0.0,
        augmentation=Augmentation(flip=False, shift=0.0, rotation=0.0, zoom=0.0),
    )
    train(settings)
    examples = data.load("synthetic", "train", image_size=48)
    images, labels = examples.images, np.eye(7)[examples.labels]
    order = np.random.default_rng([0, 1]).permutation(len(images))
    seen = order[: len(order) // settings.batch_size * settings.batch_size]
    logits = jax.jit(model.apply)(variables, normalize(jnp.asarray(images[seen])))[0]
    p = softmax(np.asarray(logits, np.float64), axis=1)
    target = 0.75 * labels[seen] + 0.25 * p
    (row,) = rows_of(tmp_path / "run")
    assert float(row["train_loss"]) == pytest.approx(-(target * np.log(p)).sum(1).mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mini_xception-fairface", "teachers: 'mini_xception-fairface' has the classes woman, man, not angry"),
        ("none.safetensors", "teachers: .*none.safetensors"),
    ],
)
def test_what_cannot_teach_is_named(tmp_path, name, message):
    with pytest.raises(FaceflaxError, match=message):
        train(TrainConfig(dataset="synthetic", output=tmp_path / "run", teachers=(name,)))
    with pytest.raises(FaceflaxError, match=r"teacher_weight: 1\.5 is not usable"):
        TrainConfig(teacher_weight=1.5)
