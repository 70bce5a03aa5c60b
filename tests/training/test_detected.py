"""Training on faces as the detector finds them: what is trained on, and what the epoch is chosen by."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from faceflax import FaceflaxError, data, pretrained
from faceflax.data.loading import make_builder
from faceflax.evaluation.corruptions import CORRUPTIONS
from faceflax.evaluation.detected import SIDE, find_faces
from faceflax.evaluation.metrics import predict_logits
from faceflax.evaluation.robustness import measure
from faceflax.faces import make_detector
from faceflax.media.demo import photograph
from faceflax.training.config import TrainConfig
from faceflax.training.detected import training_crops, validation_crops
from faceflax.training.loop import train


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A prepared ``folder/portraits``: one face in two lights, and pictures without a face."""
    root, rng = tmp_path_factory.mktemp("portraits"), np.random.default_rng(0)
    portrait = cv2.cvtColor(photograph(), cv2.COLOR_BGR2GRAY)
    for number in range(32):
        split, label = "train" if number < 20 else "validation", ("day", "night")[number % 2]
        x, y = rng.integers(130, 150), rng.integers(110, 130)
        image = portrait[y : y + 210, x : x + 210] // (1 + 2 * (number % 2))
        if number % 10 == 4:
            image = np.full((210, 210), 90, np.uint8)
        file = root / "images" / split / label / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), image)
    for number in range(8):
        file = root / "blank" / "train" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.full((60, 60), 20 * number, np.uint8))
    for name, source in (("portraits", "images"), ("blank", "blank")):
        make_builder(f"folder/{name}", source=root / source, data_dir=root / "tfds").prepare()
    return root / "tfds"


def test_crops_are_of_the_images_in_which_a_face_is_found(data_dir):
    split = data.load("folder/portraits", "train", image_size=32, data_dir=data_dir)
    crops = training_crops("haar", "folder/portraits", 32, data_dir)
    empty = [i for i, image in enumerate(split.images) if np.ptp(image) == 0]
    assert len(empty) == 2
    assert sorted([*crops.index, *empty]) == list(range(20))
    for image, index in zip(crops.images, crops.index, strict=True):
        assert abs(image.mean() - split.images[index].mean()) < 25  # in the light of its own image
    clean, hurt = validation_crops("haar", "folder/portraits", 32, data_dir)
    assert len(hurt) == sum(each.common for each in CORRUPTIONS)
    assert {images.shape for images in hurt} == {clean.images.shape}


@pytest.mark.slow
def test_the_epoch_is_chosen_by_the_score_of_found_faces(data_dir, tmp_path):
    config = TrainConfig(
        dataset="folder/portraits",
        data_dir=data_dir,
        output=tmp_path,
        epochs=2,
        batch_size=4,
        image_size=32,
        average=0.5,
        detector="haar",
        corrupt=0.5,
    )
    loaded = pretrained.load(train(config))
    detector = make_detector("haar")
    images = data.load("folder/portraits", "validation", image_size=SIDE, data_dir=data_dir).images
    split = data.load("folder/portraits", "validation", image_size=32, data_dir=data_dir)
    result = measure(
        lambda images: predict_logits(loaded.model, loaded.variables, images),
        find_faces(images, detector),
        split.labels,
        {},
        detector,
        margin=loaded.info.crop_margin,
        size=32,
    )
    assert loaded.info.accuracy["validation"] == pytest.approx(result.score, abs=1e-6)


def test_a_dataset_without_a_face_is_refused(data_dir):
    with pytest.raises(FaceflaxError, match=r"detector: 'haar' finds a face in none of the 8 images of folder/blank"):
        training_crops("haar", "folder/blank", 32, data_dir)


def test_a_detector_that_is_none_is_refused(data_dir, tmp_path):
    with pytest.raises(FaceflaxError, match="detector: unknown 'hare'"):
        train(TrainConfig(dataset="folder/portraits", data_dir=data_dir, output=tmp_path, detector="hare"))
