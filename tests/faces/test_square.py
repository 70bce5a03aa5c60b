"""The square of a face: it turns, moves and grows with the landmarks, and is Haar's where the head is upright."""

import cv2
import numpy as np
import pytest

from faceflax.faces.crop import crop_face, crop_square
from faceflax.faces.detection import Detection
from faceflax.faces.haar import HaarDetector
from faceflax.faces.square import BOX_SIDE, Square, roll_of, square_of
from faceflax.media import demo

POINTS = np.float32([[30, 40], [70, 42], [51, 62], [36, 80], [66, 81]])
BOX = np.array([10.0, 5, 80, 104])


def moved(points, degrees, scale, shift):
    """The points turned clockwise as seen about (50, 50), scaled about it and moved."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.float32((points - 50) @ np.array([[cos, sin], [-sin, cos]]) * scale + 50 + shift)


@pytest.mark.parametrize("degrees", [-170.0, -45, -20, 0, 30, 90])
@pytest.mark.parametrize("scale", [0.2, 1.0, 30.0])
def test_the_square_goes_with_the_landmarks(degrees, scale):
    plain = square_of(BOX, POINTS)
    shift = np.array([7.0, -13])
    center = moved(BOX[:2] + BOX[2:] / 2, degrees, scale, shift)
    box = np.concatenate([center - scale * BOX[2:] / 2, scale * BOX[2:]])
    points = moved(POINTS, degrees, scale, shift)
    turned = square_of(box, points)
    np.testing.assert_allclose(turned[:2], moved(np.array(plain[:2]), degrees, scale, shift), atol=1e-3 * scale)
    assert turned.side == pytest.approx(scale * plain.side, rel=1e-5)
    assert (turned.roll - plain.roll - degrees + 180) % 360 == pytest.approx(180, abs=1e-3)
    assert roll_of(points) == pytest.approx(turned.roll)
    assert Detection(box, 1.0, points).roll == pytest.approx(turned.roll)


def test_it_is_haars_on_a_photograph():
    """Landmarks and chin read off by eye."""
    photo = demo.photograph()
    (face,) = HaarDetector()(photo)
    points = np.float32([[228, 188], [306, 187], [268, 230], [237, 278], [303, 278]])
    square = square_of((185, 125, 165, 205), points)
    np.testing.assert_allclose(square[:2], face.box[:2] + face.box[2:] / 2, atol=0.1 * face.box[2])
    assert square.side == pytest.approx(face.box[2], rel=0.15)
    assert abs(square.roll) < 5


def test_a_box_alone_is_as_it_was():
    assert square_of((10, 20, 30, 50)) == Square(25, 45, 50, 0)
    assert Detection(BOX, tilt=20.0).roll == 20


def test_a_face_from_the_side_is_not_cut_smaller():
    side = POINTS.copy()
    side[:, 0] = 50 + 0.3 * (POINTS[:, 0] - 50)
    assert square_of(BOX, side).side > 0.75 * square_of(BOX, POINTS).side


@pytest.mark.parametrize(
    "points",
    [
        np.full((5, 2), 50),
        np.full((5, 2), np.nan),
        np.where(np.arange(10).reshape(5, 2) == 3, np.inf, POINTS),
        POINTS * 0.1 + 45,
        POINTS * 9,
        POINTS + np.array([90, 0]),
        np.zeros((5, 2)),
    ],
    ids=["in one place", "nan", "infinite", "tiny", "huge", "elsewhere", "zero"],
)
def test_landmarks_that_contradict_the_box_are_left_out(points):
    square = square_of(BOX, np.float32(points))
    assert square == pytest.approx((50, 57, BOX_SIDE * 104, 0))
    image = np.random.default_rng(0).integers(0, 256, (100, 100), np.uint8)
    crop = crop_face(image, BOX.astype(int), 0.1, 32, np.float32(points))
    np.testing.assert_array_equal(crop, crop_square(image, square, 0.1, 32))


def reference(image, square, margin, size, finer):
    """The mean of ``finer`` x ``finer`` samples of the bilinear image in each pixel, in float64."""
    side = square.side * (1 + 2 * margin)
    steps = ((np.arange(size * finer) + 0.5) / (size * finer) - 0.5) * side
    u, v = np.meshgrid(steps, steps)
    cos, sin = np.cos(np.radians(square.roll)), np.sin(np.radians(square.roll))
    x = square.x + cos * u - sin * v - 0.5
    y = square.y + sin * u + cos * v - 0.5
    height, width = image.shape
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    values = np.zeros_like(x)
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dx - (x - left)) * np.abs(1 - dy - (y - top))
            values += weight * image[(top + dy).clip(0, height - 1), (left + dx).clip(0, width - 1)]
    return values.reshape(size, finer, size, finer).mean((1, 3))


@pytest.mark.parametrize(
    ("square", "size"),
    [
        (Square(268, 220, 50, 0), 64),
        (Square(268, 220, 40, 25), 64),
        (Square(268.3, 220.8, 121.5, -140), 48),
        (Square(261, 247, 190, 33), 24),
        (Square(250.5, 220, 330, 10), 16),
        (Square(2, 3, 80, 45), 32),
        (Square(-30, 590, 150, 12), 32),
    ],
)
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_a_turned_crop_is_sampled_where_it_grows_and_averaged_where_it_shrinks(square, size, margin):
    image = cv2.cvtColor(demo.photograph(), cv2.COLOR_BGR2GRAY)
    crop = crop_square(image, square, margin, size)
    assert crop.dtype == np.uint8
    grows = square.side * (1 + 2 * margin) <= size
    expected = reference(image, square, margin, size, 1 if grows else 16)
    error = np.abs(crop - expected)
    assert error.mean() < 2.5
    assert error.max() < (4 if grows else 25)


def test_whole_pixels_of_an_upright_square_are_the_box_cut_out():
    image = np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8)
    for size in (16, 32):
        np.testing.assert_allclose(
            crop_square(image, Square(40, 30, 32, 0), 0, size).astype(int),
            crop_face(image, (24, 14, 32, 32), 0, size).astype(int),
            atol=1,
        )


def test_nothing_aliases_in_a_large_face():
    """Stripes of one pixel in a face of 3,000 become even grey."""
    image = np.zeros((3200, 3200), np.uint8)
    image[:, ::2] = 255
    crop = crop_square(image, Square(1600, 1600, 2000, 17), 0.1, 64)
    assert np.ptp(crop) <= 8
    assert abs(float(crop.mean()) - 127.5) < 2


def test_channels_are_turned_alike():
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    square = Square(50, 40, 45, 20)
    crop = crop_square(image, square, 0.2, 20)
    assert crop.shape == (20, 20, 3)
    for channel in range(3):
        np.testing.assert_array_equal(
            crop[..., channel], crop_square(np.ascontiguousarray(image[..., channel]), square, 0.2, 20)
        )


@pytest.mark.parametrize("degrees", [-60, -30, 45])
def test_a_tilted_head_is_cut_as_the_upright_one(degrees):
    photo = cv2.cvtColor(demo.photograph(), cv2.COLOR_BGR2GRAY)
    points = np.float32([[228, 188], [306, 187], [268, 230], [237, 278], [303, 278]])
    middle = np.array([268.0, 228])
    turn = cv2.getRotationMatrix2D(middle.tolist(), -degrees, 1)  # OpenCV turns anticlockwise
    tilted = cv2.warpAffine(photo, turn, photo.shape[::-1])
    turned = np.float32(points @ turn[:, :2].T + turn[:, 2])
    box = np.array([186, 125, 164, 206])
    upright = crop_face(photo, box, 0.0, 64, points).astype(float)
    again = crop_face(tilted, box, 0.0, 64, turned).astype(float)
    assert np.corrcoef(upright.ravel(), again.ravel())[0, 1] > 0.995
