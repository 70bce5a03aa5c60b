"""A small set of faces that trainings are tested on."""

import cv2
import pytest

from faceflax.data.loading import make_builder
from faceflax.data.synthetic import render_faces
from faceflax.labels import EMOTIONS

CLASSES = ("happy", "surprise")


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """A prepared ``folder/faces`` of 96 training, 32 validation and 32 test faces; its pictures are beside it."""
    root = tmp_path_factory.mktemp("faces")
    wanted = [EMOTIONS.index(name) for name in CLASSES]
    faces = render_faces(600, seed=5, image_size=32)
    chosen = [i for i in range(600) if faces.emotions[i] in wanted][:160]
    for number, i in enumerate(chosen):
        split = "train" if number < 96 else "validation" if number < 128 else "test"
        file = root / "images" / split / EMOTIONS[faces.emotions[i]] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), faces.images[i])
    make_builder("folder/faces", source=root / "images", data_dir=root / "tfds").prepare()
    return root / "tfds"
