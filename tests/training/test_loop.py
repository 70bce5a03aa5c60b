"""Whole training runs on a small folder of synthetic faces: what they leave behind, resume, and what they refuse."""

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from faceflax import FaceflaxError, data, files, pretrained
from faceflax.data.augment import Augmentation
from faceflax.data.loading import make_builder
from faceflax.labels import EMOTIONS
from faceflax.preprocessing import normalize
from faceflax.training.checkpoints import RECORD, SUMS, _sums
from faceflax.training.config import TrainConfig
from faceflax.training.loop import _shares, train
from faceflax.training.run import check_finite

CLASSES = ("happy", "surprise")


@pytest.fixture(scope="module")
def data_dir(faces):
    """The set of the folder's own fixture."""
    return faces


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
            warmup_epochs=0.5,
            average=0.9,
            mixup=0.2,
            augmentation=Augmentation(erase=0.2),
        ),
        **changes,
    )


@pytest.fixture(scope="module")
def late_compilations():
    """Seconds of each compilation in the run after its first epoch."""
    return []


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory, late_compilations):
    """The settings and the weights of a finished run."""
    settings = config(data_dir, tmp_path_factory.mktemp("run"))

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration" and (settings.output / "metrics.csv").exists():
            late_compilations.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        return settings, train(settings)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_run_leaves_weights_metrics_curves_and_events(run):
    settings, weights = run
    model, variables = pretrained.load(weights)
    info = pretrained.weights_info(weights)
    assert (info.arch, info.dataset, info.labels, info.image_size) == ("mini_xception", "folder/faces", CLASSES, 32)
    rows = rows_of(settings.output)
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3]
    assert info.accuracy["validation"] == max(float(row["validation_accuracy"]) for row in rows)
    assert float(rows[-1]["validation_loss"]) < float(rows[0]["validation_loss"])
    assert cv2.imread(str(settings.output / "curves.png")).std() > 10
    assert list(settings.output.glob("events.out.tfevents.*"))
    logits, _ = model.apply(variables, np.zeros((1, 32, 32, 1), np.float32))
    assert np.isfinite(logits).all()


def test_nothing_compiles_after_the_first_epoch(run, late_compilations):
    assert not late_compilations


def test_the_averaged_weights_are_what_is_validated_and_saved(run, data_dir):
    settings, weights = run
    model, variables = pretrained.load(weights)
    examples = data.load("folder/faces", "validation", image_size=32, data_dir=data_dir)
    logits = np.asarray(jax.jit(model.apply)(variables, normalize(examples.images))[0], np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(32), examples.labels]
    best = max(rows_of(settings.output), key=lambda row: float(row["validation_accuracy"]))
    assert float(best["validation_accuracy"]) == pytest.approx((logits.argmax(1) == examples.labels).mean())
    assert float(best["validation_loss"]) == pytest.approx(losses.mean(), rel=1e-4)
    # Running statistics would still be near their start, a variance of 1; the first layer's are small.
    statistics = variables["batch_stats"]["stem1_bn"]
    images = data.load("folder/faces", "train", image_size=32, data_dir=data_dir).images
    kernel = np.asarray(variables["params"]["stem1"]["kernel"], np.float64)[:, :, 0]
    views = np.lib.stride_tricks.sliding_window_view(np.asarray(normalize(images))[..., 0], (3, 3), axis=(1, 2))
    outputs = np.einsum("nhwij,ijc->nhwc", views, kernel)
    np.testing.assert_allclose(statistics["mean"], outputs.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(statistics["var"], outputs.var((0, 1, 2)), rtol=1e-3)


@pytest.mark.slow
def test_two_epochs_of_the_synthetic_faces_do_not_end_at_chance_on_validation(tmp_path):
    """Running statistics of so few steps are still near their start, and then every answer is the same class."""
    settings = TrainConfig(dataset="synthetic", data_dir=tmp_path, output=tmp_path / "run", epochs=2)
    info = pretrained.weights_info(train(settings))
    last = rows_of(tmp_path / "run")[-1]
    assert info.accuracy["validation"] > 2.5 / len(EMOTIONS)
    assert float(last["validation_accuracy"]) > float(last["train_accuracy"]) - 0.1


@pytest.mark.slow
def test_soft_labels_take_the_place_of_hard_ones_by_their_weight(data_dir, tmp_path):
    labels = data.load("folder/faces", "train", image_size=32, data_dir=data_dir).labels
    smooth = np.float32([[0.95, 0.05], [0.05, 0.95]])[labels]
    np.save(tmp_path / "smooth.npy", smooth)
    plain = config(data_dir, tmp_path / "hard", epochs=1, label_smoothing=0.1)
    train(plain)
    soft = dict(soft_labels=tmp_path / "smooth.npy", soft_weight=1.0, label_smoothing=0.0)
    train(dataclasses.replace(plain, output=tmp_path / "soft", **soft))
    (first,), (second,) = (rows_of(tmp_path / name) for name in ("hard", "soft"))
    assert float(first["train_loss"]) == pytest.approx(float(second["train_loss"]), rel=1e-4)
    np.save(tmp_path / "short.npy", smooth[1:])
    with pytest.raises(FaceflaxError, match=r"soft_labels: .* holds float32 \(95, 2\), .* needs float32 \(96, 2\)"):
        train(config(data_dir, tmp_path / "none", soft_labels=tmp_path / "short.npy"))


def test_resumed_run_ends_where_an_uninterrupted_one_does(run, data_dir, tmp_path):
    settings, weights = run
    short = config(data_dir, tmp_path, stop_after=1)
    train(short)
    resumed = train(dataclasses.replace(short, stop_after=None, resume=True))
    histories = [(folder / "metrics.csv").read_text().splitlines() for folder in (settings.output, tmp_path)]
    for first, second in zip(*map(csv.reader, histories), strict=True):
        assert first[:-1] == second[:-1]  # all but images per second
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(weights)[1], pretrained.load(resumed)[1])


@pytest.mark.slow
def test_stops_early_when_validation_stands_still(data_dir, tmp_path):
    settings = config(data_dir, tmp_path, epochs=9, learning_rate=0.0, stop_patience=2)
    weights = train(settings)  # at rate 0 nothing is learnt
    accuracies = [float(row["validation_accuracy"]) for row in rows_of(tmp_path)]
    best = accuracies.index(max(accuracies))
    assert len(accuracies) == min(best + 3, 9)
    assert pretrained.weights_info(weights).accuracy["validation"] == accuracies[best]


def test_stopping_after_an_epoch_leaves_the_schedule_alone(data_dir, tmp_path):
    settings = config(data_dir, tmp_path, epochs=4, stop_after=1, warmup_epochs=0.0)
    train(settings)
    (row,) = rows_of(tmp_path)
    steps = 96 // 16
    last = 0.5 * 3e-3 * (1 + np.cos(np.pi * (steps - 1) / (4 * steps)))  # of the first of four epochs
    assert float(row["learning_rate"]) == pytest.approx(last, rel=0.02)


def test_init_weights_start_from_another_run(run, data_dir, tmp_path):
    _, weights = run
    still = config(data_dir, tmp_path, epochs=1, learning_rate=0.0, init_weights=str(weights))
    _, variables = pretrained.load(train(still))
    same = partial(np.testing.assert_allclose, rtol=1e-5)  # an average of equal numbers is rounded
    jax.tree.map(same, variables["params"], pretrained.load(weights)[1]["params"])


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
        ({}, "output: .* holds an earlier run; continue it with resume"),
        ({"resume": True, "learning_rate": 0.5}, "learning_rate: 0.5 differs from the run's 0.003"),
        (
            {"resume": True, "augmentation": Augmentation(erase=0.2, zoom=0.3)},
            r"zoom: 0\.3 differs from the run's 0.1 in .*; resume with the same",
        ),
        ({"arch": "resnet"}, "arch: unknown 'resnet'; choose one of: mini_xception, sequential_cnn, vgg"),
    ],
)
def test_refuses_to_disturb_a_run(run, changes, message):
    settings, weights = run
    before = weights.read_bytes()
    with pytest.raises(FaceflaxError, match=message):
        train(dataclasses.replace(settings, **changes))
    assert weights.read_bytes() == before


def test_refuses_what_cannot_start(data_dir, tmp_path):
    with pytest.raises(FaceflaxError, match=r"resume: .* holds no run"):
        train(config(data_dir, tmp_path / "none", resume=True))
    with pytest.raises(FaceflaxError, match="batch_size: 97 is more than the 96 training images"):
        train(config(data_dir, tmp_path, batch_size=97))
    with pytest.raises(FaceflaxError, match=r"dropout: 0\.2 is of no use: mini_xception has no dropout; leave it out"):
        train(config(data_dir, tmp_path, dropout=0.2))
    with pytest.raises(FaceflaxError, match="balance: unknown 'age'"):
        train(config(data_dir, tmp_path, balance=("age",)))
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(FaceflaxError, match="output: cannot write into"):
        train(config(data_dir, blocked / "run"))


def test_groups_are_drawn_by_the_root_of_their_size():
    """Groups of 1, 4 and 16 faces, divided by a label of two classes: in all 1, 2 and 4 times as often as the first."""
    age = np.repeat([0, 1, 2], [2, 8, 32])
    examples = data.Examples(
        images=np.zeros((42, 8, 8, 1), np.uint8),
        labels=np.arange(42) % 2,
        names=("woman", "man"),
        label="gender",
        attributes={"age": (("a", "b", "c"), age)},
        ids=tuple(map(str, range(42))),
        split="train",
        skipped=0,
    )
    shares = _shares(examples, TrainConfig(balance=("age",)))
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose([shares[age == i].sum() for i in range(3)], np.array([1, 2, 4]) / 7)
    np.testing.assert_allclose(shares[examples.labels == 0].sum(), 0.5)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_which_goes_on_with_a_lower_rate(data_dir, tmp_path):
    settings = config(data_dir, tmp_path, epochs=1)
    train(settings)
    checkpoint = tmp_path / "checkpoints" / "6"
    record = json.loads((checkpoint / RECORD).read_text())
    record["settings"]["learning_rate"] = 1e30  # as if the run had begun with it
    (checkpoint / RECORD).write_text(json.dumps(record))
    (checkpoint / SUMS).write_bytes(_sums(checkpoint))
    message = (
        r"learning_rate: with 1e\+30 the loss became nan in epoch 2; resume with a lower one, .* of step 6, or with"
    )
    with pytest.raises(FaceflaxError, match=message):
        train(dataclasses.replace(settings, epochs=2, resume=True, learning_rate=1e30))
    assert [place.name for place in checkpoint.parent.iterdir()] == ["6"]
    pretrained.load(train(dataclasses.replace(settings, epochs=1, resume=True, learning_rate=1e30)))
    pretrained.load(train(dataclasses.replace(settings, epochs=2, resume=True)))
    assert [row["epoch"] for row in rows_of(tmp_path)] == ["1", "2"]


@pytest.mark.parametrize(
    ("given", "names"),
    [({"init_weights": "a"}, "init_weights"), ({"init_weights": "a", "teachers": ("b",)}, "init_weights and teachers")],
)
def test_other_weights_may_be_the_reason_that_the_loss_is_none(given, names, tmp_path):
    message = (
        rf"learning_rate: .* a lower one or without {names}, which may give no numbers \(there is no checkpoint yet"
    )
    with pytest.raises(FaceflaxError, match=message):
        check_finite(float("nan"), 1, config(None, tmp_path, **given))


def test_a_loss_that_is_not_finite_in_the_first_epoch_says_that_nothing_is_kept(data_dir, tmp_path):
    with pytest.raises(FaceflaxError, match=r"became nan in epoch 1; .* \(there is no checkpoint yet\)"):
        train(config(data_dir, tmp_path, learning_rate=1e30, warmup_epochs=0.0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 1),
        ("average", 1.0),
        ("dropout", 1.0),
        ("label_smoothing", -0.1),
        ("mixup", -1.0),
        ("consistency", -1.0),
        ("weight_decay", float("nan")),
        ("weight_decay", 101.0),
        ("soft_weight", 1.1),
        ("teacher_weight", -1.0),
    ],
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(FaceflaxError, match=f"^{field}: {value} is "):
        TrainConfig(**{field: value})


def test_views_of_blends_are_not_compared():
    with pytest.raises(FaceflaxError, match=r"^consistency: 2.0 would compare blends"):
        TrainConfig(consistency=2.0, mixup=0.2)


def test_a_run_of_a_version_with_other_settings_or_checkpoints_is_not_resumed(run, tmp_path):
    settings, _ = run
    message = r"^resume: the run in .* was started by another version of faceflax"
    for name in ("settings", "layout"):
        shutil.copytree(settings.output, tmp_path / name)
        place = tmp_path / name / "checkpoints" / "18"
        if name == "settings":
            record = json.loads((place / RECORD).read_text())
            record["settings"] |= record["settings"].pop("augmentation") | {"focal": 0.0}
            (place / RECORD).write_text(json.dumps(record | {"settings": record["settings"] | {"augmentation": {}}}))
            (place / SUMS).write_bytes(_sums(place))
        else:
            (place / RECORD).unlink()
            (place / "history").mkdir()
        with pytest.raises(FaceflaxError, match=message):
            train(dataclasses.replace(settings, output=tmp_path / name, resume=True))


def test_two_trainings_do_not_share_a_folder(data_dir, tmp_path):
    with (tmp_path / ".lock").open("ab") as file:
        assert files.lock(file)
        with pytest.raises(FaceflaxError, match=r"^output: .* is being written by another run; wait"):
            train(config(data_dir, tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew_or_resumes(data_dir, tmp_path):
    (tmp_path / "config.json").write_text("")
    (tmp_path / "checkpoints" / ".1.partial").mkdir(parents=True)
    weights = train(config(data_dir, tmp_path, epochs=1, resume=True))
    pretrained.load(weights)
    assert not list(tmp_path.glob("checkpoints/.*"))


def test_data_that_changed_is_refused(run, data_dir, tmp_path):
    settings, _ = run
    images = data_dir.parent / "images"
    other = tmp_path / "images"
    shutil.copytree(images, other)
    happy = sorted((other / "train" / "happy").iterdir())
    happy[0].rename(other / "train" / "surprise" / "moved.png")
    make_builder("folder/faces", source=other, data_dir=tmp_path / "tfds").prepare()
    again = dataclasses.replace(settings, data_dir=tmp_path / "tfds", resume=True, epochs=4)
    with pytest.raises(FaceflaxError, match=r"^dataset: 'folder/faces' has changed since the run in .* began"):
        train(again)
    (other / "train" / "sad").mkdir()
    happy[1].rename(other / "train" / "sad" / "moved.png")
    make_builder("folder/faces", source=other, data_dir=tmp_path / "tfds").prepare()
    with pytest.raises(FaceflaxError, match=r"has the classes happy, sad, surprise; the run's are happy, surprise"):
        train(again)


def test_the_command_line_spells_the_augmentation_flat(tmp_path):
    script = Path(__file__).parents[2] / "scripts/train.py"
    command = [sys.executable, script, "--dataset", "synthetic", "--output", tmp_path, "--no-flip", "--rotation", "181"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: --rotation: 181.0 is not usable; give degrees in [0, 180]\n"
