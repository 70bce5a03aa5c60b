from dataclasses import replace

import numpy as np
import pytest

from faceflax.faces.face import Face
from faceflax.media.drawing import COLORS, draw_bars, draw_faces, draw_status


def face(box, gender="man"):
    return Face(box, "happy", np.eye(7, dtype=np.float32)[3], gender, np.float32([0.12, 0.88]))


def changed(frame, drawn):
    rows, columns = np.nonzero((frame != drawn).any(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_red_for_woman_blue_for_man():
    frame = np.full((200, 300, 3), 128, np.uint8)
    for gender, strongest in (("woman", 2), ("man", 0)):
        drawn = draw_faces(frame, [face((100, 80, 60, 60), gender)])
        assert COLORS[gender][strongest] == max(COLORS[gender])
        np.testing.assert_array_equal(drawn[139, 130], COLORS[gender])  # the box's lower edge
        np.testing.assert_array_equal(drawn[110, 130], [128, 128, 128])  # its inside stays
        assert (frame == 128).all()  # and so does the frame given


def test_a_label_that_is_not_sure_looks_otherwise():
    frame = np.full((300, 300, 3), 128, np.uint8)
    sure = face((100, 100, 100, 100))
    pictures = [draw_faces(frame, [each]) for each in (sure, replace(sure, sure_emotion=False), sure)]
    assert (pictures[0] != pictures[1]).any()
    np.testing.assert_array_equal(pictures[0], pictures[2])


def test_without_faces_nothing_changes():
    frame = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    np.testing.assert_array_equal(draw_faces(frame, []), frame)


def test_label_is_above_the_box_or_below_where_there_is_no_room():
    frame = np.full((400, 400, 3), 128, np.uint8)
    _, top, _, bottom = changed(frame, draw_faces(frame, [face((100, 200, 50, 50))]))
    assert top < 190
    assert bottom <= 252
    _, top, _, bottom = changed(frame, draw_faces(frame, [face((100, 10, 50, 50))]))
    assert top >= 8
    assert bottom > 70


@pytest.mark.parametrize(
    "box", [(0, 0, 40, 40), (270, 0, 30, 30), (0, 160, 40, 40), (290, 190, 10, 10), (0, 0, 300, 200)]
)
def test_whole_label_stays_inside_the_frame(box):
    """Whatever the box, there is a rectangle of the label's full size that is no longer plain grey."""
    plain = np.full((200, 900, 3), 128, np.uint8)
    left, top, right, bottom = changed(plain, draw_faces(plain, [face((400, 100, 1, 1))]))
    area = (right - left) * (bottom - top - 1)  # the box itself is one pixel below the label
    frame = plain[:, :300]
    assert (draw_faces(frame, [face(box)]) != frame).any(axis=2).sum() >= 0.95 * area  # letters may touch the grey


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 12), (64, 48), (360, 640), (2160, 3840)])
def test_text_grows_with_the_frame_and_any_frame_can_be_drawn_on(height, width):
    frame = np.full((height, width, 3), 128, np.uint8)
    drawn = draw_faces(frame, [face((width // 3, height // 2, max(1, width // 4), max(1, height // 4)))])
    assert drawn.shape == frame.shape
    if height >= 64:
        box_height = -(-height // 4)
        _, top, _, bottom = changed(frame, drawn)
        assert bottom - top - box_height >= 18  # two lines of at least nine pixels
        assert bottom - top - box_height >= 0.05 * min(height, width)


def test_labels_of_fifty_faces_leave_the_faces_to_be_seen():
    frame = np.full((720, 1280, 3), 128, np.uint8)
    boxes = [(10 + 125 * (n % 10), 40 + 135 * (n // 10), 70, 70) for n in range(50)]
    drawn = draw_faces(frame, [face(box) for box in boxes])
    for x, y, width, height in boxes:
        assert (drawn[y + 4 : y + height - 4, x + 4 : x + width - 4] == 128).all()


@pytest.mark.parametrize("size", [(1, 1), (48, 64), (360, 640)])
def test_status_changes_only_the_lower_edge(size):
    frame = np.full((*size, 3), 128, np.uint8)
    image = frame.copy()
    draw_status(image, "29 fps   40 ms   " + "q: quit   " * 8)
    if size[0] > 1:
        left, top, right, _ = changed(frame, image)
        assert top > size[0] - 40
        assert (left, right) == (0, size[1])  # a dark band


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_status_is_white_on_dark_over_any_picture(shade):
    image = np.full((360, 640, 3), shade, np.uint8)
    draw_status(image, "29 fps   40 ms")
    band = image[-12:]
    assert band.max() > 240
    assert np.median(band) <= 85


@pytest.mark.parametrize("place", [(60, 40, 120, 120), (-50, -50, 90, 90), (560, 300, 200, 200), (10, 10, 20, 20)])
def test_each_emotion_gets_a_bar_as_long_as_its_probability(place):
    image = np.full((360, 640, 3), 255, np.uint8)
    shares = np.float32([0.5, 0.02, 0.08, 0.3, 0.05, 0.04, 0.01])
    drawn = Face((0, 0, 50, 50), "angry", shares, "man", np.float32([0.1, 0.9]))
    draw_bars(image, drawn, place)
    rows, columns = np.nonzero((image != 255).any(2))
    panel = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = panel.shape[:2]
    assert (height, width) == (max(place[3], 77), max(place[2], 84))
    for number, share in enumerate(shares):
        line = panel[round((number + 0.5) * height / 7), round(0.48 * width) :]
        assert abs((line.min(1) > 100).sum() - max(1, round(0.48 * width * share))) <= 1
    assert panel[round(height / 14), round(0.48 * width)].tolist() == [255, 255, 255]  # the highest


def test_bars_of_a_face_in_a_tiny_picture_stay_inside():
    image = np.full((20, 30, 3), 200, np.uint8)
    draw_bars(image, face((2, 2, 10, 10)), (40, 40, 10, 10))
    assert image.shape == (20, 30, 3)
