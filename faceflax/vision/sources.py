"""Frames from a camera, a video, an image, a folder of images or the demonstration, one at a time.

Messages name the live command's option ``--source``.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from faceflax.errors import FaceflaxError
from faceflax.vision import demo
from faceflax.vision.opencv import cv2

IMAGE_SUFFIXES: tuple[str, ...] = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    Attributes:
        image: uint8 ``[height, width, 3]`` BGR.
        name: the file it came from, or the source's name.
        index: its number in the source, from 0.
        time: seconds since the source's first frame; 0 for images.
    """

    image: UInt8[np.ndarray, "height width 3"]
    name: str
    index: int
    time: float


@dataclass(frozen=True)
class Source:
    """Frames, and what is known of them beforehand.

    Attributes:
        kind: what the frames come from; the demonstration is a ``video``.
        frames: yields each frame once and keeps none; close it to let go of the camera or file.
        fps: frames a second, where known.
        count: how many frames, where known; a video's header may be a little wrong.
    """

    kind: Literal["camera", "video", "image", "folder"]
    frames: Generator[Frame, None, None]
    fps: float | None = None
    count: int | None = None


def open_source(source: str) -> Source:
    """Opens what ``--source`` names.

    Args:
        source: a camera's index, the path of a video, of an image (of any depth and channels that OpenCV reads) or of a
            folder of images, or ``demo``.

    Raises:
        FaceflaxError: no such camera, path or images, or a file that cannot be read. The frames raise it where a video
            turns out to hold none. A video that ends early or an unreadable image of a folder is a line on stderr.

    Example:
        >>> source = open_source("demo")
        >>> source.kind, source.fps, source.count
        ('video', 25.0, 96)
        >>> next(source.frames).image.shape
        (360, 640, 3)
    """
    path = Path(source)
    if source == "demo":
        return Source("video", _demo_frames(), demo.FPS, demo.NUM_FRAMES)
    if source.isascii() and source.isdigit():
        return _open_camera(source)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise FaceflaxError(
            f"--source: there is no {source!r}; give a camera's index, a video, an image, a folder of images, or demo"
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        image = _read_image(path)
        if image is None:
            raise FaceflaxError(f"--source: {source!r} cannot be read as an image; is it complete?")
        return Source("image", (frame for frame in [Frame(image, path.name, 0, 0.0)]), count=1)
    return _open_video(path)


def _warn(message: str) -> None:
    tqdm.write(f"warning: --source: {message}", file=sys.stderr)


def _known(value: float) -> float | None:
    """OpenCV says 0, a negative number or NaN for what it does not know."""
    return value if math.isfinite(value) and value > 0 else None


def _demo_frames() -> Generator[Frame, None, None]:
    for index, image in enumerate(demo.video()):
        yield Frame(image, "demo", index, index / demo.FPS)


def _open_camera(index: str) -> Source:
    capture = cv2.VideoCapture(int(index)) if int(index) < 2**31 else None
    if capture is None or not capture.isOpened():
        raise FaceflaxError(
            f"--source: there is no camera {index}, or another program uses it; "
            "give another index, a video, an image, a folder of images, or demo"
        )

    def frames() -> Generator[Frame, None, None]:
        try:
            number, start = 0, 0.0
            while True:
                read, image = capture.read()
                if not read:
                    _warn(f"camera {index} gives no more frames")
                    return
                start = start or time.perf_counter()
                yield Frame(image, f"camera {index}", number, time.perf_counter() - start)
                number += 1
        finally:
            capture.release()

    return Source("camera", frames(), _known(capture.get(cv2.CAP_PROP_FPS)))


def _open_video(path: Path) -> Source:
    capture = cv2.VideoCapture(str(path))
    text = capture.get(cv2.CAP_PROP_FOURCC) == cv2.VideoWriter.fourcc(*"ansi")  # FFmpeg films text as on a terminal
    if text or not capture.isOpened():
        reason = "is empty" if path.stat().st_size == 0 else "cannot be read as a video; is it complete, and a video?"
        raise FaceflaxError(f"--source: {str(path)!r} {reason}")
    fps = _known(capture.get(cv2.CAP_PROP_FPS)) or 25.0
    expected = _known(capture.get(cv2.CAP_PROP_FRAME_COUNT))

    def frames() -> Generator[Frame, None, None]:
        number = 0
        try:
            while True:
                read, image = capture.read()
                if not read:
                    break
                yield Frame(image, path.name, number, number / fps)
                number += 1
        finally:
            capture.release()
        if number == 0:
            raise FaceflaxError(f"--source: no frame of the video {str(path)!r} can be read; is it complete?")
        if expected and number < expected:
            _warn(f"{str(path)!r} ends after {number} of the {expected:.0f} frames it announces; it may be cut short")

    return Source("video", frames(), fps, None if expected is None else int(expected))


def _open_folder(folder: Path) -> Source:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not files:
        raise FaceflaxError(f"--source: no images ({', '.join(IMAGE_SUFFIXES)}) in the folder {str(folder)!r}")

    def frames() -> Generator[Frame, None, None]:
        number = 0
        for file in files:
            image = _read_image(file)
            if image is None:
                _warn(f"{str(file)!r} cannot be read as an image; skipped")
                continue
            yield Frame(image, file.name, number, 0.0)
            number += 1
        if number == 0:
            raise FaceflaxError(f"--source: none of the {len(files)} images in the folder {str(folder)!r} can be read")

    return Source("folder", frames(), count=len(files))


def _read_image(file: Path) -> UInt8[np.ndarray, "height width 3"] | None:
    """The image as uint8 BGR, turned as its EXIF record says, or None; OpenCV converts grey, alpha and 16 bits."""
    try:
        return cv2.imread(str(file), cv2.IMREAD_COLOR)
    except cv2.error:  # such as more pixels than it is willing to read
        return None
