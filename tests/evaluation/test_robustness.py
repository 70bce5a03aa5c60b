"""Corruptions against closed forms, and what is measured of them against networks whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.evaluation.corruptions import CORRUPTIONS, SIDE, chosen, moved, scaled
from faceflax.evaluation.detected import BORDER, FoundFaces, View, find_faces
from faceflax.evaluation.robustness import measure
from faceflax.evaluation.shares import Share
from faceflax.faces.detection import Detection

POINTS = np.float32([[0.3, 0.36], [0.7, 0.36], [0.5, 0.56], [0.34, 0.76], [0.66, 0.76]])


def view(side=128.0, place=(90.0, 70.0), shape=(260, 330), seed=0):
    """A smooth picture, and in it a face whose landmarks lie on an upright square."""
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    image = 128 + 50 * np.sin(xs / 17 + rng.uniform(0, 6)) + 50 * np.cos(ys / 23 + rng.uniform(0, 6))
    points = (POINTS * side + place).astype(np.float32)
    return View(np.rint(image).astype(np.uint8), Detection(np.array([*place, 0.8 * side, side]), 0.9, points))


def by_name(name):
    (corruption,) = chosen([name])
    return corruption


@pytest.mark.parametrize("side", [16, 40, 200])
def test_a_scaled_face_has_the_side_asked_for(side):
    assert scaled(view(), side).square.side == pytest.approx(side, rel=0.02)


def test_a_scaled_picture_keeps_its_content():
    small = scaled(view(), SIDE)
    assert small.image.mean() == pytest.approx(view().image.mean(), abs=0.5)
    before, after = view().cut(0.1, 32).astype(float), small.cut(0.1, 32).astype(float)
    assert np.abs(before - after).mean() < 2


@pytest.mark.parametrize("degrees", [15, 30])
def test_a_turned_face_is_cut_out_upright_again(degrees):
    face = scaled(view(), SIDE)
    turned = by_name(f"rotate-{degrees}")(face, np.random.default_rng(3))
    assert abs(turned.square.roll) == pytest.approx(degrees, abs=1e-3)
    assert turned.square.side == pytest.approx(face.square.side, rel=1e-5)
    assert np.abs(turned.image.astype(float) - face.image).mean() > 5
    assert np.abs(turned.cut(0, 48).astype(float) - face.cut(0, 48)).mean() < 3


def test_changes_of_values_are_their_formulas():
    face = scaled(view(), SIDE)
    values = face.image.astype(float)
    for name, expected in (
        ("contrast", 128 + 0.25 * (values - 128)),
        ("gamma", 255 * (values / 255) ** 2),
    ):
        found = by_name(name)(face, np.random.default_rng(0))
        np.testing.assert_allclose(found.image, expected, atol=0.5 + 1e-4)
        assert found.face is face.face
    noise = by_name("noise")(face, np.random.default_rng(0)).image - values
    inside = (values > 70) & (values < 185)
    assert noise[inside].std() == pytest.approx(20, rel=0.05)
    assert noise[inside].mean() == pytest.approx(0, abs=1)


def test_a_blur_of_an_edge_is_the_normal_distribution():
    from scipy.stats import norm

    image = np.zeros((64, 64), np.uint8)
    image[:, 32:] = 255
    found = by_name("blur")(view()._replace(image=image), np.random.default_rng(0)).image
    np.testing.assert_allclose(found[20], 255 * norm.cdf((np.arange(64) - 31.5) / 2), atol=2)


def test_what_is_drawn_turns_with_the_face():
    upright = scaled(view(), SIDE)
    turned = by_name("rotate-30")(upright, np.random.default_rng(3))
    masks = []
    for face in (upright, turned):
        covered = by_name("mask")(face, np.random.default_rng(5))
        masks.append(np.abs(covered.cut(0, 48).astype(int) - face.cut(0, 48)) > 30)
    assert masks[0].mean() > 0.2
    assert (masks[0] != masks[1]).mean() < 0.05
    assert masks[0][36, 24]
    assert not masks[0][12].any()  # the eyes are free


def test_a_cut_leaves_three_quarters_of_the_face():
    face = scaled(view(), SIDE)
    for seed in range(8):
        cut = by_name("cut")(face, np.random.default_rng(seed))
        height, width = cut.image.shape
        low = np.array([cut.square.x, cut.square.y]) - cut.square.side / 2
        inside = np.clip([width, height] - low, 0, cut.square.side) + np.minimum(low, 0)
        assert inside.prod() / cut.square.side**2 == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)
def test_a_corruption_changes_the_picture_the_same_way_each_time(corruption):
    face = scaled(view(), SIDE)
    before = face.image.copy()
    first, again = (corruption(face, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(face.image, before)
    np.testing.assert_array_equal(first.image, again.image)
    assert first.image.dtype == np.uint8
    assert first.image.shape != before.shape or (first.image != before).any()


def test_an_unknown_name_is_refused():
    with pytest.raises(FaceflaxError, match=r"corruptions: unknown 'blurr'; choose one of: small-24, .*, blur, "):
        chosen(["jpeg", "blurr"])


def test_a_moved_box_is_scaled_about_its_middle():
    face = moved(Detection(np.array([10.0, 20, 30, 40])), np.array([[0.0, -2, 5], [2, 0, 1]]))
    np.testing.assert_allclose(face.box, [-75 - 30, 51 - 40, 60, 80])


def faces(count=12):
    return FoundFaces(np.arange(count) * 2, [view(seed=i) for i in range(count)], 2 * count)


def bright(images):
    """Says 1 of images whose left half is brighter than their right half."""
    left, right = images[:, :, : images.shape[2] // 2], images[:, :, images.shape[2] // 2 :]
    difference = left.mean((1, 2, 3)) - right.mean((1, 2, 3))
    return np.stack([-difference, difference], 1) / 8


def test_what_is_measured_of_a_network_that_is_known():
    found = faces()
    clean = bright(found.cut(0.1, 32)).argmax(1)
    labels = np.zeros(24, int)
    labels[found.index] = clean
    labels[found.index[:3]] = 1 - clean[:3]  # three are wrong
    groups = {"half": (("first", "second"), (np.arange(24) >= 12).astype(int))}
    result = measure(
        bright,
        found,
        labels,
        groups,
        lambda frame: np.zeros((0, 4), int),
        margin=0.1,
        size=32,
        corruptions=chosen(["contrast", "cut"]),
    )
    assert (result.found, result.clean) == (Share(12, 24), Share(9, 12))
    assert result.changes["mirrored"] == Share(12, 12)  # the other half is the brighter one
    contrast, cut = result.rows
    assert contrast.right == Share(9, 12)  # what is brighter stays brighter
    assert contrast.change == Share(0, 12)
    assert contrast.again == cut.again == Share(0, 12)  # this detector finds nothing
    assert result.mean == contrast.right.value
    assert result.score == pytest.approx(0.75)
    assert result.groups["half"]["first"] == (Share(3, 6), Share(3, 6))
    assert result.groups["half"]["second"] == (Share(6, 6), Share(6, 6))


def test_a_detector_that_finds_the_face_nearby_is_believed():
    found = faces(4)
    labels = np.zeros(8, int)
    for shift, again in ((4, 4), (60, 0)):  # of pixels of a face of 64: the same face, and too far away to be it
        box = scaled(found.views[0], SIDE).face.box + np.array([shift, 0, 0, 0])
        detector = lambda frame, box=box: [Detection(box)]  # noqa: E731
        result = measure(bright, found, labels, {}, detector, margin=0, size=32, corruptions=chosen(["contrast"]))
        assert result.rows[0].again == Share(again, 4)


def test_nothing_found_is_said():
    nobody = find_faces(np.zeros((3, 192, 192, 1), np.uint8), lambda frame: np.zeros((0, 4), int))
    assert nobody.count == 3
    with pytest.raises(FaceflaxError, match=r"dataset: has no face that the detector finds, in 3 images"):
        measure(bright, nobody, np.zeros(3, int), {}, lambda frame: [], margin=0, size=32)


def test_the_face_of_the_highest_score_is_taken():
    images = np.random.default_rng(0).integers(0, 256, (2, 192, 192, 1), np.uint8)
    two = lambda frame: [Detection(np.array([9.0, 9, 50, 60]), 0.9), Detection(np.array([0.0, 0, 9, 9]), 0.7)]  # noqa: E731
    found = find_faces(images, two)
    assert found.index.tolist() == [0, 1]
    assert found.views[0].face.score == 0.9
    np.testing.assert_array_equal(
        found.views[1].image[BORDER : BORDER + 192, BORDER : BORDER + 192], images[1, :, :, 0]
    )
