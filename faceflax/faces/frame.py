"""One frame on its way through detection, the networks and drawing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from faceflax.errors import FaceflaxError
from faceflax.opencv import cv2

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Int32, UInt8

    Image = UInt8[np.ndarray, "height width 3"]
else:
    Image = np.ndarray
"""A colour image: uint8 ``[height, width, 3]``, BGR as OpenCV has it."""


class Frame(np.ndarray):
    """A colour image that knows its grey version and where it comes from.

    It is an array, uint8 ``[height, width, 3]`` BGR, and goes wherever one does: detectors, analyzers and overlays of
    any kind take it as they take an array, and those of this library find its :attr:`grey` already computed. Do not
    change its pixels: copy it first. Copies and slices are frames of their own; results of arithmetic are plain arrays.

    Args:
        image: what :func:`as_bgr` takes.
        name: the file it came from, or the source's name.
        index: its number in the source, from 0.
        time: seconds since the source's first frame; 0 for images.

    Raises:
        FaceflaxError: ``image`` is not an image.

    Example:
        >>> frame = Frame(np.full((2, 2, 3), 255, np.uint8), "clip.mp4", index=50, time=2.0)
        >>> frame.shape, frame.grey.shape, frame.index
        ((2, 2, 3), (2, 2), 50)
    """

    name: str = ""
    index: int = 0
    time: float = 0.0

    def __new__(cls, image: np.ndarray, name: str = "", index: int = 0, time: float = 0.0) -> Frame:
        """Makes a frame of an image; its pixels are shared where they are uint8 BGR already."""
        frame = as_bgr(image).view(cls)
        frame.name, frame.index, frame.time = name, index, time
        return frame

    @cached_property
    def grey(self) -> UInt8[np.ndarray, "height width"]:
        """The grey image, uint8 ``[height, width]``; computed once. Threads that ask together get the same values."""
        return cv2.cvtColor(self, cv2.COLOR_BGR2GRAY)

    @property
    def image(self) -> Image:
        """The same pixels as a plain array."""
        return self.view(np.ndarray)

    def masked(self, boxes: Int32[np.ndarray, "boxes 4"]) -> Frame:
        """Returns a copy with boxes (x, y, width, height in pixels, inside the frame) blackened, grey included."""
        masked = self.copy()
        masked.grey = self.grey.copy()
        for x, y, width, height in boxes:
            for pixels in (masked, masked.grey):
                pixels[y : y + height, x : x + width] = 0
        return masked

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
        return array[()] if return_scalar else array.view(np.ndarray)


def as_frame(frame: object) -> Frame:
    """Returns ``frame`` itself if it is a :class:`Frame`, and otherwise makes one of an image.

    Args:
        frame: uint8 ``[height, width, 3]`` BGR.

    Raises:
        FaceflaxError: it is not such an array.
    """
    if frame is None:
        remedy = "check its path; cv2.imread returns None if it fails"
        raise FaceflaxError("frame", None, "{} is not an image: it could not be read", remedy)
    if not isinstance(frame, np.ndarray):
        raise FaceflaxError("frame", type(frame).__name__, "a {} is not a NumPy array", "read it with cv2.imread")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise FaceflaxError(
            "frame",
            frame.shape,
            f"type {frame.dtype}, shape {{}} is not uint8 [height, width, 3]",
            "convert it to BGR, as cv2.imread gives it",
        )
    return frame if isinstance(frame, Frame) else frame.view(Frame)


def as_frames(frames: Sequence[object]) -> list[Frame]:
    """Returns each of ``frames`` as :func:`as_frame` does."""
    return [as_frame(frame) for frame in frames]


def as_bgr(image: np.ndarray) -> Image:
    """Returns an image of any common layout as uint8 ``[height, width, 3]`` BGR; one that is so already as it is.

    Args:
        image: grey ``[height, width]`` or ``[height, width, 1]``, BGR, or BGRA, whose alpha is dropped; of uint8, or of
            uint16 for values from 0 to 65535.

    Raises:
        FaceflaxError: another type or shape, or no pixels.

    Example:
        >>> as_bgr(np.full((1, 1), 65535, np.uint16))
        array([[[255, 255, 255]]], dtype=uint8)
    """
    layout = image.shape[2:] in ((), (1,), (3,), (4,)) and image.ndim >= 2 and image.size > 0
    if not layout or image.dtype not in (np.uint8, np.uint16):
        raise FaceflaxError(
            "image",
            image.shape,
            f"type {image.dtype}, shape {{}} is not an image",
            "give uint8 or uint16 pixels, [height, width] or [height, width, 1, 3 or 4]",
        )
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=1 / 257).reshape(image.shape)
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return image if image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
