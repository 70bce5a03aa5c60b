"""Frames from a camera, a video, an image, a folder of images or the demonstration, one at a time."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from faceflax.errors import FaceflaxError
from faceflax.faces.frame import Frame, Image
from faceflax.media import demo
from faceflax.opencv import cv2

IMAGE_SUFFIXES: tuple[str, ...] = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

RETRIES = 10
"""How often a camera that stopped giving frames is opened again, half a second apart, before it counts as gone."""

_HEADER_ERROR = 3  # frames; healthy videos announce a few more than they hold
_CHOICES = "give a camera's index, a video, an image, a folder of images, or demo"


@dataclass(frozen=True)
class Source:
    """Frames, and what is known of them beforehand.

    Attributes:
        kind: what the frames come from; the demonstration is a ``video``.
        frames: yields each frame once and keeps none; close it to release the camera or file.
        fps: frames per second, where known.
        count: the frame count, where known; a video's header may be a little wrong.
    """

    kind: Literal["camera", "video", "image", "folder"]
    frames: Generator[Frame, None, None]
    fps: float | None = None
    count: int | None = None


def warn(message: str) -> None:
    """Writes a line on stderr, above the progress bar."""
    tqdm.write(f"warning: {message}", file=sys.stderr)


def open_source(source: str) -> Source:
    """Opens a camera, a video, an image, a folder of images or the demonstration.

    Args:
        source: a camera's index or a stream's address (``rtsp://...``, ``http://...``), the path of a video, of an
            image (of any depth and channels that OpenCV reads) or of a folder of images, or ``demo``.

    Raises:
        FaceflaxError: no such camera, path or images, or a file that cannot be read. The frames raise it where a video
            or a camera turns out to give none. A video that ends early, an unreadable image of a folder, or a camera
            that goes away is a line on stderr.

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
    if (source.isascii() and source.isdigit()) or "://" in source:
        return _open_camera(source)
    if path.is_dir():
        return _open_folder(path)
    return open_file(path)


def open_file(source: Path, warn: Callable[[str], None] = warn) -> Source:
    """Opens an image or a video; by its name's suffix an image, otherwise a video.

    Args:
        source: the file.
        warn: gets a sentence where a video holds fewer frames than it should.

    Raises:
        FaceflaxError: no such file, or one that cannot be read.
    """
    if not source.is_file():
        raise FaceflaxError("source", source, "there is no {}", _CHOICES)
    if source.suffix.lower() not in IMAGE_SUFFIXES:
        return _open_video(source, warn)
    image = read_image(source)
    if image is None:
        raise FaceflaxError("source", source, "cannot be read as an image", "is it complete?")
    return Source("image", (frame for frame in [Frame(image, source.name)]), count=1)


def read_image(file: Path | bytes) -> Image | None:
    """Reads an image from its path or its encoded bytes, turned as its EXIF record says; None where that fails.

    Args:
        file: any depth and channels that OpenCV reads.
    """
    try:
        if isinstance(file, Path):
            return cv2.imread(str(file), cv2.IMREAD_COLOR)
        return cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR) if file else None
    except cv2.error:  # such as more pixels than it is willing to read
        return None


def _known(value: float) -> float | None:
    """OpenCV says 0, a negative number or NaN for what it does not know."""
    return value if math.isfinite(value) and value > 0 else None


def _demo_frames() -> Generator[Frame, None, None]:
    for index, image in enumerate(demo.video()):
        yield Frame(image, "demo", index, index / demo.FPS)


def _open_camera(source: str) -> Source:
    stream = "://" in source

    def connect() -> cv2.VideoCapture:
        if stream:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 5000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 5000]
            return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        return cv2.VideoCapture(int(source))

    capture = connect() if stream or int(source) < 2**31 else None
    if capture is None or not capture.isOpened():
        if stream:
            remedy = "is its address right, and its server running?"
            raise FaceflaxError("source", source, "the stream {} cannot be opened", remedy)
        remedy = "give another index, a video, an image, a folder of images, or demo"
        raise FaceflaxError("source", int(source), "there is no camera {}, or another program uses it", remedy)
    fps = _known(capture.get(cv2.CAP_PROP_FPS))
    return Source("camera", camera_frames(capture, connect, source if stream else int(source)), fps)


def camera_frames(
    capture: cv2.VideoCapture, connect: Callable[[], cv2.VideoCapture], source: str | int
) -> Generator[Frame, None, None]:
    """Yields what a camera gives, as it comes; opens it again where it stops, until that has failed ``RETRIES`` times.

    Args:
        capture: the open camera; released at the end.
        connect: opens it again.
        source: its index, or the stream's address.

    Raises:
        FaceflaxError: there was not a single frame.
    """
    kind, name = ("the stream", source) if isinstance(source, str) else ("camera", f"camera {source}")
    number, start, failures = 0, 0.0, 0
    try:
        while failures <= RETRIES:
            read, image = capture.read()
            if read:
                failures = 0
                start = start or time.perf_counter()
                yield Frame(image, name, number, time.perf_counter() - start)
                number += 1
                continue
            if failures == 0:
                warn(f"{name} gives no more frames; trying to open it again")
            failures += 1
            capture.release()
            time.sleep(0.5)
            capture = connect()
    finally:
        capture.release()
    if number == 0:
        remedy = "does another program use it?"
        raise FaceflaxError("source", source, f"{kind} {{}} can be opened but gives no frame", remedy)
    warn(f"{name} is gone; stopped after {number} frames")


def _open_video(path: Path, warn: Callable[[str], None]) -> Source:
    capture = cv2.VideoCapture(str(path))
    text = capture.get(cv2.CAP_PROP_FOURCC) == cv2.VideoWriter.fourcc(*"ansi")  # FFmpeg renders text files as videos
    if text or not capture.isOpened():
        if path.stat().st_size == 0:
            raise FaceflaxError("source", path, "is empty")
        raise FaceflaxError("source", path, "cannot be read as a video", "is it complete, and a video?")
    fps = _known(capture.get(cv2.CAP_PROP_FPS)) or 25.0
    expected = int(_known(capture.get(cv2.CAP_PROP_FRAME_COUNT)) or 0)

    def frames() -> Generator[Frame, None, None]:
        number = failures = 0
        time = first = 0.0
        try:
            while True:
                read, image = capture.read()
                if not read:  # the end; or damage, behind which there may be more
                    failures += 1
                    if number + failures > expected:
                        break
                    continue
                shown = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000  # phones' videos have no constant rate
                first = first if number else shown
                time = shown - first if number == 0 or shown - first > time else time + 1 / fps
                yield Frame(image, path.name, number, time)
                number += 1
        finally:
            capture.release()
        if number == 0:
            raise FaceflaxError("source", path, "holds no frame of a video that can be read", "is it complete?")
        if number < expected - _HEADER_ERROR:
            warn(
                f"{number} of the {expected} frames that {str(path)!r} announces can be read; "
                "it may be damaged or cut short"
            )

    return Source("video", frames(), fps, expected or None)


def _open_folder(folder: Path) -> Source:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not files:
        raise FaceflaxError("source", folder, f"no images ({', '.join(IMAGE_SUFFIXES)}) in the folder {{}}")

    def frames() -> Generator[Frame, None, None]:
        number = 0
        for file in files:
            image = read_image(file)
            if image is None:
                warn(f"{str(file)!r} cannot be read as an image; skipped")
                continue
            yield Frame(image, file.name, number, 0.0)
            number += 1
        if number == 0:
            raise FaceflaxError("source", folder, f"none of the {len(files)} images in the folder {{}} can be read")

    return Source("folder", frames(), count=len(files))
