"""Corruptions of a batch of training images in plain JAX: covered, blurred, pale, dark, noisy, compressed faces.

What :mod:`faceflax.evaluation.corruptions` measures at one strength each is drawn here at any strength up to more than
that, several at a time. Strengths are in pixels of a face of 64 pixels, whatever the size of the images.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from faceflax.data.transforms import boxes

KINDS = 0.2
"""Probability of each kind, in an image that is corrupted."""
BLUR, MOTION = 2.8, 0.3
"""Largest standard deviation of a blur; share of the blurs that are along one axis alone."""
CONTRAST = (0.2, 1.3)
GAMMA = (0.5, 2.6)
LIGHT = 0.12
"""Least share of the light that is left."""
SIDE = 0.85
"""Largest share of the light that one side of the face loses."""
NOISE = 24.0
"""Largest standard deviation, in 255 grey values."""
QUALITY = (8, 70)
"""Of JPEG."""
COVER = (0.03, 0.5)
"""Sides of what covers a face, as shares of the image's: from a line to half of it."""

_LUMINANCE = np.array(  # of ITU-T T.81, Annex K
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)


def corrupt(
    key: PRNGKeyArray, images: Float[Array, "batch height width channels"], share: float
) -> Float[Array, "batch height width channels"]:
    """Corrupts a share of the images, each with draws of its own: every kind happens to :data:`KINDS` of them.

    Args:
        key: source of randomness.
        images: in [-1, 1], as the result is.
        share: probability that an image is corrupted, in [0, 1].

    Example:
        >>> corrupt(jax.random.key(0), jnp.zeros((8, 48, 48, 1)), share=0.5).shape
        (8, 48, 48, 1)
    """
    batch, height, width, _ = images.shape
    keys = jax.random.split(key, 12)
    any_key, kinds_key = keys[:2]
    chosen = jax.random.bernoulli(any_key, share, (batch, 1)) & jax.random.bernoulli(kinds_key, KINDS, (batch, 7))

    def where(kind: int, changed: Array) -> Array:
        return jnp.where(chosen[:, kind, None, None, None], changed, images)  # images as they are by then

    def draw(key: Array, low: float, high: float) -> Array:
        return jax.random.uniform(key, (batch, 1, 1, 1), minval=low, maxval=high)

    # Something before the face: bars, lines and boxes of one shade.
    sides = jnp.exp(jax.random.uniform(keys[2], (batch, 2), minval=math.log(COVER[0]), maxval=math.log(COVER[1])))
    wide = jax.random.bernoulli(keys[3], 0.3, (batch,))  # from ear to ear: masks, glasses, lines
    sides = sides.at[:, 1].set(jnp.where(wide, 1.0, sides[:, 1]))
    place_key, shade_key = jax.random.split(keys[4])
    centre = sides / 2 + (1 - sides) * jax.random.uniform(place_key, (batch, 2))
    shade = draw(shade_key, -1, 1)
    images = where(0, jnp.where(boxes(centre, sides, height, width), shade, images))

    sigma_key, motion_key, axis_key = jax.random.split(keys[5], 3)
    sigma = jax.random.uniform(sigma_key, (batch, 1), maxval=BLUR * width / 64) * jnp.ones((1, 2))
    along_it = jnp.arange(2)[None] == jax.random.bernoulli(axis_key, 0.5, (batch, 1))
    still = jax.random.bernoulli(motion_key, MOTION, (batch, 1)) & along_it
    images = where(1, blurred(images, jnp.where(still, 0.0, sigma)))

    contrast_key, gamma_key = jax.random.split(keys[6])
    contrast = jnp.exp(draw(contrast_key, *map(math.log, CONTRAST)))
    images = where(2, images * contrast)
    gamma = jnp.exp(draw(gamma_key, *map(math.log, GAMMA)))
    light = jnp.exp(draw(keys[7], math.log(LIGHT), 0.0))
    darker = jax.random.bernoulli(keys[8], 0.5, (batch, 1, 1, 1))
    bright = (images.clip(-1, 1) + 1) / 2
    images = where(3, 2 * jnp.where(darker, bright * light, bright**gamma) - 1)
    images = where(4, (images + 1) * _ramp(keys[9], batch, height, width) - 1)

    noise_key, amount_key = jax.random.split(keys[10])
    amount = draw(amount_key, 0.0, 2 * NOISE / 255)
    images = where(5, images + amount * jax.random.normal(noise_key, images.shape)).clip(-1, 1)
    quality = draw(keys[11], *QUALITY)
    return where(6, jpeg(images, quality[:, 0, 0, 0])).clip(-1, 1)


def blurred(
    images: Float[Array, "batch height width channels"], sigma: Float[Array, "batch 2"]
) -> Float[Array, "batch height width channels"]:
    """Blurs each image by a Gaussian of its own, with one standard deviation down and one across, in pixels.

    Example:
        >>> image = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4, 0].set(1.0)
        >>> [f"{value:.3f}" for value in blurred(image, jnp.array([[1.0, 0.0]]))[0, 3:6, 4, 0]]
        ['0.242', '0.399', '0.242']
    """

    def matrix(sigma: Float[Array, " batch"], size: int) -> Float[Array, "batch size size"]:
        distance = jnp.square(jnp.arange(size)[:, None] - jnp.arange(size)[None, :])[None]
        weights = jnp.exp(-distance / (2 * jnp.square(jnp.maximum(sigma, 1e-3))[:, None, None]))
        return weights / weights.sum(-1, keepdims=True)

    down, across = matrix(sigma[:, 0], images.shape[1]), matrix(sigma[:, 1], images.shape[2])
    return jnp.einsum("bij,bjkc,blk->bilc", down, images, across)


def jpeg(
    images: Float[Array, "batch height width channels"], quality: Float[Array, " batch"]
) -> Float[Array, "batch height width channels"]:
    """Rounds each image as JPEG of a quality from 1 to 100 rounds grey ones; sides are repeated to multiples of 8.

    Wallace, "The JPEG Still Picture Compression Standard", Communications of the ACM, 1991.

    Example:
        >>> jpeg(jnp.full((1, 16, 16, 1), 0.5), jnp.array([50.0])).shape
        (1, 16, 16, 1)
    """
    batch, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    rows, columns = padded.shape[1] // 8, padded.shape[2] // 8
    blocks = (padded * 127.5 - 0.5).reshape(batch, rows, 8, columns, 8, channels)
    at = np.arange(8)
    weights = np.where(at == 0, 0.125, 0.25)[:, None] ** 0.5
    cosines = jnp.asarray(weights * np.cos(np.pi * (at[None, :] + 0.5) * at[:, None] / 8), images.dtype)
    factor = jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None]
    steps = jnp.floor((_LUMINANCE[None] * factor + 50) / 100).clip(1, 255)[:, None, :, None, :, None]
    spectrum = jnp.einsum("ui,vj,bricjd->brucvd", cosines, cosines, blocks)
    spectrum = jnp.round(spectrum / steps) * steps
    blocks = jnp.einsum("ui,vj,brucvd->bricjd", cosines, cosines, spectrum)
    return ((blocks.reshape(padded.shape) + 0.5) / 127.5)[:, :height, :width]


def _ramp(key: Array, batch: int, height: int, width: int) -> Float[Array, "batch height width 1"]:
    """The share of the light that is left at each pixel, where it falls off across the face in some direction."""
    angle_key, amount_key = jax.random.split(key)
    angle = jax.random.uniform(angle_key, (batch, 1, 1), maxval=2 * math.pi)
    amount = jax.random.uniform(amount_key, (batch, 1, 1), maxval=SIDE)
    rows, columns = (jnp.linspace(-0.5, 0.5, size) for size in (height, width))
    along = jnp.cos(angle) * rows[None, :, None] + jnp.sin(angle) * columns[None, None, :]
    return (1 - amount * (0.5 + along).clip(0, 1))[..., None]
