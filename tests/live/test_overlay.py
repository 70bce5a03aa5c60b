from dataclasses import replace

import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.faces.face import Face
from faceflax.labels import EMOTIONS
from faceflax.live.overlay import MODES, SaliencyOverlay, beside, blend_map, paste_map
from faceflax.media.drawing import draw_faces

FRAME = np.random.default_rng(0).integers(100, 110, (200, 400, 3), np.uint8)


def face(box, emotion="happy"):
    return Face(box, emotion, np.eye(7, dtype=np.float32)[EMOTIONS.index(emotion)], "man", np.float32([0.1, 0.9]))


def left_half(faces, emotions):
    """No logits, and a map that is 1 in the left half of a face and -1 in the right one."""
    signed = np.ones(faces.shape, np.float32)
    signed[:, :, faces.shape[2] // 2 :] = -1
    return None, signed


def test_map_beside_stands_at_the_height_of_the_face_red_and_blue():
    overlay = SaliencyOverlay(left_half, 0.0, 16)
    drawn = overlay(FRAME, [face((20, 60, 100, 100))])
    assert drawn.shape == FRAME.shape
    assert drawn is not FRAME
    blue, _, red = drawn[65:155, 125:160].reshape(-1, 3).astype(int).T
    assert (red > blue + 40).all()
    blue, _, red = drawn[65:155, 180:215].reshape(-1, 3).astype(int).T
    assert (blue > red + 40).all()
    labelled = draw_faces(FRAME, [face((20, 60, 100, 100))])
    np.testing.assert_array_equal(drawn[:, :120], labelled[:, :120])
    np.testing.assert_array_equal(drawn[:, 220:], FRAME[:, 220:])


def test_map_over_lies_on_the_face_alone():
    overlay = SaliencyOverlay(left_half, 0.0, 16, mode="over")
    drawn = overlay(FRAME, [face((120, 60, 100, 100))])
    change = drawn[70:150, 125:215].astype(int) - FRAME[70:150, 125:215]
    assert (change[:, :30, 2] > change[:, :30, 0] + 40).all()
    assert (change[:, -30:, 0] > change[:, -30:, 2] + 40).all()
    np.testing.assert_array_equal(drawn[:, 230:], FRAME[:, 230:])
    np.testing.assert_array_equal(drawn[162:], FRAME[162:])


@pytest.mark.parametrize("roll", [-120.0, -30.0, 30.0, 90.0])
@pytest.mark.parametrize("size", [16, 200])
def test_a_turned_map_lies_pixel_for_pixel_in_the_turned_square(roll, size):
    """Left of the face's own middle line it is red, right of it blue, and outside the square nothing changes."""
    image = np.full((200, 300, 3), 100, np.uint8)
    blend_map(image, (110, 60, 81), left_half(np.zeros((1, size, size, 1)), None)[1][0, ..., 0], roll)
    rows, columns = np.mgrid[:200, :300]
    x, y = columns + 0.5 - 150.5, rows + 0.5 - 100.5
    cos, sin = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    across, down = cos * x + sin * y, -sin * x + cos * y
    change = image.astype(int) - 100
    border = 81 / size + 2
    inside = np.maximum(abs(across), abs(down)) < 40.5 - border
    left, right = inside & (across < -border), inside & (across > border)
    assert (change[left][:, 2] > change[left][:, 0] + 40).all()
    assert (change[right][:, 0] > change[right][:, 2] + 40).all()
    assert not change[np.maximum(abs(across), abs(down)) > 40.5 + border].any()


def test_a_tilted_faces_map_is_where_its_crop_was_cut():
    points = np.float32([[-20, -22], [20, -22], [0, 0], [-20, 18], [20, 18]])
    cos, sin = np.cos(0.7), np.sin(0.7)
    landmarks = np.float32(points @ np.array([[cos, sin], [-sin, cos]]) + [150, 100])
    tilted = replace(face((100, 45, 100, 110)), landmarks=landmarks)
    x, y, side, roll = tilted.square
    assert roll == pytest.approx(np.degrees(0.7), abs=0.1)
    drawn = SaliencyOverlay(left_half, 0.1, 16, mode="over")(FRAME, [tilted])
    expected = FRAME.copy()
    whole = round(1.2 * side)
    signed = left_half(np.zeros((1, 16, 16, 1)), None)[1][0, ..., 0]
    blend_map(expected, (round(x - 0.6 * side), round(y - 0.6 * side), whole), signed, roll)
    np.testing.assert_array_equal(drawn, draw_faces(expected, [tilted]))


def test_what_says_nothing_is_white_beside_and_invisible_over():
    zero = np.zeros((8, 8), np.float32)
    for draw, expected in ((paste_map, 247), (blend_map, 100)):
        image = np.full((50, 50, 3), 100, np.uint8)
        draw(image, (10, 10, 20), zero)
        np.testing.assert_allclose(image[10:30, 10:30], expected, atol=1)
        image[10:30, 10:30] = 100
        assert (image == 100).all()


def test_what_is_explained():
    asked = []

    def explain(crops, emotions):
        assert crops.shape == (2, 24, 24, 1)
        assert crops.dtype == np.float32
        np.testing.assert_allclose(crops, FRAME.mean() / 127.5 - 1, atol=0.1)
        asked.append([EMOTIONS[index] for index in emotions])
        return left_half(crops, emotions)

    overlay = SaliencyOverlay(explain, 0.1, 24)
    faces = [face((20, 60, 50, 50), "sad"), face((220, 60, 60, 60), "fear")]
    overlay(FRAME, faces)
    assert [overlay.next_emotion() for _ in range(8)] == [*EMOTIONS, "current"]
    overlay.next_emotion()
    overlay(FRAME, faces)
    assert asked == [["sad", "fear"], ["angry", "angry"]]


def test_modes_go_round():
    overlay = SaliencyOverlay(left_half, 0.0, 16, mode="labels")
    faces = [face((20, 60, 50, 50))]
    drawings = {"labels": overlay(FRAME, faces)} | {overlay.next_mode(): overlay(FRAME, faces) for _ in range(4)}
    assert list(drawings) == list(MODES)
    np.testing.assert_array_equal(drawings["plain"], FRAME)
    np.testing.assert_array_equal(drawings["labels"], draw_faces(FRAME, faces))
    assert not (drawings["beside"] == drawings["over"]).all()


def test_map_scales_with_its_own_largest_values():
    """The same drawing whether the network's gradients are tiny or huge."""
    faces = [face((20, 60, 100, 100))]
    one, other = (
        SaliencyOverlay(lambda crops, emotions, k=k: (None, k * left_half(crops, emotions)[1]), 0.0, 16)(FRAME, faces)
        for k in (1e-6, 1e6)
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mode", ["beside", "over"])
@pytest.mark.parametrize("size", [(1, 1), (30, 20), (200, 400)])
def test_any_box_can_be_drawn(mode, size):
    frame = np.full((*size, 3), 90, np.uint8)
    overlay = SaliencyOverlay(left_half, 0.3, 16, mode=mode)
    boxes = [(0, 0, 1, 1), (-20, -30, 50, 40), (390, 190, 40, 40), (1000, 1000, 9, 9)]
    assert overlay(frame, [face(box) for box in boxes]).shape == frame.shape
    assert overlay(frame, []).shape == frame.shape


def test_beside_takes_the_side_with_more_room():
    assert beside((10, 5, 30), 100) == (40, 5, 30)
    assert beside((60, 5, 30), 100) == (30, 5, 30)
    assert beside((10, 5, 60), 100) == (70, 5, 60)  # fits on neither side


def test_unknown_names():
    with pytest.raises(FaceflaxError, match="mode: unknown 'sideways'; choose one of: labels, beside, over, plain"):
        SaliencyOverlay(left_half, 0.0, 16, mode="sideways")
    with pytest.raises(FaceflaxError, match="emotion: unknown 'joy'; choose one of: current, angry"):
        SaliencyOverlay(left_half, 0.0, 16, emotion="joy")


def test_bars_stand_on_the_side_where_no_map_is():
    overlay = SaliencyOverlay(left_half, 0.0, 16, mode="labels", bars=True)
    faces = [face((150, 60, 100, 100))]
    with_bars = overlay(FRAME, faces)
    plain = draw_faces(FRAME, faces)
    assert (with_bars[60:160, 250:350] != plain[60:160, 250:350]).any(2).mean() > 0.9
    np.testing.assert_array_equal(with_bars[:, :240], plain[:, :240])
    overlay.mode = "beside"
    assert (overlay(FRAME, faces)[65:155, 55:145] < 100).all(2).mean() > 0.5  # the map is on the right
    assert overlay.switch_bars() == "bars: off"
    assert (overlay(FRAME, faces)[65:155, 55:145] >= 100).all()
