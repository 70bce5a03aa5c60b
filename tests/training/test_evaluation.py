"""Evaluation against counts by hand, batches against one call, the picture's contents, and the command's bad inputs."""

from __future__ import annotations

import runpy
from pathlib import Path

import cv2
import flax.linen as nn
import jax
import numpy as np
import pytest

from faceflax import data, models, pretrained
from faceflax.data.loading import make_builder
from faceflax.errors import FaceflaxError
from faceflax.preprocessing import normalize
from faceflax.training.evaluation import confusion_figure, evaluate, predict_logits

COMMAND = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts/evaluate.py"))
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
    found = predict_logits(model, variables, images, batch_size=2)
    np.testing.assert_allclose(found, model.apply(variables, normalize(images))[0], rtol=1e-4, atol=1e-5)


def test_flip_is_the_mean_over_an_image_and_its_mirror_image(linear, images):
    model, variables = linear
    plain, mirrored = (model.apply(variables, normalize(view))[0] for view in (images, images[:, :, ::-1]))
    found = predict_logits(model, variables, images, flip=True)
    np.testing.assert_allclose(found, (plain + mirrored) / 2, rtol=1e-4, atol=1e-5)
    assert not np.allclose(plain, mirrored, rtol=1e-1)


def test_an_empty_split_is_refused(linear):
    with pytest.raises(FaceflaxError, match="images: there are none"):
        predict_logits(*linear, np.zeros((0, 32, 32, 1), np.uint8))


def test_the_picture_has_every_share_name_and_number_of_images(found):
    figure = confusion_figure(found, "mine on folder test")
    axes = figure.axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(c, r): f"{100 * found.confusion[r, c]:.0f}" for r in range(3) for c in range(3)}
    assert [label.get_text() for label in axes.get_xticklabels()] == list(NAMES)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["angry (4)", "happy (2)", "sad (2)"]
    assert figure.get_suptitle() == "mine on folder test"
    np.testing.assert_allclose(axes.images[0].get_array(), 100 * found.confusion)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A prepared ``folder`` dataset whose test split has 2, 3 and 1 pictures of the classes a, b and c."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(2)
    for split in ("train", "validation", "test"):
        for name, count in (("a", 2), ("b", 3), ("c", 1)):
            (root / "source" / split / name).mkdir(parents=True)
            for i in range(count):
                picture = rng.integers(0, 256, (32, 32), np.uint8)
                cv2.imwrite(str(root / "source" / split / name / f"{i}.png"), picture)
    make_builder("folder", source=root / "source", data_dir=root).prepare()
    return root


@pytest.fixture
def run(tmp_path, network, data_dir):
    """Calls the command with weights of the classes given."""
    weights = tmp_path / "mine.safetensors"

    def call(labels, **options):
        pretrained.save(weights, network[1], arch="mini_xception", dataset="folder", labels=labels, image_size=32)
        defaults = {"data_dir": data_dir, "output": tmp_path / "out" / "confusion.png"}
        COMMAND["main"](COMMAND["Options"](str(weights), "folder", **defaults | options))

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


def test_a_dataset_with_other_classes_is_refused(tmp_path, run):
    with pytest.raises(FaceflaxError, match=r"--dataset: folder has the classes a, b, c, but .* has c, b, a"):
        run(("c", "b", "a"))
    assert not (tmp_path / "out" / "confusion.png").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [("x.foo", "is not a picture"), ("occupied/x.png", "cannot write into"), ("folder.png", "cannot write")],
)
def test_a_picture_that_cannot_be_written_is_refused_before_the_work(tmp_path, output, message):
    (tmp_path / "occupied").write_text("")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(FaceflaxError, match=f"^--output: .*{message}"):
        COMMAND["main"](COMMAND["Options"]("no such weights", "folder", output=tmp_path / output))
