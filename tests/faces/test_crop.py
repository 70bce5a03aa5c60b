import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.faces.crop import crop_face, square_around


@pytest.fixture
def ramp():
    """Each pixel's value is ``16 * row + column``."""
    return np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_without_margin_it_is_the_box(ramp):
    np.testing.assert_array_equal(crop_face(ramp, (3, 5, 4, 4), 0, 4), ramp[5:9, 3:7])


def test_margin_is_a_share_of_the_side(ramp):
    np.testing.assert_array_equal(crop_face(ramp, (6, 4, 4, 4), 0.5, 8), ramp[2:10, 4:12])


@pytest.mark.parametrize(
    ("box", "rows", "columns"), [((6, 4, 2, 6), (4, 10), (4, 10)), ((4, 6, 6, 2), (4, 10), (4, 10))]
)
def test_a_long_box_becomes_a_square_about_its_centre(ramp, box, rows, columns):
    np.testing.assert_array_equal(crop_face(ramp, box, 0, 6), ramp[slice(*rows), slice(*columns)])


@pytest.mark.parametrize("box", [(-2, -3, 4, 4), (14, 13, 4, 4), (0, 14, 4, 4), (-20, 40, 4, 4)])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_beyond_the_frame_the_border_is_repeated(ramp, box, margin):
    far = 64
    padded = np.pad(ramp, far, mode="edge")
    inside = (box[0] + far, box[1] + far, *box[2:])
    size = round(4 * (1 + 2 * margin))
    np.testing.assert_array_equal(crop_face(ramp, box, margin, size), crop_face(padded, inside, margin, size))


def test_scales_with_the_face():
    small = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
    large = small.repeat(3, axis=0).repeat(3, axis=1)
    np.testing.assert_array_equal(
        crop_face(small, (5, 6, 8, 8), 0.25, 12), crop_face(large, (15, 18, 24, 24), 0.25, 12)
    )


@pytest.mark.parametrize("size", [1, 7, 64])
def test_size_and_type(ramp, size):
    crop = crop_face(ramp, np.array([2, 2, 9, 9], np.int32), 0.1, size)
    assert crop.shape == (size, size)
    assert crop.dtype == np.uint8


@pytest.mark.parametrize("margin", [-0.1, np.nan, np.inf])
def test_bad_margin_is_named(ramp, margin):
    with pytest.raises(FaceflaxError, match=f"margin: {margin}"):
        crop_face(ramp, (2, 2, 4, 4), margin, 8)


def test_empty_box_is_named(ramp):
    with pytest.raises(FaceflaxError, match=r"box: \(2, 2, 0, 4\)"):
        crop_face(ramp, (2, 2, 0, 4), 0, 8)


@pytest.mark.parametrize("box", [(3, 5, 6, 4), (-3, 12, 6, 6)])
def test_channels_are_cut_alike(box):
    image = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    for size in (4, 8):  # half of the square of 8 pixels, and all of it: nothing to round differently
        crop = crop_face(image, box, 1 / 6, size)
        for channel in range(3):
            np.testing.assert_array_equal(crop[..., channel], crop_face(image[..., channel], box, 1 / 6, size))


def test_square_is_what_is_cut(ramp):
    left, top, side = square_around((4, 5, 5, 3), 0.3)
    np.testing.assert_array_equal(crop_face(ramp, (4, 5, 5, 3), 0.3, side), ramp[top : top + side, left : left + side])
