import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from faceflax.data.augment import Augmentation
from faceflax.data.transforms import affine, boxes, mixup, resample
from faceflax.errors import FaceflaxError


def random_images(batch=8, height=48, width=48, channels=1):
    return np.random.default_rng(0).uniform(-1, 1, (batch, height, width, channels)).astype(np.float32)


def transform_of(flip=False, shift=(0.0, 0.0), angle=0.0, scale=1.0):
    return affine(jnp.array([flip]), jnp.array([shift]), jnp.array([angle]), jnp.array([scale]))


@pytest.mark.parametrize("shape", [(8, 48, 48, 1), (3, 33, 40, 3)])
def test_zero_amounts_change_nothing(shape):
    images = random_images(*shape)
    augment = Augmentation(flip=False, shift=0, rotation=0, zoom=0)
    np.testing.assert_array_equal(jax.jit(augment)(jax.random.key(0), images), images)


def test_flip_alone_mirrors_about_half_of_the_images_exactly():
    images = random_images(batch=200, height=32, width=32)
    augment = Augmentation(flip=True, shift=0, rotation=0, zoom=0)
    got = np.asarray(jax.jit(augment)(jax.random.key(0), images))
    same = (got == images).all((1, 2, 3))
    mirrored = (got == images[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 70 < mirrored.sum() < 130


@pytest.mark.parametrize(("down", "right"), [(3, 0), (0, -5), (-2, 7)])
def test_whole_pixel_shift_moves_and_repeats_the_edge(down, right):
    images = random_images(batch=1, height=40, width=48, channels=3)
    got = resample(images, transform_of(shift=(float(down), float(right))))
    padded = np.pad(images[0], ((8, 8), (8, 8), (0, 0)), mode="edge")
    np.testing.assert_array_equal(got[0], np.roll(padded, (down, right), (0, 1))[8:-8, 8:-8])


def test_quarter_turn_is_counter_clockwise():
    images = random_images(batch=1)
    got = resample(images, transform_of(angle=np.pi / 2))
    np.testing.assert_allclose(got[0], np.rot90(images[0]), atol=1e-4)


def test_flip_comes_before_the_turn():
    images = random_images(batch=1)
    got = resample(images, transform_of(flip=True, angle=np.pi / 2))
    np.testing.assert_allclose(got[0], np.rot90(images[0, :, ::-1]), atol=1e-4)


@pytest.mark.parametrize(
    ("flip", "shift", "degrees", "scale"),
    [(False, (0, 0), 10, 1.1), (True, (2.3, -1.7), -7, 0.9), (False, (-3.5, 4), 75, 1.6)],
)
def test_agrees_with_scipy_in_float64(flip, shift, degrees, scale):
    height, width = 48, 40
    images = random_images(batch=1, height=height, width=width)
    angle = np.deg2rad(degrees)
    # Forward map of centred (row, column): mirror, magnify, turn counter-clockwise; rows count downwards.
    mirror = np.diag([1.0, -1.0 if flip else 1.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = np.linalg.inv(turn @ (scale * mirror))
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    expected = scipy.ndimage.affine_transform(
        images[0, ..., 0].astype(np.float64),
        inverse,
        offset=centre - inverse @ (centre + shift),
        order=1,
        mode="nearest",
    )
    got = resample(images, transform_of(flip, tuple(map(float, shift)), angle, scale))
    np.testing.assert_allclose(got[0, ..., 0], expected, atol=1e-4)


def test_draws_stay_within_the_amounts_and_differ_between_images():
    # A ramp, read off at two places next to the centre, gives each image's shift and scale.
    width = 64
    ramp = np.broadcast_to(np.arange(width, dtype=np.float32)[None, None, :, None], (300, width, width, 1))
    augment = Augmentation(flip=False, shift=0.1, rotation=0, zoom=0.2)
    centre = jax.jit(augment)(jax.random.key(1), ramp)[:, 32, 31:33, 0]
    scale = 1 / (centre[:, 1] - centre[:, 0])
    assert 0.8 - 1e-4 <= scale.min() < 0.84
    assert 1.16 < scale.max() <= 1.2 + 1e-4
    shift = (31.5 - centre.mean(1)) * scale
    assert -6.41 <= shift.min() < -5.8
    assert 5.8 < shift.max() <= 6.41
    assert len(np.unique(shift)) > 290


def test_rotation_amount_is_degrees():
    # The gradient of a plane that rises to the right turns by the image's own angle.
    plane = np.broadcast_to(np.arange(64, dtype=np.float32)[None, None, :, None], (300, 64, 64, 1))
    turned = jax.jit(Augmentation(flip=False, shift=0, rotation=10, zoom=0))(jax.random.key(2), plane)
    down, right = turned[:, 32, 31, 0] - turned[:, 31, 31, 0], turned[:, 31, 32, 0] - turned[:, 31, 31, 0]
    degrees = np.rad2deg(np.arctan2(down, right))
    assert -10.01 <= degrees.min() < -9
    assert 9 < degrees.max() <= 10.01


@pytest.mark.parametrize(
    "augment",
    [
        Augmentation(),
        Augmentation(shift=0.9, rotation=180, zoom=0.99),
        Augmentation(contrast=1, brightness=1, erase=1),
    ],
)
def test_output_is_finite_within_range_and_repeatable(augment):
    images = random_images(batch=64)
    got = jax.jit(augment)(jax.random.key(3), images)
    assert got.shape == images.shape
    assert got.dtype == jnp.float32
    assert np.isfinite(got).all()
    assert -1 - 1e-6 <= got.min() < got.max() <= 1 + 1e-6
    np.testing.assert_array_equal(got, jax.jit(augment)(jax.random.key(3), images))
    assert (got != jax.jit(augment)(jax.random.key(4), images)).any((1, 2, 3)).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shift", -0.1),
        ("shift", 1.0),
        ("rotation", 181.0),
        ("rotation", -1.0),
        ("zoom", 1.0),
        ("zoom", float("nan")),
        ("contrast", 1.1),
        ("brightness", -0.1),
        ("erase", 1.5),
    ],
)
def test_bad_amounts_are_named(name, value):
    with pytest.raises(FaceflaxError, match=f"{name}: {value}"):
        Augmentation(**{name: value})


STILL = dict(flip=False, shift=0, rotation=0, zoom=0)


def test_contrast_and_brightness_are_a_line_through_the_mean():
    images = 0.3 * random_images(batch=300, height=32, width=32)
    got = np.asarray(jax.jit(Augmentation(**STILL, contrast=0.4, brightness=0.1))(jax.random.key(5), images))
    mean = images.mean((1, 2, 3))
    slopes = got.std((1, 2, 3)) / images.std((1, 2, 3))
    shifts = (got.mean((1, 2, 3)) - mean) / 2  # of the range from -1 to 1
    assert 0.6 - 1e-4 <= slopes.min() < 0.62
    assert 1.38 < slopes.max() <= 1.4 + 1e-4
    assert -0.1 - 1e-4 <= shifts.min() < -0.095
    assert 0.095 < shifts.max() <= 0.1 + 1e-4
    expected = (images - mean[:, None, None, None]) * slopes[:, None, None, None] + got.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_erasing_overwrites_one_box_of_the_stated_area_in_the_stated_share_of_images():
    images = np.zeros((400, 40, 40, 1), np.float32)
    got = np.asarray(jax.jit(Augmentation(**STILL, erase=0.3))(jax.random.key(6), images))
    changed = (got != 0)[..., 0]
    assert 90 < changed.any((1, 2)).sum() < 150
    areas = []
    for mask in changed[changed.any((1, 2))]:
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        areas.append(mask.mean())
    assert 0.01 < min(areas) < 0.06
    assert 0.28 < max(areas) < 0.36
    assert abs(got[got != 0].mean()) < 0.02


def test_boxes_cover_the_pixels_whose_centres_they_hold():
    got = boxes(jnp.array([[0.5, 0.25], [1.0, 0.5]]), jnp.array([[0.5, 0.5], [0.2, 1.0]]), 10, 8)
    expected = np.zeros((2, 10, 8, 1), bool)
    expected[0, 3:7, 0:4] = True
    expected[1, 9:] = True
    np.testing.assert_array_equal(got, expected)


def pairs(batch=256, size=24):
    """Images of one value each, so that a mixed image shows what it is made of, and targets that name the image."""
    values = np.linspace(-1, 1, batch, dtype=np.float32)
    return np.broadcast_to(values[:, None, None, None], (batch, size, size, 1)), np.eye(batch, dtype=np.float32)


def test_mixup_blends_image_and_target_by_one_share():
    images, targets = pairs()
    mixed, soft = map(np.asarray, jax.jit(mixup)(jax.random.key(0), images, targets, 0.5))
    own = np.diag(soft)
    np.testing.assert_allclose(soft[np.arange(256), np.arange(256) - 1], 1 - own, atol=1e-6)
    np.testing.assert_allclose(soft.sum(1), 1, atol=1e-6)
    expected = own[:, None, None, None] * images + (1 - own)[:, None, None, None] * np.roll(images, 1, 0)
    np.testing.assert_allclose(mixed, expected, atol=1e-5)
    # Beta(0.5, 0.5) has mean 1/2 and variance 1/8.
    assert own.mean() == pytest.approx(0.5, abs=0.07)
    assert own.var() == pytest.approx(0.125, abs=0.03)
