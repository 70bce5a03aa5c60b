"""Frames from a camera, a video, an image, a folder of images or the demonstration, one at a time."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

import numpy as np
from tqdm import tqdm

from faceflax.errors import FaceflaxError, said
from faceflax.faces.frame import Frame, Image
from faceflax.media import demo, images
from faceflax.media.addresses import is_address, local_path, masked
from faceflax.media.kinds import IMAGE_SUFFIXES, kind_by_name, kind_of, read_head
from faceflax.media.videos import Receiver, Video, Wanted, open_video
from faceflax.opencv import cv2

__all__ = [
    "IMAGE_SUFFIXES",
    "RETRIES",
    "Capture",
    "Source",
    "animation_source",
    "camera_frames",
    "open_file",
    "open_source",
    "video_source",
    "warn",
]

RETRIES = 10
"""How often a camera that stopped giving frames is opened again, half a second apart, before it counts as gone."""

_CHOICES = "give a camera's index, a video, an image, a folder of images, or demo"


_START = Frame(np.zeros((1, 1, 3), np.uint8))  # what a generator that has begun has yielded


@dataclass(frozen=True)
class Source:
    """Frames, and what is known of them beforehand.

    Attributes:
        kind: what the frames come from; the demonstration and an animated image are a ``video``.
        frames: yields each frame once and keeps none; close it to release the camera or file.
        fps: frames per second, where known; a video's rate may vary.
        count: the frame count, where known; a video's header may be a little wrong.
        seconds: how long a video is, where known.
        file: where a video's sound is: its path or address.
    """

    kind: Literal["camera", "video", "image", "folder"]
    frames: Generator[Frame, None, None]
    fps: float | None = None
    count: int | None = None
    seconds: float | None = None
    file: Path | str | None = None


class Capture(Protocol):
    """A camera as OpenCV opens it, or what behaves like one."""

    def read(self) -> tuple[bool, Image | None]:
        """Returns whether there was another frame, and the frame."""
        ...

    def release(self) -> None:
        """Closes it."""
        ...


def warn(message: str) -> None:
    """Writes a line on stderr, above the progress bar."""
    tqdm.write(f"warning: {message}", file=sys.stderr)


def open_source(source: str) -> Source:
    """Opens a camera, a video, an image, a folder of images or the demonstration.

    Args:
        source: a camera's index or an address (``rtsp://...``, ``http://...``, ``file://...``), the path of a video or
            an image, whatever its suffix, or of a folder of images, or ``demo``.

    Raises:
        FaceflaxError: no such camera, path or images, or a file that cannot be read. The frames raise it where a video
            or a camera turns out to give none. A video that is damaged, an unreadable image of a folder, or a camera
            that goes away is a line on stderr.

    Example:
        >>> source = open_source("demo")
        >>> source.kind, source.fps, source.count
        ('video', 25.0, 96)
        >>> next(source.frames).image.shape
        (360, 640, 3)
    """
    if source == "demo":
        return Source("video", _demo_frames(), demo.FPS, demo.NUM_FRAMES, demo.NUM_FRAMES / demo.FPS)
    if source.isascii() and source.isdigit():
        return _open_camera(int(source))
    path = Path(source)
    if is_address(source):
        local = local_path("source", source)
        if local is None:
            return _open_stream(source)
        path = local
    if os.path.isdir(path):  # Path.is_dir raises where a folder above is closed to us
        return _open_folder(path)
    return open_file(path)


def open_file(source: Path, warn: Callable[[str], None] = warn, *, wanted: Wanted | None = None) -> Source:
    """Opens an image or a video; which it is, its content tells.

    Args:
        source: the file. Its name need not be UTF-8.
        warn: gets a sentence where parts of a video cannot be read.
        wanted: which of a video's frames are converted and yielded; all if not given.

    Raises:
        FaceflaxError: no such file, or one that cannot be read.
    """
    if not os.path.exists(source):
        raise FaceflaxError("source", source, "there is no {}", _CHOICES)
    if kind_of(read_head("source", source)) != "image":
        return video_source(open_video(source, warn, wanted=wanted), source.name, source)
    with images.open_image(source) as picture:
        if not images.is_animated(picture):
            image = images.decode(picture, "source", source).image
            return Source("image", (frame for frame in [Frame(image, source.name)]), count=1)
    return animation_source(source, source, warn, wanted)


def video_source(video: Video, name: str, file: Path | str | None = None) -> Source:
    """Returns an open video as a source.

    Args:
        video: from :func:`faceflax.media.videos.open_video`.
        name: of its frames.
        file: where its sound is.
    """

    def frames() -> Generator[Frame, None, None]:
        with closing(video.frames):
            yield _START
            for image, index, time in video.frames:
                yield Frame(image, name, index, time)

    return Source("video", _started(frames()), video.fps, video.count, video.seconds, file)


def animation_source(file: Path | BinaryIO, path: Path, warn: Callable[[str], None], wanted: Wanted | None) -> Source:
    """Returns an animated image as a source.

    Args:
        file: its path, or open.
        path: its path, which names its frames.
        warn: gets a sentence where it is damaged.
        wanted: which frames are yielded; all if None.
    """

    def frames() -> Generator[Frame, None, None]:
        index = -1
        try:
            with images.open_image(file, name=path) as picture:
                for index, (image, time) in enumerate(images.animation(picture, "source", path)):
                    if wanted is None or wanted(index, time):
                        yield Frame(image, path.name, index, time)
        except FaceflaxError as error:
            if index < 0:
                raise
            warn(f"{error.reason}; the {index + 1} images before that were read")

    return Source("video", frames())


def _known(value: float) -> float | None:
    """OpenCV says 0, a negative number or NaN for what it does not know."""
    return value if math.isfinite(value) and value > 0 else None


def _demo_frames() -> Generator[Frame, None, None]:
    for index, image in enumerate(demo.video()):
        yield Frame(image, "demo", index, index / demo.FPS)


def _open_camera(index: int) -> Source:
    capture = cv2.VideoCapture(index) if index < 2**31 else None
    if capture is None or not capture.isOpened():
        remedy = "give another index, a video, an image, a folder of images, or demo"
        raise FaceflaxError("source", index, "there is no camera {}, or another program uses it", remedy)
    fps = _known(capture.get(cv2.CAP_PROP_FPS))
    return Source("camera", camera_frames(capture, lambda: cv2.VideoCapture(index), index), fps)


def _open_stream(address: str) -> Source:
    """A video in the network is read once; what has no end is read like a camera."""
    video = open_video(address, warn)
    name = masked(address)
    if not video.live:
        return video_source(video, name, address)
    capture = Receiver(address, video)
    return Source("camera", camera_frames(capture, lambda: Receiver(address), name), video.fps)


def camera_frames(capture: Capture, connect: Callable[[], Capture], source: str | int) -> Generator[Frame, None, None]:
    """Yields what a camera gives, as it comes; opens it again where it stops, until that has failed ``RETRIES`` times.

    Args:
        capture: the open camera; released at the end.
        connect: opens it again.
        source: its index, or the stream's address as it may be shown.

    Raises:
        FaceflaxError: there was not a single frame.
    """
    kind, name = ("the stream", source) if isinstance(source, str) else ("camera", f"camera {source}")
    number, start, failures = 0, 0.0, 0
    try:
        while failures <= RETRIES:
            read, image = capture.read()
            if read and image is not None:
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


def _open_folder(folder: Path) -> Source:
    try:
        files = sorted(file for file in folder.iterdir() if os.path.isfile(file) and _may_be_image(file))
    except OSError as error:
        raise FaceflaxError("source", folder, f"cannot read the folder {{}} ({said(error)})") from None
    if not files:
        raise FaceflaxError("source", folder, "no images in the folder {}")

    def frames() -> Generator[Frame, None, None]:
        number = 0
        for file in files:
            try:
                image = images.read_image(file).image
            except FaceflaxError as error:
                warn(f"{error.reason}; skipped")
                continue
            yield Frame(image, file.name, number, 0.0)
            number += 1
        if number == 0:
            raise FaceflaxError("source", folder, f"none of the {len(files)} images in the folder {{}} can be read")

    return Source("folder", frames(), count=len(files))


def _may_be_image(file: Path) -> bool:
    """Whether it is an image by its content or, where it is damaged or cannot be read, by its name."""
    try:
        kind = kind_of(read_head("source", file))
    except FaceflaxError:
        kind = None
    return kind == "image" or (kind is None and kind_by_name(file.name) == "image")


def _started(frames: Generator[Frame, None, None]) -> Generator[Frame, None, None]:
    """A generator that has begun: closing it closes what it has open."""
    next(frames)
    return frames
