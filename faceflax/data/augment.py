"""Random augmentation of images, and mixing of examples, in plain JAX, made to run inside the jitted train step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from faceflax.errors import FaceflaxError


def affine(
    flip: Bool[Array, " batch"],
    shift: Float[Array, "batch 2"],
    angle: Float[Array, " batch"],
    scale: Float[Array, " batch"],
    slant: Float[Array, " batch"],
) -> Float[Array, "batch 2 3"]:
    """The maps from output to source pixels of a flip, a shear, a scaling and a rotation about the centre, and a shift.

    Args:
        flip: mirror left and right.
        shift: (down, right) movement in pixels.
        angle: counter-clockwise as displayed, in radians.
        scale: above 1 magnifies.
        slant: columns that a row moves to the right for each row that it lies below the centre.

    Returns:
        ``[A | b]`` of each image: with (row, column) counted from the image's centre, the output pixel ``p`` shows
        the source at ``A @ p + b``.

    Example:
        >>> one = jnp.ones(1)
        >>> print(affine(one < 0, jnp.array([[3.0, -2.0]]), 0 * one, 2 * one, 0 * one)[0, 0])
        [ 0.5  0.  -1.5]
    """
    cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    mirror = jnp.where(flip, -1, 1)
    row = jnp.stack([cos, sin], -1)
    column = (jnp.stack([-sin, cos], -1) - slant[:, None] * row) * mirror[:, None]
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
        >>> print(resample(image, affine(one < 0, jnp.array([[0.0, 2.0]]), 0 * one, one, 0 * one)).ravel())
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


@dataclass(frozen=True)
class Augmentation:
    """A random change of each image: geometry in one bilinear resampling, then contrast and brightness, then erasing.

    Every amount is drawn uniformly and independently for each image. At zero amounts the images come back unchanged.
    Pixels from outside repeat the edge.

    Random erasing overwrites a box of random place, area and shape with random pixels: Zhong, Zheng, Kang, Li and Yang,
    "Random Erasing Data Augmentation", AAAI 2020.

    Args:
        flip: mirror half of the images.
        shift: largest shift along each axis, as a share of the side, in [0, 1).
        rotation: largest rotation either way, in degrees, in [0, 180].
        zoom: largest relative change of scale, in [0, 1); 0.1 draws scales from [0.9, 1.1].
        shear: largest horizontal shear either way, in degrees, in [0, 60].
        contrast: largest relative change of the differences from an image's mean, in [0, 1].
        brightness: largest shift of all pixels, as a share of the range from black to white, in [0, 1].
        erase: probability that a box of an image is erased, in [0, 1].

    Raises:
        FaceflaxError: an amount is outside its range.

    Example:
        >>> augment = jax.jit(Augmentation(rotation=5.0))
        >>> augment(jax.random.key(0), jnp.zeros((8, 48, 48, 1))).shape
        (8, 48, 48, 1)
    """

    flip: bool = True
    shift: float = 0.08
    rotation: float = 10.0
    zoom: float = 0.1
    shear: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.shift < 1:
            raise FaceflaxError(f"shift: {self.shift} is not a share of the image's side; give a number in [0, 1)")
        if not 0 <= self.rotation <= 180:
            raise FaceflaxError(f"rotation: {self.rotation} is not usable; give degrees in [0, 180]")
        if not 0 <= self.zoom < 1:
            raise FaceflaxError(f"zoom: {self.zoom} is not a relative change of scale; give a number in [0, 1)")
        if not 0 <= self.shear <= 60:
            raise FaceflaxError(f"shear: {self.shear} is not usable; give degrees in [0, 60]")
        for name in ("contrast", "brightness", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise FaceflaxError(f"{name}: {getattr(self, name)} is not a share; give a number in [0, 1]")

    def __call__(
        self, key: PRNGKeyArray, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Augments each image with its own draw from ``key``; contrast, brightness and erasing need [-1, 1]."""
        batch, height, width, _ = images.shape
        flip_key, shift_key, rotation_key, zoom_key, shear_key, light_key, erase_key = jax.random.split(key, 7)
        flip = jax.random.bernoulli(flip_key, 0.5, (batch,)) & self.flip
        shift = self.shift * jax.random.uniform(shift_key, (batch, 2), minval=-1) * jnp.array([[height, width]])
        angle = math.radians(self.rotation) * jax.random.uniform(rotation_key, (batch,), minval=-1)
        scale = 1 + self.zoom * jax.random.uniform(zoom_key, (batch,), minval=-1)
        slant = jnp.tan(math.radians(self.shear) * jax.random.uniform(shear_key, (batch,), minval=-1))
        images = resample(images, affine(flip, shift, angle, scale, slant))
        if self.contrast or self.brightness:
            images = self._relight(light_key, images)
        if self.erase:
            images = self._erase(erase_key, images)
        return images

    def _relight(self, key: PRNGKeyArray, images: Array) -> Array:
        draws = jax.random.uniform(key, (2, len(images), 1, 1, 1), minval=-1)
        mean = images.mean((1, 2, 3), keepdims=True)
        changed = mean + (images - mean) * (1 + self.contrast * draws[0]) + 2 * self.brightness * draws[1]
        return changed.clip(-1, 1)

    def _erase(self, key: PRNGKeyArray, images: Array) -> Array:
        batch, height, width, _ = images.shape
        chosen_key, area_key, shape_key, place_key, pixels_key = jax.random.split(key, 5)
        low, high = ERASED_AREA
        area = jax.random.uniform(area_key, (batch,), minval=low, maxval=high)
        limit = math.log(ERASED_SHAPE)
        shape = jnp.exp(jax.random.uniform(shape_key, (batch,), minval=-limit, maxval=limit))
        sides = jnp.sqrt(jnp.stack([area * shape, area / shape], -1)).clip(max=1)
        centre = sides / 2 + (1 - sides) * jax.random.uniform(place_key, (batch, 2))
        chosen = jax.random.bernoulli(chosen_key, float(self.erase), (batch, 1, 1, 1))
        pixels = jax.random.uniform(pixels_key, images.shape, minval=-1)
        return jnp.where(chosen & boxes(centre, sides, height, width), pixels, images)


@dataclass(frozen=True)
class Mixing:
    """Mixes each example with another of its batch, image and target alike, by a share of its own for each.

    mixup blends the two images; cutmix puts a box of the other image in. The share that stays is drawn from
    Beta(alpha, alpha); with both on, each example takes one of them at random. At zero, nothing is mixed.

    Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun, Han, Oh, Chun,
    Choe and Yoo, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.

    Args:
        mixup: alpha of mixup, 0 or more.
        cutmix: alpha of cutmix, 0 or more.

    Raises:
        FaceflaxError: an alpha is negative or not finite.

    Example:
        >>> images, targets = Mixing(mixup=0.4)(jax.random.key(0), jnp.zeros((8, 48, 48, 1)), jnp.eye(8))
        >>> images.shape, bool(jnp.allclose(targets.sum(1), 1))
        ((8, 48, 48, 1), True)
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise FaceflaxError(f"{name}: {getattr(self, name)} is not usable; give an alpha of 0 or more")

    def __call__(
        self,
        key: PRNGKeyArray,
        images: Float[Array, "batch height width channels"],
        targets: Float[Array, "batch classes"],
    ) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch classes"]]:
        """Mixes example ``i`` with example ``i - 1``: batches come in random order."""
        if not (self.mixup or self.cutmix):
            return images, targets
        batch, height, width, _ = images.shape
        which_key, mixup_key, cutmix_key, centre_key = jax.random.split(key, 4)
        masks = []  # of each method: how much of each pixel stays
        if self.mixup:
            stays = jax.random.beta(mixup_key, self.mixup, self.mixup, (batch, 1, 1, 1))
            masks.append(jnp.broadcast_to(stays, (batch, height, width, 1)))
        if self.cutmix:
            side = jnp.sqrt(1 - jax.random.beta(cutmix_key, self.cutmix, self.cutmix, (batch, 1)))
            centre = jax.random.uniform(centre_key, (batch, 2))
            masks.append(1.0 - boxes(centre, jnp.broadcast_to(side, (batch, 2)), height, width))
        mask = jnp.where(jax.random.bernoulli(which_key, 0.5, (batch, 1, 1, 1)), masks[0], masks[-1])
        share = mask.mean((1, 2, 3))[:, None]
        images = mask * images + (1 - mask) * jnp.roll(images, 1, axis=0)
        return images, share * targets + (1 - share) * jnp.roll(targets, 1, axis=0)
