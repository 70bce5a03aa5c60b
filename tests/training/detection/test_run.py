"""A detector's whole training on a few photographs of synthetic faces: what it leaves, resume, what it refuses."""

from __future__ import annotations

import csv
import dataclasses
import zipfile

import cv2
import numpy as np
import pytest

from faceflax import pretrained
from faceflax.data.augment import Augmentation
from faceflax.data.loading import make_builder
from faceflax.data.synthetic import render_faces
from faceflax.errors import FaceflaxError
from faceflax.training.config import TrainConfig
from faceflax.training.loop import train


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A prepared ``faces`` of 24 training and 6 validation pictures, each with one face, and as many without."""
    root = tmp_path_factory.mktemp("faces")
    faces, rng = render_faces(30, seed=1, image_size=48).images, np.random.default_rng(0)
    rows = ["split,file,x,y,width,height,ignore,lx1,ly1,lx2,ly2,lx3,ly3,lx4,ly4,lx5,ly5"]
    with zipfile.ZipFile(root / "faces.zip", "w") as archive:
        for number, face in enumerate(faces):
            split = "train" if number < 24 else "validation"
            image = cv2.resize(rng.integers(0, 256, (5, 5), np.uint8), (120, 100), interpolation=cv2.INTER_CUBIC)
            for group in ("noface", "wider"):
                if group == "wider":
                    x, y = rng.integers(0, 50, 2)
                    image[y : y + 48, x : x + 48] = np.reshape(face, (48, 48))
                    box = f"{x + 6},{y + 4},36,42,0" + "," * 10
                else:
                    box = "," * 14
                name = f"{group}/{number:05}.webp"
                archive.writestr(name, cv2.imencode(".webp", image)[1].tobytes())
                rows.append(f"{split},{name},{box}")
        archive.writestr("boxes.csv", "\n".join(rows) + "\n")
    make_builder("faces", source=root / "faces.zip", data_dir=root / "tfds").prepare()
    return root / "tfds"


def config(data_dir, output, **changes):
    settings = TrainConfig(
        arch="face_detector",
        dataset="faces",
        data_dir=data_dir,
        output=output,
        epochs=2,
        batch_size=8,
        image_size=64,
        average=0.9,
    )
    return dataclasses.replace(settings, **changes)


def rows_of(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(data_dir, tmp_path):
    file = train(config(data_dir, tmp_path / "whole"))
    info = pretrained.weights_info(file)
    assert (info.arch, info.labels, info.image_size) == ("face_detector", ("face",), 64)
    rows = rows_of(tmp_path / "whole")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row["validation_accuracy"]) <= 1 for row in rows)
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])

    train(config(data_dir, tmp_path / "parts", stop_after=1))
    again = train(config(data_dir, tmp_path / "parts", resume=True))
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 48}, "image_size: 48 is not a multiple of 32"),
        ({"mixup": 0.2}, "mixup: 0.2 is of no use: face_detector finds faces and labels none"),
        ({"augmentation": Augmentation(erase=0.3)}, "augmentation: .* is of no use"),
        ({"teachers": ("no.onnx",)}, "teachers: there is no model file 'no.onnx'; download"),
        ({"teachers": ("a.onnx", "b.onnx")}, "teachers: 'a.onnx b.onnx' are several files; give one YuNet model"),
        ({"precision": "bfloat16"}, "precision: 'bfloat16' is not possible for a detector"),
        ({"batch_size": 500}, "batch_size: 500 is more than the 48 training images of faces"),
        ({"dataset": "synthetic"}, "dataset: 'synthetic' has no boxes of faces"),
        ({"arch": "mini_xception"}, "dataset: 'faces' has photographs with boxes, not faces with labels"),
    ],
)
def test_what_does_not_go_together_is_refused(data_dir, tmp_path, changes, message):
    with pytest.raises(FaceflaxError, match=message):
        train(config(data_dir, tmp_path / "run", **changes))
    assert not (tmp_path / "run" / "checkpoints").exists()
