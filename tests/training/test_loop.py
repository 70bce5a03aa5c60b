"""Whole training runs on a small folder of drawn faces: what they leave behind, resume, and what they refuse."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from faceflax import FaceflaxError, data, pretrained
from faceflax.data.loading import make_builder
from faceflax.data.synthetic import render_faces
from faceflax.labels import EMOTIONS
from faceflax.preprocessing import normalize
from faceflax.training.config import TrainConfig
from faceflax.training.loop import cuts, train

CLASSES = ("happy", "surprise")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A prepared ``folder/faces`` of 96 training, 32 validation and 32 test faces."""
    root = tmp_path_factory.mktemp("faces")
    wanted = [EMOTIONS.index(name) for name in CLASSES]
    faces = render_faces(600, seed=5, image_size=32)
    chosen = [i for i in range(600) if faces.emotions[i] in wanted][:160]
    for number, i in enumerate(chosen):
        split = "train" if number < 96 else "validation" if number < 128 else "test"
        file = root / "pictures" / split / EMOTIONS[faces.emotions[i]] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), faces.images[i])
    make_builder("folder/faces", source=root / "pictures", data_dir=root / "tfds").prepare()
    return root / "tfds"


def rows_of(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def config(data_dir, output, **changes):
    return dataclasses.replace(
        TrainConfig(
            dataset="folder/faces",
            data_dir=data_dir,
            output=output,
            epochs=3,
            batch_size=16,
            image_size=32,
            learning_rate=3e-3,
            schedule="plateau",
            warmup_epochs=0.5,
        ),
        **changes,
    )


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """The settings and the weights of a finished run."""
    settings = config(data_dir, tmp_path_factory.mktemp("run"))
    return settings, train(settings)


def test_run_leaves_weights_metrics_curves_and_events(run):
    settings, weights = run
    model, variables = pretrained.load(weights)
    info = pretrained.weights_info(weights)
    assert (info.arch, info.dataset, info.labels, info.image_size) == ("mini_xception", "folder/faces", CLASSES, 32)
    rows = rows_of(settings.output)
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3]
    assert info.accuracy["validation"] == max(float(row["validation_accuracy"]) for row in rows)
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert cv2.imread(str(settings.output / "curves.png")).std() > 10
    assert list(settings.output.glob("events.out.tfevents.*"))
    logits, _ = model.apply(variables, np.zeros((1, 32, 32, 1), np.float32))
    assert np.isfinite(logits).all()


def test_resumed_run_ends_where_an_uninterrupted_one_does(run, data_dir, tmp_path):
    settings, weights = run
    short = config(data_dir, tmp_path, epochs=1)
    train(short)
    resumed = train(dataclasses.replace(short, epochs=3, resume=True))
    histories = [(folder / "metrics.csv").read_text().splitlines() for folder in (settings.output, tmp_path)]
    for first, second in zip(*map(csv.reader, histories), strict=True):
        assert first[:-1] == second[:-1]  # all but images per second
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(weights)[1], pretrained.load(resumed)[1])


def test_stops_early_when_validation_stands_still(data_dir, tmp_path):
    settings = config(data_dir, tmp_path, epochs=9, learning_rate=0.0, stop_patience=2)
    weights = train(settings)  # at rate 0 only BatchNorm's statistics move; nothing can be learnt for long
    accuracies = [float(row["validation_accuracy"]) for row in rows_of(tmp_path)]
    best = accuracies.index(max(accuracies))
    assert len(accuracies) == min(best + 3, 9)
    assert pretrained.weights_info(weights).accuracy["validation"] == accuracies[best]


def test_init_weights_start_from_another_run(run, data_dir, tmp_path):
    _, weights = run
    still = config(data_dir, tmp_path, epochs=1, learning_rate=0.0, init_weights=str(weights))
    _, variables = pretrained.load(train(still))
    jax.tree.map(np.testing.assert_array_equal, variables["params"], pretrained.load(weights)[1]["params"])


def test_export_names_a_run_with_its_accuracies_and_the_best_temperature(run, data_dir, tmp_path):
    _, weights = run
    script = Path(__file__).parents[2] / "scripts/export.py"
    arguments = [weights, "mini_xception-faces", "--output-dir", tmp_path, "--data-dir", data_dir]
    subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True)
    exported = pretrained.weights_info(tmp_path / "mini_xception-faces.safetensors")
    model, variables = pretrained.load(tmp_path / "mini_xception-faces.safetensors")
    logits = {}
    for split in ("validation", "test"):
        examples = data.load("folder/faces", split, image_size=32, data_dir=data_dir)
        logits[split] = np.asarray(jax.jit(model.apply)(variables, normalize(examples.images))[0], np.float64)
        right = logits[split].argmax(1) == examples.labels
        assert exported.accuracy[split] == pytest.approx(right.mean())
        if split == "validation":
            labels = examples.labels

    def cross_entropy(temperature):
        scaled = logits["validation"] / temperature
        return (np.log(np.exp(scaled).sum(1)) - scaled[np.arange(32), labels]).mean()

    best = cross_entropy(exported.temperature)
    assert all(best <= cross_entropy(other * exported.temperature) for other in (0.8, 0.97, 1.03, 1.25))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "--output: .* holds an earlier run; go on with it with --resume"),
        ({"resume": True, "learning_rate": 0.5}, "--learning-rate: 0.5 differs from the run's 0.003"),
        ({"arch": "resnet"}, "--arch: unknown 'resnet'; choose one of: mini_xception, sequential_cnn"),
    ],
)
def test_refuses_to_disturb_a_run(run, changes, message):
    settings, weights = run
    before = weights.read_bytes()
    with pytest.raises(FaceflaxError, match=message):
        train(dataclasses.replace(settings, **changes))
    assert weights.read_bytes() == before


def test_refuses_what_cannot_start(data_dir, tmp_path):
    with pytest.raises(FaceflaxError, match=r"--resume: .* holds no run"):
        train(config(data_dir, tmp_path / "none", resume=True))
    with pytest.raises(FaceflaxError, match="--batch-size: 97 is more than the 96 training images"):
        train(config(data_dir, tmp_path, batch_size=97))
    with pytest.raises(FaceflaxError, match="--batch-size: 1 is too small; give 2 or more"):
        config(data_dir, tmp_path, batch_size=1)
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(FaceflaxError, match="--output: cannot write into"):
        train(config(data_dir, blocked / "run"))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(run, data_dir, tmp_path):
    settings = config(data_dir, tmp_path, epochs=1)
    train(settings)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace("0.003", "1e+30"))
    with pytest.raises(FaceflaxError, match=r"--learning-rate: with 1e\+30 the loss became nan in epoch 2"):
        train(dataclasses.replace(settings, epochs=2, resume=True, learning_rate=1e30))
    assert json.loads(file.read_text())["learning_rate"] == 1e30
    assert (tmp_path / "checkpoints" / "1").is_dir()


def test_cuts_follow_the_waiting_rule():
    assert cuts([], 2) == 0
    assert cuts([3.0, 2.0, 1.0], 1) == 0
    assert cuts([1.0, 1.0, 1.0, 1.0, 1.0], 2) == 2
    assert cuts([1.0, 2.0, 0.5, 2.0, 2.0], 2) == 1
