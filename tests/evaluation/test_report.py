"""The report's page is whole and safe HTML, its numbers are those given, and its images show them."""

from __future__ import annotations

import base64
import dataclasses
import json
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from faceflax.data import Examples
from faceflax.evaluation import Share, calibrate, evaluate, group_shares
from faceflax.evaluation.corruptions import CORRUPTIONS, chosen
from faceflax.evaluation.report import (
    Report,
    confusion_figure,
    corruptions_figure,
    groups_figure,
    metrics,
    most_confident_mistakes,
    page,
    reliability_figure,
    write,
)
from faceflax.evaluation.robustness import Robustness, Row

NAMES = ("angry", "happy", "sad")
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2], np.int32)
PREDICTED = np.array([0, 0, 0, 1, 1, 0, 1, 1])
VOID = {"img", "meta", "br"}


@pytest.fixture
def found():
    return evaluate(np.eye(3)[PREDICTED] - 5, LABELS, NAMES)


@pytest.fixture
def examples():
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 1), np.uint8)
    return Examples(images, LABELS, NAMES, "emotion", {}, tuple(f"row<{i}>" for i in range(8)), "test", 0)


@pytest.fixture
def report(found, examples):
    logits = np.eye(3)[PREDICTED] * np.arange(1, 9)[:, None] / 4
    right = PREDICTED == LABELS
    return Report(
        title="mine & <yours> on folder test",
        remarks=["It is <perceived>."],
        accuracy={"single crop": Share.of(right)},
        evaluation=found,
        groups={"emotion": group_shares(right, NAMES, LABELS)},
        calibration={"softmax": calibrate(logits, LABELS), "temperature 0.5": calibrate(logits, LABELS, 0.5)},
        mistakes=most_confident_mistakes(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), examples),
        facts={"weights": "mine", "images": 8},
    )


@pytest.fixture
def robustness():
    blur, mask = chosen(["blur", "mask"])
    rows = Row(blur, Share(2, 4), Share(4, 4), Share(1, 4)), Row(mask, Share(1, 4), Share(3, 4), Share(2, 4))
    groups = {"emotion": {"angry": (Share(2, 2), Share(1, 2)), "sad": (Share(1, 2), Share(1, 2))}}
    return Robustness(Share(4, 8), Share(3, 4), rows, {"mirrored": Share(1, 4)}, (0.125, 0.25), groups)


class Page(HTMLParser):
    """Collects elements and fails where tags are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.text, self.tags = [], [], "", []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_needs_no_other_file(report):
    text = page(report)
    assert text.startswith("<!DOCTYPE html>")
    parsed = Page(text)
    assert parsed.tags.count("h1") == 1
    assert parsed.tags.count("h2") == 6
    assert "mine & <yours> on folder test" in parsed.text
    assert "It is <perceived>." in parsed.text
    assert "http" not in text
    assert "src=" in text
    for image in parsed.images:
        kind, _, content = image["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_GRAYSCALE) is not None
        assert image["alt"]
    assert len(parsed.images) == 3 + 4  # confusion, groups, calibration, and every mistake


def test_mistakes_are_the_most_confident_first_with_their_own_images(report, examples):
    assert [m.identity for m in report.mistakes] == ["row<7>", "row<6>", "row<5>", "row<3>"]
    assert [(m.label, m.predicted) for m in report.mistakes[:3]] == [
        ("sad", "happy"),
        ("sad", "happy"),
        ("happy", "angry"),
    ]
    np.testing.assert_array_equal(report.mistakes[0].image, examples.images[7])
    assert report.mistakes[0].probability == pytest.approx(np.e**2 / (np.e**2 + 2))
    first = Page(page(report)).images[3]
    image = cv2.imdecode(np.frombuffer(base64.b64decode(first["src"].partition(",")[2]), np.uint8), 0)
    np.testing.assert_array_equal(image, examples.images[7, :, :, 0])
    assert first["alt"] == "row<7>, labelled sad, predicted happy"
    assert len(most_confident_mistakes(np.eye(3)[PREDICTED], examples, count=2)) == 2


def test_class_names_that_look_like_formulae_are_drawn_as_they_are():
    names = (r"$\frac{a$", "$x$", "a_b^c")
    found = evaluate(np.eye(3), np.arange(3), names)
    figure = confusion_figure(found, r"of $\frac{a$")
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == list(names)


def test_without_mistakes_the_page_says_so(report):
    assert "There are none." in page(dataclasses.replace(report, mistakes=[]))


def test_the_frequent_confusions_are_counted(report):
    assert "sad, happy2100%angry, happy125%happy, angry150%Accuracy" in Page(page(report)).text.replace("\n", "")


def test_metrics_are_numbers_that_json_can_hold(report, tmp_path):
    write(tmp_path, report)
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found == json.loads(json.dumps(metrics(report)))
    assert found["weights"] == "mine"
    assert found["accuracy"]["single crop"]["share"] == 0.5
    assert found["groups"]["emotion"]["angry"] == {
        "share": 0.75,
        "interval": list(Share(3, 4).interval),
        "right": 3,
        "count": 4,
    }
    assert found["expected_calibration_error"]["softmax"] == report.calibration["softmax"].error
    assert found["recall"] == [0.75, 0.5, 0.0]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["index.html", "metrics.json"]
    assert (tmp_path / "index.html").read_text() == page(report)


def test_bars_and_whiskers_are_the_shares_and_their_intervals():
    groups = {"one": Share(30, 40), "two": Share(10, 40)}
    axes = groups_figure(groups).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.25]
    whiskers = np.array(axes.collections[0].get_segments())[:, :, 0]
    np.testing.assert_allclose(whiskers, [share.interval for share in groups.values()])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]


def test_reliability_panels_show_each_bin(report):
    figure = reliability_figure(report.calibration)
    for axes, bins in zip(figure.axes[:2], report.calibration.values(), strict=True):
        np.testing.assert_allclose([bar.get_height() for bar in axes.patches], bins.accuracy)
        np.testing.assert_allclose([bar.get_x() for bar in axes.patches], np.arange(15) / 15)
        assert f"{bins.error:.1%}" in axes.get_title()


def test_the_figure_has_every_share_name_and_number_of_images(found):
    figure = confusion_figure(found, "mine on folder test")
    axes = figure.axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(c, r): f"{100 * found.confusion[r, c]:.0f}" for r in range(3) for c in range(3)}
    assert [label.get_text() for label in axes.get_xticklabels()] == list(NAMES)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["angry (4)", "happy (2)", "sad (2)"]
    assert figure.get_suptitle() == "mine on folder test"
    np.testing.assert_allclose(axes.images[0].get_array(), 100 * found.confusion)


def test_robustness_is_in_the_page_and_the_numbers(report, robustness):
    with_it = dataclasses.replace(report, robustness=robustness)
    assert "Robustness" not in Page(page(report)).text
    shown = Page(page(with_it))
    assert len(shown.images) == len(Page(page(report)).images) + 1  # what the corruptions look like
    for text in ("blur*", "blurred: a Gaussian of 2 pixels", "mask", "mirrored", "(mCA", "50.0%"):
        assert text in shown.text
    numbers = json.loads(json.dumps(metrics(with_it)))["robustness"]
    assert numbers["mean_corruption_accuracy"] == 0.5  # of the blur alone, as the mask is no common one
    assert numbers["score"] == (0.75 + 0.5) / 2
    assert numbers["corruptions"]["mask"]["found_again"]["share"] == 0.75
    assert numbers["groups"]["emotion"]["angry"]["corrupted"]["share"] == 0.5
    assert "robustness" not in metrics(report)
    lines = [line.split() for line in str(robustness).splitlines()]
    assert ["blur*", "50.0%", "100.0%", "25.0%"] in lines
    assert ["mask", "25.0%", "75.0%", "50.0%"] in lines


def test_each_corruption_is_drawn():
    panels = [panel for panel in corruptions_figure().axes if panel.images]
    assert [panel.get_title() for panel in panels] == ["none", *(each.name for each in CORRUPTIONS)]
    images = [panel.images[0].get_array() for panel in panels]
    assert min(np.abs(image.astype(int) - images[0]).max() for image in images[1:]) > 5
