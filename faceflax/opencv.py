"""OpenCV, imported in one place: an installation that cannot work becomes an error that says what to do.

Use ``from faceflax.opencv import cv2`` instead of ``import cv2``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from faceflax.errors import FaceflaxError

# OpenCV and FFmpeg would print several lines about a bad file; this package reports it itself, once.
os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**28))  # more would need gigabytes, whatever the file's size

_HEADLESS = 'pip install "opencv-python-headless>=4.11,<5"'

try:
    import cv2
except ImportError as error:
    library = re.match(r"(\S+\.so[.\d]*): cannot open shared object file", str(error))
    if library is None:
        raise FaceflaxError("OpenCV", error, "cannot be imported ({})", f"run: {_HEADLESS}") from error
    raise FaceflaxError(
        "OpenCV",
        library[1],
        "the system library {} is missing",
        "on Debian and Ubuntu run: apt-get install libgl1 libglib2.0-0; or, where no window is needed, replace the "
        f"wheel: pip uninstall opencv-python && {_HEADLESS}",
    ) from error


def load_cascade(name: str) -> cv2.CascadeClassifier:
    """Returns one of the Haar cascades that OpenCV 4 ships.

    Args:
        name: such as ``haarcascade_frontalface_default``.

    Raises:
        FaceflaxError: this OpenCV has no cascade classifier (5.0 dropped it) or no such file.

    Example:
        >>> load_cascade("haarcascade_frontalface_default").getOriginalWindowSize()
        (24, 24)
    """
    try:
        file = Path(cv2.data.haarcascades) / f"{name}.xml"  # type: ignore[attr-defined]  # the stubs lack it
        cascade = cv2.CascadeClassifier()
        usable = file.is_file() and cascade.load(str(file))
    except AttributeError:
        usable = False
    if not usable:
        raise FaceflaxError(
            "OpenCV",
            name,
            f"version {cv2.__version__} has no cascade classifier with {{}}",
            'run: pip install "opencv-python>=4.11,<5"',
        )
    return cascade
