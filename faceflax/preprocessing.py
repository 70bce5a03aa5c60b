"""From grey uint8 faces to what a network takes; training, evaluation and live use all come through here."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from faceflax import files
from faceflax.errors import FaceflaxError
from faceflax.opencv import cv2

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import UInt8

Image = TypeVar("Image")

_MOST_BYTES = 2**29


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
        content = files.read(field, file, _MOST_BYTES)
        if content.startswith(b"GIF8"):
            content = _as_png(content)
        image = None if _is_cut(content) else cv2.imdecode(np.frombuffer(content, np.uint8), mode)
    except (FaceflaxError, cv2.error):  # cv2.error: an empty file, or too large
        image = None
    if image is None:
        raise FaceflaxError(field, file, "cannot read the image {}", "replace it or take it out")
    return image


def _as_png(gif: bytes) -> bytes:
    """The first image of a GIF, which not every OpenCV of those that the package admits reads."""
    from PIL import Image  # not needed by who has no GIF

    png = io.BytesIO()
    try:
        with Image.open(io.BytesIO(gif), formats=["GIF"]) as image:
            image.convert("RGB").save(png, "PNG", compress_level=1)
    except Exception:  # Pillow raises almost anything where a file is damaged or too large
        return b""
    return png.getvalue()


def _is_cut(content: bytes) -> bool:
    """Whether a JPEG lacks its end, which OpenCV would fill with grey; in its picture the marker cannot occur."""
    return content.startswith(b"\xff\xd8\xff") and content.find(b"\xff\xd9", len(content) // 2) < 0


def resize(
    image: UInt8[np.ndarray, "height width *channels"], size: int | tuple[int, int]
) -> UInt8[np.ndarray, "new_height new_width *channels"]:
    """Resizes one image, grey or with channels, to ``size`` x ``size`` pixels, or to ``size``, a height and a width.

    Bilinear when it grows, area-averaged when it shrinks, so that neither direction aliases.

    Example:
        >>> resize(np.zeros((48, 48), np.uint8), 64).shape, resize(np.zeros((48, 48, 3), np.uint8), (32, 40)).shape
        ((64, 64), (32, 40, 3))
    """
    height, width = (size, size) if isinstance(size, int) else size
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def normalize(images: Image) -> Image:
    """Scales uint8 images (NumPy or JAX, any shape) to float32 in [-1, 1]: ``images / 127.5 - 1``.

    Example:
        >>> normalize(np.array([0, 255], np.uint8))
        array([-1.,  1.], dtype=float32)
    """
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)  # type: ignore[attr-defined]
