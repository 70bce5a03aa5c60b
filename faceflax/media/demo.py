"""A real face that needs no download: the portrait of Grace Hopper (US Navy, public domain) that matplotlib ships."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.cbook
import numpy as np

from faceflax.errors import FaceflaxError
from faceflax.opencv import cv2

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import UInt8

FPS = 25.0
NUM_FRAMES = 96
WIDTH, HEIGHT = 640, 360

_CENTER = np.array([242.0, 226.0])  # near the face's, in pixels of the photograph; the mirrored border shows no face


def photograph() -> UInt8[np.ndarray, "600 512 3"]:
    """Returns the portrait, uint8 BGR.

    Raises:
        FaceflaxError: matplotlib was installed without its sample data.

    Example:
        >>> photograph().shape
        (600, 512, 3)
    """
    file = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    image = cv2.imread(str(file))
    if image is None:
        raise FaceflaxError(
            "demo", Path(file), "{} of matplotlib is missing", "run: pip install --force-reinstall matplotlib"
        )
    return image


def video() -> Iterator[UInt8[np.ndarray, "360 640 3"]]:
    """Yields the frames of a short video of the portrait: the camera pans, zooms and tilts, and the light changes.

    ``NUM_FRAMES`` frames, uint8 BGR, meant for ``FPS`` frames a second; the last leads back to the first.

    Example:
        >>> next(video()).shape
        (360, 640, 3)
    """
    photo = photograph()
    for phase in np.linspace(0, 2 * np.pi, NUM_FRAMES, endpoint=False):
        center = _CENTER + np.array([55 * np.sin(phase), 20 * np.sin(2 * phase)])
        angle, zoom = 9 * np.sin(2 * phase), 1.05 - 0.15 * np.cos(phase)
        matrix = cv2.getRotationMatrix2D(center.tolist(), angle, zoom)
        matrix[:, 2] += np.array([WIDTH / 2, HEIGHT / 2]) - center
        frame = cv2.warpAffine(photo, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        yield cv2.convertScaleAbs(frame, alpha=1 + 0.3 * np.sin(phase))
