"""Training crops: marks painted into a scene are found in the crop where the boxes and landmarks say."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from faceflax.data.scene_augmentation import SceneAugmentation
from faceflax.data.scenes import MAX_FACES, MIRRORED, SMALLEST, Scene, Scenes
from faceflax.errors import FaceflaxError

PLAIN = SceneAugmentation(sheets=0, cover=0, decoys=0, blur=0, darken=0, grey=0, tint=0, noise=0, jpeg=0)
POINTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)


def marked(shape=(300, 400), box=(150.0, 90.0, 80.0, 100.0), landmark=0):
    """A black scene with one face, of which one landmark is a bright spot."""
    box = np.array([box], np.float32)
    landmarks = box[:, None, :2] + POINTS * box[:, None, 2:]
    image = np.zeros((*shape, 3), np.uint8)
    x, y = landmarks[0, landmark]
    ys, xs = np.mgrid[: shape[0], : shape[1]] + 0.5
    image[:] = np.rint(255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 50))[..., None]
    return Scene(image, box, landmarks, np.zeros(1, bool))


@pytest.mark.parametrize("landmark", range(5))
def test_landmarks_stay_on_their_pixels(landmark):
    scenes = Scenes({"a": [marked((1200, 1600), (760, 550, 80, 100), landmark)]}, {"a": 1}, 128, PLAIN)
    seen = 0
    for number in range(12):
        crop = scenes.crop(number)
        (point,) = (crop.landmarks[:, landmark],)
        values = crop.image[..., 0].astype(np.float64) - np.median(crop.image)
        if len(point) == 0 or not ((point > 12) & (point < 116)).all() or values.max() < 100:
            continue
        ys, xs = np.mgrid[:128, :128] + 0.5
        values = np.where(values > 0.5 * values.max(), values, 0)
        centre = (values * xs).sum() / values.sum(), (values * ys).sum() / values.sum()
        # a mirrored face's left eye is the other eye, which has no mark: the spot is then at its twin
        twin = crop.landmarks[0, MIRRORED.index(landmark)]
        off = min(np.abs(centre - point[0]).max(), np.abs(centre - twin).max())
        assert off < 1.0
        seen += 1
    assert seen >= 4


def unmarked(boxes, shape=(300, 400), shade=0):
    """A scene of one shade whose faces have no landmarks."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    points = np.full((len(boxes), 5, 2), np.nan, np.float32)
    return Scene(np.full((*shape, 3), shade, np.uint8), boxes, points, np.zeros(len(boxes), bool))


def test_boxes_hold_the_turned_ellipse_of_the_face():
    face = unmarked([150, 90, 80, 100])
    cv2.ellipse(face.image, ((190.0 - 0.5, 140.0 - 0.5), (80.0, 100.0), 0.0), (255, 255, 255), cv2.FILLED)
    scenes = Scenes({"a": [face]}, {"a": 1}, 256, PLAIN)
    seen = 0
    for number in range(16):
        crop = scenes.crop(number)
        if len(crop.boxes) == 0 or crop.boxes[0, :2].min() < 1 or (crop.boxes[0, :2] + crop.boxes[0, 2:]).max() > 255:
            continue
        x, y = (int(v) for v in crop.boxes[0, :2] + crop.boxes[0, 2:] / 2)
        _, regions = cv2.connectedComponents((crop.image[..., 0] > 127).astype(np.uint8))
        ys, xs = np.nonzero(regions == regions[y, x])
        if crop.boxes[0, 2] < 20 or len(xs) == 0 or min(xs.min(), ys.min()) == 0 or max(xs.max(), ys.max()) == 255:
            continue
        found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        x, y, w, h = crop.boxes[0]
        np.testing.assert_allclose(found, [x, y, x + w, y + h], atol=2.5)
        seen += 1
    assert seen >= 3


def test_a_crop_is_the_same_whenever_it_is_drawn():
    scenes = {"a": [marked(), marked(box=(20, 20, 50, 60))], "none": [unmarked([], (99, 80), 7)]}
    first, again = (Scenes(scenes, {"a": 3, "none": 1}, 64, seed=2) for _ in range(2))
    again.crop(5)
    for number in (9, 0, 9):
        one, other = first.crop(number), again.crop(number)
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.boxes, other.boxes)
    assert (first.crop(1).image != Scenes(scenes, {"a": 3, "none": 1}, 64, seed=3).crop(1).image).any()


def test_small_and_cut_off_faces_do_not_count():
    scene = unmarked([[50, 50, 40, 50], [120, 60, 6, 8]], (200, 300))
    scenes = Scenes({"a": [scene]}, {"a": 1}, 96, PLAIN)
    both = set()
    for number in range(60):
        crop = scenes.crop(number)
        low, high = crop.boxes[:, :2].clip(0), (crop.boxes[:, :2] + crop.boxes[:, 2:]).clip(None, 96)
        share = (high - low).clip(0).prod(1) / crop.boxes[:, 2:].prod(1)
        side = np.sqrt(crop.boxes[:, 2:].prod(1))
        np.testing.assert_array_equal(crop.ignored, (share < 0.5) | (side < SMALLEST))
        both |= set(crop.ignored.tolist())
    assert both == {True, False}


def test_a_batch_pads_and_marks_its_faces():
    scenes = Scenes({"a": [marked()]}, {"a": 1}, 64)
    batch = scenes.batch(3, 4)
    assert batch["images"].shape == (4, 64, 64, 3)
    assert batch["images"].dtype == np.uint8
    assert batch["boxes"].shape == (4, MAX_FACES, 4)
    for i in range(4):
        crop = scenes.crop(12 + i)
        np.testing.assert_array_equal(batch["images"][i], crop.image)
        assert (batch["kinds"][i] != 0).sum() == len(crop.boxes)
        assert (batch["kinds"][i] == 1).sum() == (~crop.ignored).sum()


def test_shares_of_groups_that_are_not_there_are_refused():
    with pytest.raises(FaceflaxError, match=r"shares: there are no scenes of the group 'b'"):
        Scenes({"a": [marked()], "b": []}, {"a": 1, "b": 1})


def test_natural_crops_show_faces_about_as_large_as_the_photograph_does():
    scene = marked((1200, 1600), (760, 550, 80, 80))
    for natural, typical in ((1.0, 80.0), (0.0, 44.0)):
        crops = Scenes({"a": [scene]}, {"a": 1}, 128, dataclasses.replace(PLAIN, natural=natural, roll=0))
        sides = np.array([np.sqrt(crops.crop(n).boxes[0, 2:].prod()) for n in range(300)])
        assert typical / 1.25 < np.exp(np.log(sides).mean()) < typical * 1.25
        if natural:
            assert 40 <= sides.min() < sides.max() <= 129  # 0.5 to 1.6 times, a little turned
            assert np.log(sides).std() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("blur", 1.5, "from 0 to 1"),
        ("natural", -0.1, "from 0 to 1"),
        ("roll", 200, "from 0 to 180"),
        ("size_from", 0, "from 1 to 1000"),
        ("size_to", 5, "from 14 to 1000"),
        ("noise", float("nan"), "from 0 to 1"),
    ],
)
def test_changes_out_of_range_are_refused(name, value, remedy):
    with pytest.raises(FaceflaxError, match=remedy) as caught:
        SceneAugmentation(**{name: value})
    assert caught.value.field == f"scenes.{name}"
