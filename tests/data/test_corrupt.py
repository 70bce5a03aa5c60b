"""Training's corruptions against closed forms, SciPy and OpenCV."""

from __future__ import annotations

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from faceflax.data.corrupt import blurred, corrupt, jpeg


def images(count, size=48, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (count, 6, 6)).astype(np.float32)
    fine = [cv2.resize(each, (size, size), interpolation=cv2.INTER_CUBIC) for each in coarse]
    return jnp.asarray(np.stack(fine)[..., None].clip(-1, 1))


def test_a_share_of_the_images_is_corrupted():
    given = images(400)
    for share in (0.0, 0.5, 1.0):
        changed = jax.jit(corrupt, static_argnums=2)(jax.random.key(0), given, share)
        assert changed.shape == given.shape
        assert float(jnp.abs(changed).max()) <= 1
        touched = np.asarray((changed != given).any((1, 2, 3)))
        some = 1 - 0.8**7  # of seven kinds, each with a probability of 0.2
        assert touched.mean() == pytest.approx(share * some, abs=0.08)


def test_draws_depend_on_the_key_alone():
    given = images(16)
    one, again, other = (corrupt(jax.random.key(seed), given, 1.0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_a_blur_inside_is_scipy_s():
    given = images(3)
    sigma = np.array([[1.5, 1.5], [2.0, 0.0], [0.0, 0.7]])
    found = np.asarray(blurred(given, jnp.asarray(sigma)))[..., 0]
    for image, blur, one in zip(np.asarray(given)[..., 0], sigma, found, strict=True):
        expected = gaussian_filter(image.astype(np.float64), blur, truncate=8)
        np.testing.assert_allclose(one[10:-10, 10:-10], expected[10:-10, 10:-10], atol=1e-5)


def test_a_blur_keeps_what_is_flat_to_the_edge():
    flat = jnp.full((1, 12, 20, 1), 0.3)
    np.testing.assert_allclose(blurred(flat, jnp.array([[2.0, 3.0]])), flat, atol=1e-6)


@pytest.mark.parametrize("quality", [10, 30, 75])
def test_jpeg_rounds_as_opencv_s(quality):
    """But for coefficients on the edge between two steps, which libjpeg's integer cosines put on either side."""
    given = images(12)
    grey = np.rint((np.asarray(given)[..., 0] + 1) * 127.5).astype(np.uint8)
    found = np.asarray(jpeg(jnp.asarray(grey[..., None] / np.float32(127.5) - 1), jnp.full(12, float(quality))))
    found = (found[..., 0] + 1) * 127.5
    for image, one in zip(grey, found, strict=True):
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        expected = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE).astype(np.float64)
        assert (np.abs(one.clip(0, 255) - expected) < 2.5).mean() > 0.95
        assert np.abs(expected - image).mean() > 0.05  # something was lost


def test_jpeg_of_sides_that_are_no_multiples_of_eight():
    given = images(2, size=50)
    found = jpeg(given, jnp.array([90.0, 90.0]))
    assert found.shape == given.shape
    np.testing.assert_allclose(found, given, atol=0.1)
