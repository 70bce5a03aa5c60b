"""Random augmentation of images: how much of what. Light to import: command lines are built from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from faceflax.errors import FaceflaxError

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray


@dataclass(frozen=True)
class Augmentation:
    """A random change of each image: geometry in one bilinear resampling, then contrast and brightness, then erasing.

    Every amount is drawn uniformly and independently for each image. At zero amounts the images come back unchanged.
    Pixels from outside repeat the edge. Plain JAX (:mod:`faceflax.data.transforms`), made to run inside a jitted step.

    Raises:
        FaceflaxError: an amount is outside its range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> augment = jax.jit(Augmentation(rotation=5.0))
        >>> augment(jax.random.key(0), jnp.zeros((8, 48, 48, 1))).shape
        (8, 48, 48, 1)
    """

    flip: bool = True
    """Mirror half of the images."""
    shift: float = 0.08
    """Largest shift along each axis, as a share of the side, in [0, 1)."""
    rotation: float = 10.0
    """Largest rotation either way in degrees, in [0, 180]."""
    zoom: float = 0.1
    """Largest relative change of scale, in [0, 1): 0.1 draws scales from [0.9, 1.1]."""
    contrast: float = 0.0
    """Largest relative change of the differences from an image's mean, in [0, 1]."""
    brightness: float = 0.0
    """Largest change of brightness, as a share of the range from black to white, in [0, 1]."""
    erase: float = 0.0
    """Probability that a box of an image is overwritten with noise, in [0, 1]."""

    def __post_init__(self) -> None:
        if not 0 <= self.shift < 1:
            raise FaceflaxError("shift", self.shift, "is not a share of the image's side", "give a number in [0, 1)")
        if not 0 <= self.rotation <= 180:
            raise FaceflaxError("rotation", self.rotation, "is not usable", "give degrees in [0, 180]")
        if not 0 <= self.zoom < 1:
            raise FaceflaxError("zoom", self.zoom, "is not a relative change of scale", "give a number in [0, 1)")
        for name in ("contrast", "brightness", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise FaceflaxError(name, getattr(self, name), "is not a share", "give a number in [0, 1]")

    def __call__(
        self, key: PRNGKeyArray, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Augments each image with its own draw from ``key``; contrast, brightness and erasing need [-1, 1]."""
        import jax
        import jax.numpy as jnp

        from faceflax.data import transforms

        batch, height, width, _ = images.shape
        # The fifth key is unused: an amount that was removed had it, and the others' draws stay what they were.
        flip_key, shift_key, rotation_key, zoom_key, _, light_key, erase_key = jax.random.split(key, 7)
        flip = jax.random.bernoulli(flip_key, 0.5, (batch,)) & self.flip
        shift = self.shift * jax.random.uniform(shift_key, (batch, 2), minval=-1) * jnp.array([[height, width]])
        angle = math.radians(self.rotation) * jax.random.uniform(rotation_key, (batch,), minval=-1)
        scale = 1 + self.zoom * jax.random.uniform(zoom_key, (batch,), minval=-1)
        images = transforms.resample(images, transforms.affine(flip, shift, angle, scale))
        if self.contrast or self.brightness:
            images = transforms.relight(light_key, images, self.contrast, self.brightness)
        if self.erase:
            images = transforms.erase(erase_key, images, self.erase)
        return images
