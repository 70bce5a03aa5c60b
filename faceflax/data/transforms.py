"""Changes of a batch of images in plain JAX: geometry, light, erased boxes, and mixing of examples."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Bool, Float, PRNGKeyArray


def affine(
    flip: Bool[Array, " batch"],
    shift: Float[Array, "batch 2"],
    angle: Float[Array, " batch"],
    scale: Float[Array, " batch"],
) -> Float[Array, "batch 2 3"]:
    """The maps from output to source pixels of a flip, a scaling and a rotation about the centre, and a shift.

    Args:
        flip: mirror left and right.
        shift: (down, right) movement in pixels.
        angle: counter-clockwise as displayed, in radians.
        scale: above 1 magnifies.

    Returns:
        ``[A | b]`` of each image: with (row, column) counted from the image's centre, the output pixel ``p`` shows
        the source at ``A @ p + b``.

    Example:
        >>> one = jnp.ones(1)
        >>> print(affine(one < 0, jnp.array([[3.0, -2.0]]), 0 * one, 2 * one)[0, 0])
        [ 0.5  0.  -1.5]
    """
    cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    mirror = jnp.where(flip, -1, 1)
    row = jnp.stack([cos, sin], -1)
    column = jnp.stack([-sin, cos], -1) * mirror[:, None]
    matrix = jnp.stack([row, column], axis=1)
    # Sums of products, not a matmul: accelerators may round a matmul's inputs to 10 bits or fewer.
    offset = -(matrix * shift[:, None]).sum(-1, keepdims=True)
    return jnp.concatenate([matrix, offset], axis=-1)


def resample(
    images: Float[Array, "batch height width channels"], transforms: Float[Array, "batch 2 3"]
) -> Float[Array, "batch height width channels"]:
    """Applies one affine map to each image: bilinear, with the edge pixels repeated outwards.

    Args:
        images: of any range.
        transforms: maps from output to source pixels, as `affine` returns them.

    Example:
        >>> image = jnp.arange(4.0).reshape(1, 1, 4, 1)
        >>> one = jnp.ones(1)
        >>> print(resample(image, affine(one < 0, jnp.array([[0.0, 2.0]]), 0 * one, one)).ravel())
        [0. 0. 0. 1.]
    """
    height, width = images.shape[1:3]
    rows = jnp.arange(height)[:, None] - (height - 1) / 2
    columns = jnp.arange(width)[None, :] - (width - 1) / 2

    def one_image(image: Array, transform: Array) -> Array:
        (a, b, c), (d, e, f) = transform
        source = [a * rows + b * columns + (c + (height - 1) / 2), d * rows + e * columns + (f + (width - 1) / 2)]
        return jax.vmap(lambda channel: map_coordinates(channel, source, order=1, mode="nearest"), -1, -1)(image)

    # 64 images of 48x48x1 on two cores: map_coordinates 0.34 ms, a hand-written gather of four corners 0.33, rotation
    # by three 1-D shears 2.8 as gathers and 4.2 as matmuls with banded matrices.
    return jax.vmap(one_image)(images, transforms)


def boxes(
    centre: Float[Array, "batch 2"], sides: Float[Array, "batch 2"], height: int, width: int
) -> Bool[Array, "batch height width 1"]:
    """Which pixels of each image have their centre inside its box.

    Args:
        centre: (down, right) as shares of the image's sides.
        sides: (height, width) as shares of the image's sides; a box reaches no further than the image.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Example:
        >>> print(boxes(jnp.array([[0.0, 0.5]]), jnp.array([[0.5, 0.5]]), 4, 4)[0, :, :, 0].astype(int))
        [[0 1 1 0]
         [0 0 0 0]
         [0 0 0 0]
         [0 0 0 0]]
    """

    def inside(axis: int, size: int) -> Bool[Array, "batch size"]:
        pixels = (jnp.arange(size) + 0.5) / size
        return jnp.abs(pixels[None, :] - centre[:, axis, None]) < sides[:, axis, None] / 2

    return (inside(0, height)[:, :, None] & inside(1, width)[:, None, :])[..., None]


ERASED_AREA = (0.02, 0.33)
"""Smallest and largest share of an image that random erasing overwrites."""
ERASED_SHAPE = 3.3
"""Largest ratio of an erased box's longer side to its shorter one."""


def relight(
    key: PRNGKeyArray, images: Float[Array, "batch height width channels"], contrast: float, brightness: float
) -> Float[Array, "batch height width channels"]:
    """Changes contrast about each image's mean, and brightness, by amounts drawn uniformly for each image.

    Args:
        key: source of randomness.
        images: in [-1, 1], as the result is.
        contrast: largest relative change of the differences from the mean, in [0, 1].
        brightness: largest change of all pixels, as a share of the range from -1 to 1, in [0, 1].
    """
    draws = jax.random.uniform(key, (2, len(images), 1, 1, 1), minval=-1)
    mean = images.mean((1, 2, 3), keepdims=True)
    changed = mean + (images - mean) * (1 + contrast * draws[0]) + 2 * brightness * draws[1]
    return changed.clip(-1, 1)


def erase(
    key: PRNGKeyArray, images: Float[Array, "batch height width channels"], probability: float
) -> Float[Array, "batch height width channels"]:
    """Overwrites a box of random place, area and shape with random pixels, in a share of the images.

    Zhong, Zheng, Kang, Li and Yang, "Random Erasing Data Augmentation", AAAI 2020.

    Args:
        key: source of randomness.
        images: in [-1, 1].
        probability: that an image has a box erased, in [0, 1].
    """
    batch, height, width, _ = images.shape
    chosen_key, area_key, shape_key, place_key, pixels_key = jax.random.split(key, 5)
    low, high = ERASED_AREA
    area = jax.random.uniform(area_key, (batch,), minval=low, maxval=high)
    limit = math.log(ERASED_SHAPE)
    shape = jnp.exp(jax.random.uniform(shape_key, (batch,), minval=-limit, maxval=limit))
    sides = jnp.sqrt(jnp.stack([area * shape, area / shape], -1)).clip(max=1)
    centre = sides / 2 + (1 - sides) * jax.random.uniform(place_key, (batch, 2))
    chosen = jax.random.bernoulli(chosen_key, float(probability), (batch, 1, 1, 1))
    pixels = jax.random.uniform(pixels_key, images.shape, minval=-1)
    return jnp.where(chosen & boxes(centre, sides, height, width), pixels, images)


def mixup(
    key: PRNGKeyArray,
    images: Float[Array, "batch height width channels"],
    targets: Float[Array, "batch classes"],
    alpha: float,
) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch classes"]]:
    """Blends example ``i`` with example ``i - 1``, image and target alike: batches come in random order.

    The share that stays is drawn from Beta(alpha, alpha) for each example.

    Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018.

    Args:
        key: source of randomness.
        images: of any range.
        targets: their distributions.
        alpha: above 0; the larger, the more alike are the two shares.

    Example:
        >>> images, targets = mixup(jax.random.key(0), jnp.zeros((8, 48, 48, 1)), jnp.eye(8), alpha=0.4)
        >>> images.shape, bool(jnp.allclose(targets.sum(1), 1))
        ((8, 48, 48, 1), True)
    """
    _, share_key = jax.random.split(key)  # the second key, as when there was a choice of ways to mix
    share = jax.random.beta(share_key, alpha, alpha, (len(images), 1, 1, 1))
    mixed = share * images + (1 - share) * jnp.roll(images, 1, axis=0)
    share = share[:, :, 0, 0]
    return mixed, share * targets + (1 - share) * jnp.roll(targets, 1, axis=0)
