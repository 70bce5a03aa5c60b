"""Where the faces are."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Int32, UInt8

from faceflax.errors import FaceflaxError
from faceflax.vision.opencv import cv2, load_cascade


class Detector(Protocol):
    """Anything that finds faces: a function from a frame to boxes."""

    def __call__(self, frame: UInt8[np.ndarray, "height width 3"]) -> Int32[np.ndarray, "faces 4"]:
        """Returns boxes x, y, width, height in pixels, inside the frame, the surest first.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR, as OpenCV gives it.
        """
        ...


class HaarDetector:
    """OpenCV's frontal-face Haar cascade on the equalised grey frame.

    The frame is searched with its border repeated outwards, so that a face which the border touches or cuts a little is
    found too. Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple Features", CVPR 2001.

    Args:
        scale_factor: ratio of successive face sizes searched, above 1; nearer to 1 finds more and takes longer.
        min_neighbors: how many overlapping hits make a face; more of them mean fewer false faces.
        min_size: side of the smallest face to find, in pixels of the frame; the networks see little in a smaller
            one, and the small ones take most of the time.
        max_side: a frame whose longer side has more pixels is reduced to this before the search; ``None``
            never reduces.

    Raises:
        FaceflaxError: an argument out of its range, or an OpenCV without the cascade.

    Example:
        >>> from faceflax.vision.demo import photograph
        >>> HaarDetector()(photograph()).shape
        (1, 4)
    """

    def __init__(
        self, scale_factor: float = 1.1, min_neighbors: int = 5, min_size: int = 48, max_side: int | None = 640
    ) -> None:
        if not scale_factor > 1:
            raise FaceflaxError(f"scale_factor: {scale_factor} is not above 1; 1.1 is usual")
        if min_neighbors < 1:
            raise FaceflaxError(f"min_neighbors: {min_neighbors} is not a number of hits; give 1 or more")
        if min_size < 1:
            raise FaceflaxError(f"min_size: {min_size} is not a number of pixels; give 1 or more")
        if max_side is not None and max_side < 1:
            raise FaceflaxError(f"max_side: {max_side} is not a number of pixels; give 1 or more, or None")
        self.scale_factor = scale_factor
        self.min_neighbors = min_neighbors
        self.min_size = min_size
        self.max_side = max_side
        self._cascade = load_cascade("haarcascade_frontalface_default")

    def __call__(self, frame: UInt8[np.ndarray, "height width 3"]) -> Int32[np.ndarray, "faces 4"]:
        """Returns boxes x, y, width, height in pixels, inside the frame, the one with the most hits first."""
        height, width = frame.shape[:2]
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        scale = min(1.0, (self.max_side or np.inf) / max(height, width))
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        grey = cv2.equalizeHist(grey)
        # An eighth of the shorter side: faces cut by 15% of their width are found again; more costs time, finds little.
        pad = min(grey.shape) // 8
        grey = cv2.copyMakeBorder(grey, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        smallest = max(1, round(self.min_size * scale))
        found, hits = self._cascade.detectMultiScale2(
            grey, self.scale_factor, self.min_neighbors, minSize=(smallest, smallest)
        )
        if len(found) == 0:  # OpenCV's answer is then an empty tuple
            return np.empty((0, 4), np.int32)
        boxes = np.asarray(found)[np.argsort(np.negative(hits), kind="stable")]
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) - pad
        corners = np.rint(corners / scale).clip(0, [width, height, width, height])
        return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).astype(np.int32)
