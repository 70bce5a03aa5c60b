"""From grey uint8 faces to what a network takes; training, evaluation and live use all come through here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from faceflax.errors import FaceflaxError
from faceflax.opencv import cv2

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import UInt8

Image = TypeVar("Image")


def read_grey(field: str, file: Path) -> UInt8[np.ndarray, "height width"]:
    """Reads an image as grey; see :func:`read_image`."""
    return _read(field, file, cv2.IMREAD_GRAYSCALE)


def read_image(field: str, file: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Reads an image as BGR.

    Args:
        field: what the caller names the image by, for the error.
        file: in any format that OpenCV reads.

    Raises:
        FaceflaxError: the file is missing or is not a whole image.
    """
    return _read(field, file, cv2.IMREAD_COLOR)


def _read(field: str, file: Path, mode: int) -> UInt8[np.ndarray, "height width *channels"]:
    try:
        image = cv2.imdecode(np.fromfile(file, np.uint8), mode)
    except (OSError, cv2.error):  # cv2.error: an empty file
        image = None
    if image is None:
        raise FaceflaxError(field, file, "cannot read the image {}", "replace it or take it out")
    return image


def resize(image: UInt8[np.ndarray, "height width *channels"], size: int) -> UInt8[np.ndarray, "size size *channels"]:
    """Resizes one image, grey or with channels, to ``size`` x ``size`` pixels.

    Bilinear when it grows, area-averaged when it shrinks, so that neither direction aliases.

    Example:
        >>> resize(np.zeros((48, 48), np.uint8), 64).shape
        (64, 64)
    """
    if image.shape[:2] == (size, size):
        return image
    interpolation = cv2.INTER_AREA if min(image.shape[:2]) >= size else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=interpolation)


def normalize(images: Image) -> Image:
    """Scales uint8 images (NumPy or JAX, any shape) to float32 in [-1, 1]: ``images / 127.5 - 1``.

    Example:
        >>> normalize(np.array([0, 255], np.uint8))
        array([-1.,  1.], dtype=float32)
    """
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)  # type: ignore[attr-defined]
