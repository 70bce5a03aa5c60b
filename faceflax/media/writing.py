"""Videos that play everywhere, and play as far as they were written whatever ends the process."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.video.reformatter import Interpolation

from faceflax.errors import FaceflaxError, said
from faceflax.faces.frame import Frame, Image
from faceflax.media.videos import open_container, open_video, picture_stream
from faceflax.opencv import cv2

if TYPE_CHECKING:  # only annotations need it
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.video.stream import VideoStream

_log = logging.getLogger("faceflax")


@dataclass(frozen=True)
class Format:
    """How a video is written.

    Attributes:
        container: FFmpeg's name.
        codec: of the pictures.
        options: of that codec.
        ticks: of the clock, a second; None for one a frame, which then come at a constant rate.
        copied: codecs of sound that browsers play in it; others become ``sound``.
        sound: codec for the others.
        extra: options of the container.
    """

    container: str
    codec: str
    options: dict[str, str]
    ticks: int | None
    copied: frozenset[str]
    sound: str
    extra: dict[str, str]


# Fragments of a second: what is in the file plays without the index that other MP4 files have at their end.
_FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "1000000"}
_REALTIME = {"deadline": "realtime", "cpu-used": "8", "row-mt": "1", "lag-in-frames": "0", "crf": "30", "g": "120"}
_CLUSTERS = {"cluster_size_limit": "262144", "cluster_time_limit": "1000"}  # is kept in memory at most
# Without frames that depend on later ones: in fragments these would make the video begin late.
_X264 = {"preset": "veryfast", "crf": "20", "g": "60", "bf": "0"}
FORMATS: dict[str, Format] = {
    ".mp4": Format(
        *("mp4", "libx264", _X264, 90_000),
        *(frozenset({"aac", "flac", "mp3", "opus"}), "aac", _FRAGMENTED),
    ),
    ".webm": Format("webm", "libvpx-vp9", _REALTIME, 1000, frozenset({"opus", "vorbis"}), "libopus", _CLUSTERS),
    ".avi": Format("avi", "mjpeg", {"qmin": "2", "qmax": "5"}, None, frozenset({"mp3", "pcm_s16le"}), "pcm_s16le", {}),
}
"""H.264 in MP4, VP9 in WebM, Motion JPEG in AVI; by the file's suffix."""

_ROOM = 2**20  # bytes kept free on the disk, so that a video can still be finished
_LONGEST_STILL = 10.0  # seconds; a longer gap between a camera's frames, such as a pause, is cut out of the video
_BT709 = 1
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND  # without the latter all becomes three shades darker


class VideoFile:
    """A video that keeps the frames' own times, and the sound of the one that they are of.

    Args:
        output: the file; its suffix is one of :data:`FORMATS`.
        fps: frames per second, about.
        sound: the video whose sound goes into it: a path or an address.
        live: the frames are a camera's: gaps of more than ten seconds between them are cut out.
    """

    def __init__(self, output: Path, fps: float, *, sound: Path | str | None = None, live: bool = False) -> None:
        self._path = output
        self._format = FORMATS[output.suffix.lower()]
        self._rate = Fraction(min(max(fps, 1.0), 240.0)).limit_denominator(1001)
        self._tick = 1 / self._rate if self._format.ticks is None else Fraction(1, self._format.ticks)
        self._from = sound
        self._live = live
        self._stack = ExitStack()
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._sound: _Sound | None = None
        self._size = (0, 0)
        self._last = -1
        self._time = 0.0
        self._cut = 0.0

    def write(self, frame: Frame, image: Image) -> None:
        """Appends ``image`` as what is seen from ``frame.time`` on.

        The first image gives the size; others are fitted into it with black bars.

        Args:
            frame: gives the time, in seconds.
            image: uint8 ``[height, width, 3]`` BGR, such as the frame with its overlay.

        Raises:
            FaceflaxError: the disk is full, or the file cannot be written.
        """
        if self._container is None:
            self._begin(image)
        assert self._container is not None
        assert self._stream is not None
        gap = frame.time - self._cut - self._time
        if self._live and gap > _LONGEST_STILL:
            self._cut += gap - float(1 / self._rate)
        self._time = frame.time - self._cut
        pts = round(self._time / self._tick)
        if pts <= self._last:
            if self._format.ticks is None:  # no place for it at a constant rate
                return
            pts = self._last + 1
        self._last = pts
        fitted = np.ascontiguousarray(_fit(image, self._size))
        if shutil.disk_usage(self._path.parent).free < _ROOM + fitted.nbytes // 4:
            remedy = "make room or name a file on another one"
            raise FaceflaxError("output", self._path.parent, "the disk of {} is full", remedy)
        picture = av.VideoFrame.from_ndarray(fitted, format="bgr24")
        pixels = "yuvj420p" if self._format.codec == "mjpeg" else "yuv420p"
        matrix = "ITU601" if self._format.codec == "mjpeg" else "ITU709"
        picture = picture.reformat(format=pixels, dst_colorspace=matrix, interpolation=_EXACT, threads=1)
        picture.pts, picture.time_base = pts, self._tick
        picture.duration = max(1, round(1 / self._rate / self._tick))
        try:
            self._container.mux(self._stream.encode(picture))
            if self._sound is not None:
                self._sound.pump(self._container, self._time)
        except (av.error.FFmpegError, OSError) as error:
            raise self._failure(error) from None

    def close(self) -> None:
        """Finishes the file.

        Raises:
            FaceflaxError: it does not play, because not all of it could be written.
        """
        if self._container is None:
            self._stack.close()
            return
        assert self._stream is not None
        container, self._container = self._container, None
        try:
            with self._stack:
                container.mux(self._stream.encode(None))
                if self._sound is not None:
                    self._sound.pump(container, self._time + float(1 / self._rate))
            with closing(open_video(self._path, lambda message: None).frames):
                pass
        except (av.error.FFmpegError, OSError, FaceflaxError):
            problem = "the video {} could not be finished and may not play to its end"
            raise FaceflaxError("output", self._path, problem, "is the disk full, or is there a limit?") from None

    def _begin(self, image: Image) -> None:
        self._size = (max(2, image.shape[1] // 2 * 2), max(2, image.shape[0] // 2 * 2))  # encoders want even
        kind = self._format
        try:
            file: Any = self._stack.enter_context(self._path.open("wb", buffering=0))  # names need not be UTF-8
            container = av.open(file, mode="w", format=kind.container, options={**kind.extra, "flush_packets": "1"})
            self._stack.enter_context(container)
            stream: Any = container.add_stream(kind.codec, rate=self._rate, options=kind.options)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from None
        stream.width, stream.height = self._size
        context = stream.codec_context
        context.time_base = self._tick
        context.pix_fmt = "yuv420p"
        if kind.codec == "mjpeg":
            context.pix_fmt = "yuvj420p"
        else:
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = 1  # 16 to 235
        if kind.codec == "libvpx-vp9":
            context.bit_rate = 0  # the quality is constant
        self._container, self._stream = container, stream
        if self._from is not None:
            self._sound = _Sound.of(self._from, container, kind, self._stack)

    def _failure(self, error: Exception) -> FaceflaxError:
        remedy = "make room or name a file on another disk"
        return FaceflaxError("output", self._path, f"cannot write {{}} ({said(error)})", remedy)


class _Sound:
    """The sound of a video on its way into another file."""

    def __init__(self, packets: Iterator[tuple[float, av.Packet]]) -> None:
        self._packets = packets
        self._next: tuple[float, av.Packet] | None = None

    @classmethod
    def of(cls, source: Path | str, output: OutputContainer, kind: Format, stack: ExitStack) -> _Sound | None:
        """Opens the sound of a video and adds a stream for it; None where it has none."""
        try:
            container = open_container(source, "source", source, stack)
        except FaceflaxError:  # the file has gone; its frames say so
            return None
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            return None
        pictures = picture_stream(container)
        start = 0.0
        if pictures is not None and pictures.start_time is not None and pictures.time_base is not None:
            start = float(pictures.start_time * pictures.time_base)
        if stream.codec_context.name.removesuffix("float") in kind.copied:
            target = output.add_stream_from_template(stream)
            return cls(_copied(container, stream, target, start))
        encoder: Any = output.add_stream(kind.sound, rate=48_000)
        encoder.layout = "mono" if stream.codec_context.layout.nb_channels == 1 else "stereo"
        return cls(_encoded(container, stream, encoder, start))

    def pump(self, output: OutputContainer, until: float) -> None:
        """Writes what is heard until a time in seconds."""
        while True:
            if self._next is None:
                self._next = next(self._packets, None)
            if self._next is None or self._next[0] >= until:
                return
            output.mux(self._next[1])
            self._next = None


def _copied(container: Any, stream: AudioStream, target: Any, start: float) -> Iterator[tuple[float, av.Packet]]:
    offset = _ticks(start, stream)
    with suppress(av.error.FFmpegError):  # damaged behind this: the rest is silent
        for packet in container.demux(stream):
            if packet.dts is None or packet.pts is None or packet.pts < offset:
                continue
            packet.pts -= offset
            packet.dts -= offset
            packet.stream = target
            yield float(packet.pts * packet.time_base), packet


def _encoded(container: Any, stream: AudioStream, encoder: Any, start: float) -> Iterator[tuple[float, av.Packet]]:
    context = encoder.codec_context
    if not context.is_open:
        context.open()
    resampler = av.AudioResampler(context.format, context.layout, context.rate, context.frame_size or 1024)
    offset = _ticks(start, stream)
    last = 0.0

    def packets(frame: av.AudioFrame | None) -> Iterator[tuple[float, av.Packet]]:
        nonlocal last
        for piece in resampler.resample(frame):
            for packet in encoder.encode(piece):
                last = last if packet.pts is None else float(packet.pts * packet.time_base)
                yield last, packet

    with suppress(av.error.FFmpegError):  # damaged behind this: the rest is silent
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in frames:
                if frame.pts is None or frame.pts < offset:
                    continue
                frame.pts -= offset
                yield from packets(frame)
    yield from packets(None)
    for packet in encoder.encode(None):
        yield last, packet


def _ticks(seconds: float, stream: AudioStream) -> int:
    return 0 if stream.time_base is None else round(seconds / stream.time_base)


def _fit(image: Image, size: tuple[int, int]) -> Image:
    """The image as large as fits into ``size`` (width, height), in the middle of black."""
    height, width = image.shape[:2]
    if (width // 2 * 2, height // 2 * 2) == size:
        return image[: size[1], : size[0]]
    scale = min(size[0] / width, size[1] / height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    resized = cv2.resize(image, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas[top : top + inner[1], left : left + inner[0]] = resized
    return canvas
