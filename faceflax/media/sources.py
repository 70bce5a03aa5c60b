"""Frames from a camera, a video, an image, a folder of images or the demonstration, one at a time.

Messages name the live command's option ``--source`` where the caller does not say otherwise.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from faceflax.errors import FaceflaxError
from faceflax.media import demo
from faceflax.opencv import cv2

IMAGE_SUFFIXES: tuple[str, ...] = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

RETRIES = 10
"""How often a camera that stopped giving frames is opened again, half a second apart, before it counts as gone."""

_HEADER_ERROR = 3  # frames; healthy videos announce a few more than they hold

Image = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source.

    Attributes:
        image: uint8 ``[height, width, 3]`` BGR; made so by :func:`as_bgr`, whatever was given.
        name: the file it came from, or the source's name.
        index: its number in the source, from 0.
        time: seconds since the source's first frame; 0 for images.
    """

    image: Image
    name: str
    index: int
    time: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", as_bgr(self.image))


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


def as_bgr(image: np.ndarray) -> Image:
    """Returns a frame of any common layout as uint8 ``[height, width, 3]`` BGR; one that is so already as it is.

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
            f"image: type {image.dtype}, shape {image.shape} is no picture; give uint8 or uint16 pixels, "
            "[height, width] or [height, width, 1, 3 or 4]"
        )
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=1 / 257).reshape(image.shape)
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return image if image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)


def warn(message: str) -> None:
    """Writes a line on stderr, above the progress bar."""
    tqdm.write(f"warning: {message}", file=sys.stderr)


def open_source(source: str) -> Source:
    """Opens what ``--source`` names.

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


def open_file(path: Path, argument: str = "--source", warn: Callable[[str], None] = warn) -> Source:
    """Opens an image or a video; by its name's suffix an image, otherwise a video.

    Args:
        path: the file.
        argument: how the user gave it, for messages.
        warn: is told where a video holds fewer frames than it should.

    Raises:
        FaceflaxError: no such file, or one that cannot be read.
    """
    if not path.is_file():
        raise FaceflaxError(
            f"{argument}: there is no {str(path)!r}; "
            "give a camera's index, a video, an image, a folder of images, or demo"
        )
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return _open_video(path, argument, warn)
    image = read_image(path)
    if image is None:
        raise FaceflaxError(f"{argument}: {str(path)!r} cannot be read as an image; is it complete?")
    return Source("image", (frame for frame in [Frame(image, path.name, 0, 0.0)]), count=1)


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
        raise FaceflaxError(
            f"--source: the stream {source!r} cannot be opened; is its address right, and its server running?"
            if stream
            else f"--source: there is no camera {source}, or another program uses it; "
            "give another index, a video, an image, a folder of images, or demo"
        )
    fps = _known(capture.get(cv2.CAP_PROP_FPS))
    return Source("camera", camera_frames(capture, connect, source if stream else f"camera {source}"), fps)


def camera_frames(
    capture: cv2.VideoCapture, connect: Callable[[], cv2.VideoCapture], name: str
) -> Generator[Frame, None, None]:
    """Yields what a camera gives, as it comes; opens it again where it stops, until that has failed ``RETRIES`` times.

    Args:
        capture: the open camera; released at the end.
        connect: opens it again.
        name: of the camera, for frames and messages.

    Raises:
        FaceflaxError: there was not a single frame.
    """
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
                warn(f"--source: {name} gives no more frames; trying to open it again")
            failures += 1
            capture.release()
            time.sleep(0.5)
            capture = connect()
    finally:
        capture.release()
    if number == 0:
        raise FaceflaxError(f"--source: {name} can be opened but gives no frame; does another program use it?")
    warn(f"--source: {name} is gone; stopped after {number} frames")


def _open_video(path: Path, argument: str, warn: Callable[[str], None]) -> Source:
    capture = cv2.VideoCapture(str(path))
    text = capture.get(cv2.CAP_PROP_FOURCC) == cv2.VideoWriter.fourcc(*"ansi")  # FFmpeg films text as on a terminal
    if text or not capture.isOpened():
        reason = "is empty" if path.stat().st_size == 0 else "cannot be read as a video; is it complete, and a video?"
        raise FaceflaxError(f"{argument}: {str(path)!r} {reason}")
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
            raise FaceflaxError(f"{argument}: no frame of the video {str(path)!r} can be read; is it complete?")
        if number < expected - _HEADER_ERROR:
            warn(
                f"{argument}: {number} of the {expected} frames that {str(path)!r} announces can be read; "
                "it may be damaged or cut short"
            )

    return Source("video", frames(), fps, expected or None)


def _open_folder(folder: Path) -> Source:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not files:
        raise FaceflaxError(f"--source: no images ({', '.join(IMAGE_SUFFIXES)}) in the folder {str(folder)!r}")

    def frames() -> Generator[Frame, None, None]:
        number = 0
        for file in files:
            image = read_image(file)
            if image is None:
                warn(f"--source: {str(file)!r} cannot be read as an image; skipped")
                continue
            yield Frame(image, file.name, number, 0.0)
            number += 1
        if number == 0:
            raise FaceflaxError(f"--source: none of the {len(files)} images in the folder {str(folder)!r} can be read")

    return Source("folder", frames(), count=len(files))
