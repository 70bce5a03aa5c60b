"""Evaluation against counts by hand, resampling and definitions; batches against one call; the command."""

from __future__ import annotations

import json

import cv2
import flax.linen as nn
import jax
import numpy as np
import pytest

from faceflax import data, models, pretrained
from faceflax.cli import evaluate as command
from faceflax.data.loading import make_builder
from faceflax.errors import FaceflaxError
from faceflax.evaluation import (
    Share,
    calibrate,
    evaluate,
    fit_temperature,
    group_shares,
    predict_logits,
    sure_from,
    worst,
)
from faceflax.preprocessing import normalize

NAMES = ("angry", "happy", "sad")
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2])
PREDICTED = np.array([0, 0, 0, 1, 1, 0, 1, 1])


@pytest.fixture(scope="module")
def network():
    model = models.create("mini_xception", 3)
    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda v: rng.uniform(0.1, 1, v.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 32, 32, 1), np.uint8)


@pytest.fixture
def found():
    return evaluate(np.eye(3)[PREDICTED] - 5, LABELS, NAMES)


def test_shares_are_those_counted_by_hand(found):
    assert found.accuracy == 4 / 8
    np.testing.assert_allclose(found.precision, [3 / 4, 1 / 4, 0])
    np.testing.assert_allclose(found.recall, [3 / 4, 1 / 2, 0])
    np.testing.assert_allclose(found.f1, [3 / 4, 1 / 3, 0])
    np.testing.assert_array_equal(found.support, [4, 2, 2])
    np.testing.assert_allclose(found.confusion, [[3 / 4, 1 / 4, 0], [1 / 2, 1 / 2, 0], [0, 1, 0]])


def test_a_class_without_images_has_an_empty_row():
    found = evaluate(np.eye(3)[[0, 1]], np.array([0, 1]), NAMES)
    assert found.accuracy == 1
    np.testing.assert_array_equal(found.confusion, np.diag([1, 1, 0]))
    np.testing.assert_array_equal(found.support, [1, 1, 0])


def test_when_no_image_is_right_there_is_a_table():
    found = evaluate(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([1, 0, 0]), ["a", "b"])
    assert (found.accuracy, found.support.tolist()) == (0.0, [2, 1])
    assert found.table().splitlines()[-1].split()[-1] == "3"


def test_table_has_a_line_for_each_class_and_their_means(found):
    lines = [line.split() for line in found.table().splitlines()]
    assert lines == [
        ["precision", "recall", "F1", "images"],
        ["angry", "75.0%", "75.0%", "75.0%", "4"],
        ["happy", "25.0%", "50.0%", "33.3%", "2"],
        ["sad", "0.0%", "0.0%", "0.0%", "2"],
        ["mean", "33.3%", "41.7%", "36.1%", "8"],
    ]


class Linear(nn.Module):
    """A network of the models' contract that compiles in no time and tells left from right."""

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(3)(images.reshape(len(images), -1)), {}


@pytest.fixture(scope="module")
def linear(images):
    return Linear(), Linear().init(jax.random.key(0), normalize(images))


def test_batches_give_what_one_call_does(linear, images):
    model, variables = linear
    found = predict_logits(model, variables, images)
    np.testing.assert_allclose(found, model.apply(variables, normalize(images))[0], rtol=1e-4, atol=1e-5)


def test_flip_is_the_mean_over_an_image_and_its_mirror_image(linear, images):
    model, variables = linear
    plain, mirrored = (model.apply(variables, normalize(view))[0] for view in (images, images[:, :, ::-1]))
    found = predict_logits(model, variables, images, flip=True)
    np.testing.assert_allclose(found, (plain + mirrored) / 2, rtol=1e-4, atol=1e-5)
    assert not np.allclose(plain, mirrored, rtol=1e-1)


def test_an_empty_split_is_refused(linear):
    with pytest.raises(FaceflaxError, match=r"images: .* holds none"):
        predict_logits(*linear, np.zeros((0, 32, 32, 1), np.uint8))


@pytest.mark.parametrize(("right", "count"), [(638, 1000), (3, 10), (40, 41)])
def test_the_interval_is_what_resampling_approaches(right, count):
    outcomes = np.arange(count) < right
    means = np.random.default_rng(0).choice(outcomes, (20_000, count)).mean(1)
    np.testing.assert_allclose(Share.of(outcomes).interval, np.percentile(means, [2.5, 97.5]), atol=1.01 / count)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    counts = np.random.default_rng(1).binomial(500, 0.7, 2000)
    intervals = np.array([Share(int(k), 500).interval for k in counts])
    covered = ((intervals[:, 0] <= 0.7) & (intervals[:, 1] >= 0.7)).mean()
    assert 0.93 < covered < 0.97


def test_shares_at_the_ends():
    assert Share(5, 5).interval == (1, 1)
    assert Share(0, 5).interval == (0, 0)
    assert (Share(0, 0).value, Share(0, 0).interval) == (0, (0, 1))
    assert str(Share(1, 3)) == "33.33% [0.00%, 100.00%]"


def test_calibration_is_that_of_the_definition():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(0, 2, (400, 3)), rng.integers(0, 3, 400)
    found = calibrate(logits.astype(np.float32), labels, temperature=1.5)
    bins = [[] for _ in range(15)]
    for row, label in zip(logits.astype(np.float32), labels, strict=True):
        p = np.exp(row / 1.5) / np.exp(row / 1.5).sum()
        bins[min(int(p.max() * 15), 14)].append((p.max(), p.argmax() == label))
    assert [len(inside) for inside in bins] == found.count.tolist()
    gaps = [abs(np.mean([c for c, _ in inside]) - np.mean([r for _, r in inside])) for inside in bins if inside]
    error = sum(gap * len(inside) for gap, inside in zip(gaps, filter(None, bins), strict=True)) / 400
    assert found.error == pytest.approx(error, rel=1e-5)


def test_a_certain_prediction_is_in_the_last_bin():
    found = calibrate(np.array([[0.0, 100.0]]), np.array([1]))
    assert found.count.tolist() == [0] * 14 + [1]
    assert found.error == 0


def test_the_fitted_temperature_lowers_the_calibration_error():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1.5, (4000, 4))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # drawn from softmax(logits)
    overconfident = 3 * logits
    temperature = fit_temperature(overconfident, labels)
    assert temperature == pytest.approx(3, rel=0.1)
    before, after = (calibrate(overconfident, labels, t).error for t in (1, temperature))
    assert after < 0.03 < 0.1 < before


def test_labels_from_the_threshold_on_are_right_often_enough_and_no_lower_one_would_do():
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2, (500, 3)).round(1)  # with ties
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    weights = rng.integers(1, 4, 500)
    found = sure_from(logits, labels, temperature=2.0, accuracy=0.8, weights=weights)
    again = sure_from(*(np.repeat(values, weights, axis=0) for values in (logits, labels)), 2.0, 0.8)
    assert found == pytest.approx(again)
    powers = np.exp(logits / 2.0)
    confidence = (powers / powers.sum(1, keepdims=True)).max(1)

    def right(threshold):
        sure = confidence >= threshold - 1e-12
        return np.average((logits.argmax(1) == labels)[sure], weights=weights[sure]), weights[sure].sum()

    share, count = right(found["confidence"])
    assert share == pytest.approx(found["accuracy"])
    assert count / weights.sum() == pytest.approx(found["coverage"])
    assert share >= 0.8
    assert all(right(lower)[0] < 0.8 for lower in np.unique(confidence[confidence < found["confidence"] - 1e-9]))


def test_a_network_that_is_never_right_is_never_sure():
    found = sure_from(np.array([[1.0, 0.0]] * 3), np.array([1, 1, 1]), temperature=1.0, accuracy=0.8)
    assert found == {"confidence": 1.0, "accuracy": 0.0, "coverage": 0.0}


def test_groups_are_counted_by_hand_and_the_worst_is_named():
    right = np.array([1, 1, 0, 1, 0, 0], bool)
    groups = group_shares(right, ("a", "none", "b"), np.array([0, 0, 0, 2, 2, 2]))
    assert groups == {"a": Share(2, 3), "b": Share(1, 3)}
    name, gap = worst(groups)
    assert name == "b"
    assert gap == pytest.approx(3 / 6 - 1 / 3)


def test_of_two_classes_each_group_is_divided_by_them():
    faces = data.render_faces(40, seed=3, image_size=32)
    examples = data.Examples(
        images=faces.images,
        labels=np.arange(40) % 2,
        ids=tuple(map(str, range(40))),
        names=("woman", "man"),
        label="gender",
        split="test",
        attributes={"age": (("young", "old"), np.arange(40) // 10 % 2)},
        skipped=0,
    )
    names, members = command._cells(examples, "age")
    assert names == ("young, woman", "young, man", "old, woman", "old, man")
    assert [names[i] for i in members[[0, 1, 10, 11, 20]]] == [*names, "young, woman"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A prepared ``folder`` dataset whose test split has 2, 3 and 1 images of the classes a, b and c."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(2)
    for split in ("train", "validation", "test"):
        for name, count in (("a", 2), ("b", 3), ("c", 1)):
            (root / "source" / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 256, (32, 32), np.uint8)
                cv2.imwrite(str(root / "source" / split / name / f"{i}.png"), image)
    make_builder("folder", source=root / "source", data_dir=root).prepare()
    return root


@pytest.fixture
def run(tmp_path, network, data_dir):
    """Calls the command with weights of the classes given."""
    weights = tmp_path / "mine.safetensors"

    def call(labels, **options):
        pretrained.save(weights, network[1], arch="mini_xception", dataset="folder", labels=labels, image_size=32)
        defaults = {"data_dir": data_dir, "output": tmp_path / "out" / "confusion.png"}
        command.main(command.Options(str(weights), "folder", **defaults | options))

    return call


def test_the_command_prints_the_table_and_draws_the_matrix(tmp_path, network, data_dir, run, capsys):
    run(("a", "b", "c"), split="test")
    examples = data.load("folder", "test", image_size=32, data_dir=data_dir)
    logits = predict_logits(*network, examples.images)
    expected = evaluate(logits, examples.labels, "abc")
    printed = capsys.readouterr().out
    assert f"accuracy {expected.accuracy:.2%} of 6 images" in printed
    assert expected.table() in printed
    assert cv2.imread(str(tmp_path / "out" / "confusion.png")).shape[0] > 300


def test_the_report_and_what_is_printed_agree(tmp_path, network, data_dir, run, capsys):
    examples = data.load("folder", "test", image_size=32, data_dir=data_dir)
    (tmp_path / "without.json").write_text(json.dumps([examples.ids[0], examples.ids[3], "elsewhere.png"]))
    run(
        ("a", "b", "c"),
        flip=True,
        detector="haar",
        without=tmp_path / "without.json",
        report=tmp_path / "out" / "report",
    )
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = json.loads((tmp_path / "out" / "report" / "metrics.json").read_text())
    page = (tmp_path / "out" / "report" / "index.html").read_text()

    logits = {flip: predict_logits(*network, examples.images, flip=flip) for flip in (False, True)}
    right = {flip: logits[flip].argmax(1) == examples.labels for flip in logits}
    kept = np.array([False, True, True, False, True, True])
    expected = {
        "single crop": right[False],
        "flip averaged": right[True],
        "single crop, without 2 rows": right[False][kept],
        "flip averaged, without 2 rows": right[True][kept],
    }
    for name, outcomes in expected.items():
        share = Share.of(outcomes)
        assert found["accuracy"][name] | {"interval": None} == {
            "share": share.value,
            "interval": None,
            "right": share.right,
            "count": share.count,
        }
        assert [*name.split(), *str(share).split(), str(share.count), "images"] in printed
        assert name in page
    assert found["accuracy"]["detector: face found"]["count"] == 6
    assert found["groups"]["label"]["b"]["right"] == right[True][examples.labels == 1].sum()
    errors = found["expected_calibration_error"]
    assert errors["softmax"] == calibrate(logits[True], examples.labels).error
    assert (found["images"], found["skipped"], found["flip"]) == (6, 0, True)
    assert "perceived" in page
    assert "This is the test split" in page
    assert sorted(file.name for file in (tmp_path / "out" / "report").iterdir()) == ["index.html", "metrics.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("{", "cannot read"),
        ('{"rows": [1]}', "is not a JSON list"),
        ("[1.5]", "is not a JSON list"),
        ("[28709]", "names none of the rows of folder test, such as 'test/"),
        ("everything", "names all of the rows of folder test"),
    ],
)
def test_a_list_of_rows_that_does_not_fit_is_refused(content, message, tmp_path, data_dir, run):
    file = tmp_path / "without.json"
    if content == "everything":
        content = json.dumps(data.load("folder", "test", image_size=32, data_dir=data_dir).ids)
    if content is not None:
        file.write_text(content)
    with pytest.raises(FaceflaxError, match=f"^without: .*{message}"):
        run(("a", "b", "c"), without=file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"robustness": True}, "dataset: has no face that the detector finds, in 6 images"),
        ({"robustness": True, "corruptions": ("blurr",)}, "corruptions: unknown 'blurr'; choose one of: small-24"),
        ({"corruptions": ("blur",)}, "corruptions: 'blur' is of no use without --robustness; add it"),
        ({"detector": "hare"}, "detector: unknown 'hare'"),
    ],
)
def test_what_cannot_be_measured_through_a_detector_is_said(options, message, run):
    with pytest.raises(FaceflaxError, match=f"^{message}"):
        run(("a", "b", "c"), **options)


def test_a_report_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "occupied").write_text("")
    with pytest.raises(FaceflaxError, match=r"^report: .*cannot write into"):
        command.main(
            command.Options(
                "no such weights", "folder", output=tmp_path / "x.png", report=tmp_path / "occupied" / "report"
            )
        )


def test_a_dataset_with_other_classes_is_refused(tmp_path, run):
    with pytest.raises(FaceflaxError, match=r"dataset: 'folder' has the classes a, b, c, but .* have c, b, a"):
        run(("c", "b", "a"))
    assert not (tmp_path / "out" / "confusion.png").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [("x.foo", "is not an image file"), ("occupied/x.png", "cannot write into"), ("folder.png", "cannot write")],
)
def test_a_figure_that_cannot_be_written_is_refused_before_the_work(tmp_path, output, message):
    (tmp_path / "occupied").write_text("")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(FaceflaxError, match=f"^output: .*{message}"):
        command.main(command.Options("no such weights", "folder", output=tmp_path / output))
