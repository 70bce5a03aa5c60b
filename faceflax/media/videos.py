"""Frames of video files and network streams, read with FFmpeg (PyAV): each once, upright, at its own time."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import av
import numpy as np

from faceflax.errors import FaceflaxError
from faceflax.faces.frame import Image
from faceflax.media import hdr
from faceflax.media.addresses import masked
from faceflax.media.kinds import not_media, read_head
from faceflax.opencv import cv2

if TYPE_CHECKING:  # only annotations need it
    from av.container import InputContainer
    from av.video.stream import VideoStream

Wanted = Callable[[int, float], bool]
"""Tells by a frame's index and time in seconds whether it is wanted; the others are not converted."""

MOST_FAILURES = 500
"""So many damaged packets in a row, without a frame between them, end a video."""

_START: tuple[Image, int, float] = (np.zeros((0, 0, 3), np.uint8), -1, 0.0)
_MOST_PIXELS = 2**26  # of a frame; 8K has half as many
_HEADER_ERROR = 3  # frames; healthy videos announce a few more than they hold
_OPEN_SECONDS, _READ_SECONDS = 10.0, 10.0
_STREAM_PROTOCOLS = "crypto,data,hls,http,httpproxy,https,rtmp,rtmps,rtmpt,rtp,rtsp,srt,srtp,tcp,tls,udp"
# What FFmpeg may take a file for. Not text, which it would render, nor play lists, which make it open other files.
_FILE_FORMATS = (
    "3dostr,4xm,amv,apng,asf,av1,avi,avs2,avs3,bink,cavsvideo,dirac,dnxhd,dv,dxa,evc,flic,flv,gif,gxf,h261,h263,h264,"
    "hevc,iv8,ivf,lxf,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mpegtsraw,mtv,mv,mvi,mxf,nsv,nut,obu,ogg,pva,r3d,rm,"
    "roq,smk,swf,vc1,vivo,vvc,wc3movie,webm,wtv,yuv4mpegpipe"
)
_STREAM_FORMATS = f"{_FILE_FORMATS},hls,live_flv,mpjpeg,mpjpeg_2jpeg,rtp,rtsp,sdp"

# FFmpeg would print several lines about a bad file; this package reports it itself, once.
logging.getLogger("libav").setLevel(logging.CRITICAL)
av.logging.set_level(None)


@dataclass
class Video:
    """An open video.

    Attributes:
        frames: yields image, index and time in seconds of each wanted frame; close it to release the file.
        fps: frames a second, where known; the rate may vary.
        count: how many frames there are, where known, as the header says.
        seconds: how long it is, where known.
        live: it has no end: a camera or a broadcast.
    """

    frames: Generator[tuple[Image, int, float], None, None]
    fps: float | None
    count: int | None
    seconds: float | None
    live: bool


def open_video(
    source: Path | str | BinaryIO,
    warn: Callable[[str], None],
    *,
    field: str = "source",
    name: Path | None = None,
    wanted: Wanted | None = None,
) -> Video:
    """Opens a video file or a stream of the network.

    Frames are turned and mirrored as the file says, and stretched where its pixels are not square; what an edit list
    cuts off is left out. Damaged parts are skipped.

    Args:
        source: a file's path, an address, or an open file.
        warn: gets a sentence where parts of the video cannot be read.
        field: what the caller names the source by, for errors.
        name: its path for errors, where ``source`` is an open file.
        wanted: which frames are converted; all if not given.

    Raises:
        FaceflaxError: it is not a video. The frames raise it where there is not one that can be read.
    """
    shown: Path | str = masked(source) if isinstance(source, str) else name or Path(str(source))
    with ExitStack() as stack:
        container = open_container(source, field, shown, stack)
        stream = picture_stream(container)
        if stream is None:
            if isinstance(source, str):
                raise FaceflaxError(field, shown, "the stream {} holds no video")
            raise not_media(field, Path(shown), ": it holds no pictures")
        stream.thread_type = "AUTO"
        context = stream.codec_context
        context.options = {**context.options, "max_pixels": str(_MOST_PIXELS)}
        fps = _rate(stream)
        seconds = _seconds(container, stream)
        count = _count(stream, seconds, fps)
        if count and 0 < container.size < count:  # not even a byte for each frame
            count = seconds = None
        reader = _Reader(container, stream, fps)
        rest = stack.pop_all()

    def frames() -> Generator[tuple[Image, int, float], None, None]:
        with rest:
            yield _START
            number = -1
            for number, (image, time) in enumerate(reader.read(wanted)):
                if image is not None:
                    yield image, number, time
            if reader.stalled is not None:
                warn(f"the stream {shown!r} ended: {reader.stalled}")
        seen = number + 1
        quoted = repr(os.fspath(shown))
        if seen == 0:
            raise FaceflaxError(field, shown, "holds no frame of a video that can be read", "is it complete?")
        if count is not None and stream.frames and seen < count - _HEADER_ERROR:
            warn(f"{seen} of the {count} frames that {quoted} announces can be read; it may be damaged or cut short")
        elif reader.damaged:
            warn(f"{reader.damaged} damaged parts of {quoted} were skipped")

    live = isinstance(source, str) and seconds is None
    started = frames()
    next(started)  # closing it closes the file from now on
    return Video(started, fps, count, seconds, live)


def open_container(source: Path | str | BinaryIO, field: str, shown: Path | str, stack: ExitStack) -> InputContainer:
    """Opens what FFmpeg reads, until ``stack`` is closed.

    Args:
        source: a file's path, an address, or an open file.
        field: what the caller names it by, for errors.
        shown: its path or masked address for errors.
        stack: closes it.

    Raises:
        FaceflaxError: it cannot be opened.
    """
    if isinstance(source, str):
        options = {"protocol_whitelist": _STREAM_PROTOCOLS, "format_whitelist": _STREAM_FORMATS}
        if source.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"  # over UDP half of a frame is lost with each packet
        limits = (_OPEN_SECONDS, _READ_SECONDS)
        try:
            return stack.enter_context(av.open(source, options=options, timeout=limits, metadata_errors="replace"))
        except (av.error.FFmpegError, OSError, ValueError):
            remedy = "is its address right, and its server running?"
            raise FaceflaxError(field, shown, "the stream {} cannot be opened", remedy) from None
    if isinstance(source, Path):
        read_head(field, source)
        source = stack.enter_context(source.open("rb"))
    options = {"format_whitelist": _FILE_FORMATS, "protocol_whitelist": "none", "enable_drefs": "0"}
    try:
        return stack.enter_context(
            av.open(source, mode="r", options=options, metadata_errors="replace", buffer_size=2**18)
        )
    except (av.error.FFmpegError, OSError, ValueError):
        raise not_media(field, Path(shown)) from None


def picture_stream(container: InputContainer) -> VideoStream | None:
    """The first stream of moving pictures that can be decoded; a song's cover is none."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic and stream.codec_context is not None:
            return stream
    return None


def _rate(stream: VideoStream) -> float | None:
    """Frames a second; None where the file only says how finely it measures time, as those of browsers do."""
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate and 0 < rate < 500 else None


def _seconds(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration and container.duration > 0 else None


def _count(stream: VideoStream, seconds: float | None, fps: float | None) -> int | None:
    """How many frames the header announces."""
    timed = None if seconds is None or fps is None else max(1, round(seconds * fps))
    count = stream.frames or timed
    if count and timed and "mp4" in stream.container.format.name:  # what an edit list cuts off is announced too
        count = min(count, timed)
    return count


class _Reader:
    """Decodes an open video once.

    Attributes:
        damaged: how many packets and frames could not be decoded.
        stalled: why a stream of the network ended before its end.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, fps: float | None) -> None:
        self.damaged = 0
        self.stalled: str | None = None
        self._container = container
        self._stream = stream
        self._step = 1 / (fps or 25.0)
        self._rotation: float | None = None
        self._matrix = (1, 0, 0, 1)

    def read(self, wanted: Wanted | None) -> Iterator[tuple[Image | None, float]]:
        """Yields each frame's image, or None where it is not wanted, and its time."""
        number, time, first = 0, 0.0, 0.0
        for frame in self._decoded():
            shown = time + self._step if frame.time is None else frame.time
            first = first if number else shown
            time = shown - first if number == 0 or shown - first > time else time + self._step
            image = None
            if wanted is None or wanted(number, time):
                try:
                    image = self._picture(frame)
                except (av.error.FFmpegError, ValueError, MemoryError):
                    self.damaged += 1
                    continue
            yield image, time
            number += 1

    def _picture(self, frame: av.VideoFrame) -> Image:
        """A frame as uint8 BGR, with square pixels and upright."""
        width, height = frame.width, frame.height
        aspect = self._stream.sample_aspect_ratio
        if aspect and aspect != 1 and 1 / 8 < aspect < 8:
            width, height = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
        # More threads are slower here.
        image = frame.to_ndarray(format="bgr24", width=width, height=height, threads=1)
        if frame.color_trc in (hdr.PQ, hdr.HLG):
            image = hdr.to_sdr(image, frame.color_trc)
        if frame.rotation != self._rotation:  # looking at the matrix of each frame would leak memory
            self._rotation, self._matrix = frame.rotation, _matrix(frame)
        return _upright(image, self._matrix)

    def _decoded(self) -> Iterator[av.VideoFrame]:
        failures = 0
        for packet in self._packets():
            try:
                frames = self._stream.decode(packet)
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                self.damaged += 1
                failures += 1
                if failures > MOST_FAILURES:
                    return
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.damaged += 1
                    continue
                failures = 0
                yield frame

    def _packets(self) -> Iterator[av.Packet | None]:
        """All packets, then None for what the decoder still holds; reading goes on behind what is damaged."""
        for _ in range(MOST_FAILURES):
            try:
                yield from self._container.demux(self._stream)
                return
            except av.error.ExitError:
                self.stalled = f"nothing came for {_READ_SECONDS:.0f} seconds"
                break
            except (av.error.FFmpegError, OSError) as error:
                self.damaged += 1
                if not isinstance(error, av.error.InvalidDataError):
                    break
        yield None


def _matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """How x and y of a frame become those that are shown, row by row; the identity if it does not say."""
    side_data: Any = frame.side_data  # a mapping, which its stubs do not know
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None or matrix.buffer_size < 36:
        return 1, 0, 0, 1
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    return a, b, c, d


def _upright(image: Image, matrix: tuple[int, int, int, int]) -> Image:
    """Turns and mirrors an image as a display matrix says, by quarters of a turn."""
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):  # x becomes y
        image = cv2.transpose(image)
        a, d = c, b
    if a < 0:
        image = cv2.flip(image, 1)
    return cv2.flip(image, 0) if d < 0 else image


class Receiver:
    """A stream of the network in the manner of ``cv2.VideoCapture``, for what is read like a camera.

    Args:
        address: of the stream.
        video: the stream, where it is open already.
    """

    def __init__(self, address: str, video: Video | None = None) -> None:
        self.video = video
        if video is None:
            with suppress(FaceflaxError):
                self.video = open_video(address, lambda message: None)

    def read(self) -> tuple[bool, Image | None]:
        """Returns whether there was another frame, and the frame."""
        if self.video is None:
            return False, None
        try:
            image, _, _ = next(self.video.frames)
        except (StopIteration, FaceflaxError):
            return False, None
        return True, image

    def release(self) -> None:
        """Closes it."""
        if self.video is not None:
            self.video.frames.close()
            self.video = None


def probe(path: Path | BinaryIO, name: Path) -> Video:
    """Returns what is known of a video beforehand, without reading its frames.

    Raises:
        FaceflaxError: it is not a video.
    """
    video = open_video(path, lambda message: None, name=name)
    with closing(video.frames):
        return video
