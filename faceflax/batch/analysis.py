"""Many images and videos into one table, in a way that can be stopped at any time and continued later."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from faceflax.batch.archives import ERRORS, Archive
from faceflax.batch.inputs import Input, Record, Status, reason_of
from faceflax.batch.progress import Progress, counting
from faceflax.errors import FaceflaxError
from faceflax.faces.face import Face
from faceflax.faces.frame import Frame, Image
from faceflax.faces.video import TwoStageAnalyzer
from faceflax.media.images import is_animation, read_pages
from faceflax.media.sources import Source, animation_source, open_file, video_source
from faceflax.media.table import Row, rows_of
from faceflax.media.videos import Wanted, open_video
from faceflax.pipeline import Ended, pipeline

TOGETHER = 16
"""Most images or frames that go through the networks together."""

_CHUNK_BYTES = 2**26  # of these frames, at most


class Analyzers(NamedTuple):
    """What finds and labels faces.

    Attributes:
        images: of several images together, such as ``FaceAnalyzer().analyze_batch``.
        video: makes what does so for the frames of one video, such as ``VideoAnalyzer``.
    """

    images: Callable[[Sequence[Image]], Sequence[Sequence[Face]]]
    video: Callable[[], TwoStageAnalyzer]


@dataclass(frozen=True)
class Reading:
    """How inputs are read.

    Attributes:
        every: one in so many frames of a video is analysed.
        fps: at most so many frames of a second of a video are; None is all.
        longest: images are reduced to so many pixels on their longer side; None reads them whole.
        every_frame: frames without a face have rows too.

    Raises:
        FaceflaxError: a number out of its range.
    """

    every: int = 1
    fps: float | None = None
    longest: int | None = None
    every_frame: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise FaceflaxError("every", self.every, "is not a number of frames", "give 1 or more")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise FaceflaxError("fps", self.fps, "is not a number of frames a second", "give a number above 0")
        if self.longest is not None and self.longest < 1:
            raise FaceflaxError("longest", self.longest, "is not a number of pixels", "give 1 or more")

    def wanted(self) -> Wanted | None:
        """Returns what tells which frames of one video are analysed; None for all."""
        if self.every == 1 and self.fps is None:
            return None
        due = 0.0

        def wanted(index: int, time: float) -> bool:
            nonlocal due
            if index % self.every or time < due - 1e-6:
                return False
            if self.fps is not None:
                due = (math.floor(time * self.fps + 1e-6) + 1) / self.fps
            return True

        return wanted

    def expected(self, source: Source) -> int | None:
        """Returns how many frames of a video will be analysed, as far as is known."""
        if source.count is None:
            return None
        count = math.ceil(source.count / self.every)
        if self.fps is not None and source.seconds is not None:
            count = min(count, math.ceil(source.seconds * self.fps))
        return count


@dataclass
class _Chunk:
    """Frames that go through together: of several images, or successive ones of one video."""

    video: TwoStageAnalyzer | None = None
    frames: list[Frame] = field(default_factory=list)
    scales: list[tuple[float, float]] = field(default_factory=list)
    located: list[Any] = field(default_factory=list)
    faces: list[Sequence[Face]] = field(default_factory=list)
    ends: list[Record] = field(default_factory=list)  # of the inputs that end here; faces and frames are counted later

    @property
    def full(self) -> bool:
        return len(self.frames) >= TOGETHER or sum(frame.nbytes for frame in self.frames) >= _CHUNK_BYTES


def tasks_of(inputs: Sequence[Input]) -> list[list[Input]]:
    """Divides inputs into what is done as one: some images, or a video."""
    tasks: list[list[Input]] = []
    for kind, group in groupby(inputs, key=lambda item: item.kind):
        items = list(group)
        step = TOGETHER if kind == "image" else 1
        tasks += [items[start : start + step] for start in range(0, len(items), step)]
    return tasks


def results_of(
    tasks: Iterable[Sequence[Input]],
    analyzers: Analyzers,
    reading: Reading,
    progress: Progress | None = None,
    sources: Mapping[str, Callable[[], Source]] | None = None,
) -> Generator[tuple[list[Row], list[Record]], None, None]:
    """Analyses inputs one after the other, while the next ones are being read.

    Memory use depends neither on the number of inputs nor on a video's length.

    Args:
        tasks: from :func:`tasks_of`.
        analyzers: find and label the faces.
        reading: how inputs are read.
        progress: is told how far it is.
        sources: by an input's name, what opens it, where it is no file.

    Yields:
        Rows, in the order of the inputs, and what became of the inputs that end with them. Both are empty from time to
        time, so that whoever waits can stop.
    """
    progress = Progress() if progress is None else progress

    def locate(chunk: _Chunk) -> _Chunk:
        if chunk.video is not None:
            chunk.located = [chunk.video.locate(frame) for frame in chunk.frames]
        return chunk

    def read(chunk: _Chunk) -> _Chunk:
        if chunk.frames:
            video = chunk.video
            found = analyzers.images(chunk.frames) if video is None else video.read_batch(chunk.frames, chunk.located)
            chunk.faces = list(found)
        return chunk

    archives = _Archives()
    reader = _Reader(analyzers, reading, archives, progress, sources or {})
    counts: dict[str, list[int]] = {}  # frames and faces of the input that is under way
    before = time.monotonic()
    with closing(archives), pipeline(reader.chunks(tasks), [locate, read], capacity=1) as through, suppress(Ended):
        while True:
            chunk = through.get(timeout=0.05)
            if chunk is None:
                yield [], []
                continue
            kind: Literal["image", "video"] = "image" if chunk.video is None else "video"
            rows = [
                row
                for frame, faces, scale in zip(chunk.frames, chunk.faces, chunk.scales, strict=True)
                for row in rows_of(frame, faces, kind, scale, every_frame=reading.every_frame)
            ]
            records = list(_counted(chunk, counts))
            if kind == "video":
                for record in records:
                    progress.ended(record.input, record.frames)
            now = time.monotonic()
            progress.add(kind, len(chunk.frames) if kind == "video" else len(chunk.ends), now - before)
            before = now
            yield rows, records


def plan(inputs: Sequence[Input], reading: Reading, progress: Progress) -> list[Input]:
    """Counts what there is to do before it is begun; returns the inputs with the number of their frames.

    Args:
        inputs: from :func:`~faceflax.batch.inputs.find_inputs`.
        reading: how they will be read.
        progress: is told how much there is.
    """
    planned = []
    for item in counting(inputs, shown=progress.shown):
        frames = None
        if item.kind == "video" and item.member is None and isinstance(item.path, Path):
            try:
                source = open_file(item.path, lambda message: None)
                source.frames.close()
                frames = reading.expected(source)
            except (FaceflaxError, OSError):  # said when its turn comes
                frames = 0
        planned.append(replace(item, frames=frames))
        progress.plan(int(item.kind == "image"), frames or 0)
    return planned


def _counted(chunk: _Chunk, counts: dict[str, list[int]]) -> Iterator[Record]:
    """The records of the inputs that end with a chunk, with their frames and faces."""
    for frame, faces in zip(chunk.frames, chunk.faces, strict=True):
        count = counts.setdefault(frame.name, [0, 0])
        count[0] += 1
        count[1] += len(faces)
    for end in chunk.ends:
        yield _ended(end, *counts.pop(end.input, (0, 0)))


def _ended(end: Record, frames: int, faces: int) -> Record:
    status: Status = end.status
    if end.status == "done" and faces == 0:
        status = "no face"
    elif end.status == "damaged" and frames == 0:
        status = "failed"
    return Record(end.input, end.kind, status, end.reason, frames, faces, end.seconds)


class _Archives:
    """The archive that was used last stays open, as its files are read one after the other."""

    def __init__(self) -> None:
        self._open: Archive | None = None
        self._lock = threading.Lock()

    def get(self, item: Input) -> Archive:
        assert item.archive is not None
        with self._lock:
            if self._open is None or self._open.path != item.path:
                if self._open is not None:
                    self._open.close()
                self._open = None
                self._open = Archive(Path(item.path), item.archive)
            return self._open

    def close(self) -> None:
        with self._lock:
            if self._open is not None:
                self._open.close()
            self._open = None


class _Reader:
    def __init__(
        self,
        analyzers: Analyzers,
        reading: Reading,
        archives: _Archives,
        progress: Progress,
        sources: Mapping[str, Callable[[], Source]],
    ) -> None:
        self._analyzers = analyzers
        self._reading = reading
        self._archives = archives
        self._progress = progress
        self._sources = sources

    def chunks(self, tasks: Iterable[Sequence[Input]]) -> Iterator[_Chunk]:
        for task in tasks:
            if task[0].kind == "image":
                yield from self._images(task)
            else:
                for item in task:
                    yield from self._video(item)

    def _images(self, items: Sequence[Input]) -> Iterator[_Chunk]:
        chunk = _Chunk()
        for item in items:
            status: Status = "done"
            reason = None
            try:
                with ExitStack() as stack:
                    file: Path | BinaryIO = Path(item.path)
                    name = None
                    if item.member is not None:
                        file = stack.enter_context(closing(self._archives.get(item).open(item.member)))
                        name = Path(item.member)
                    for page, (image, scale) in enumerate(read_pages(file, name=name, longest=self._reading.longest)):
                        if chunk.full:
                            yield chunk
                            chunk = _Chunk()
                        chunk.frames.append(Frame(image, item.name, page))
                        chunk.scales.append(scale)
            except (FaceflaxError, *ERRORS) as error:
                status, reason = "damaged", reason_of(error)
            chunk.ends.append(Record(item.name, "image", status, reason))
            if chunk.full:
                yield chunk
                chunk = _Chunk()
        if chunk.ends:
            yield chunk

    def _video(self, item: Input) -> Iterator[_Chunk]:
        analyzer = self._analyzers.video()
        chunk = _Chunk(analyzer)
        remarks: list[str] = []
        seconds = None
        with ExitStack() as stack:
            try:
                source = self._open(item, remarks, stack)
                seconds = source.seconds
                self._progress.opened(item.name, item.frames, self._reading.expected(source))
                frames = stack.enter_context(closing(source.frames))
                for frame in frames:
                    frame.name = item.name
                    chunk.frames.append(frame)
                    chunk.scales.append((1.0, 1.0))
                    if seconds is None or frame.time > seconds:
                        seconds = frame.time
                    if chunk.full:
                        yield chunk
                        chunk = _Chunk(analyzer)
            except (FaceflaxError, *ERRORS) as error:
                remarks.append(reason_of(error))
        status: Status = "damaged" if remarks else "done"
        chunk.ends.append(Record(item.name, "video", status, "; ".join(remarks) or None, seconds=seconds))
        yield chunk

    def _open(self, item: Input, remarks: list[str], stack: ExitStack) -> Source:
        wanted = self._reading.wanted()
        if item.name in self._sources:
            return self._sources[item.name]()
        return open_input(item, self._archives.get, remarks.append, wanted, stack)


def open_input(
    item: Input,
    archive: Callable[[Input], Archive],
    warn: Callable[[str], None],
    wanted: Wanted | None,
    stack: ExitStack,
) -> Source:
    """Opens a video among the inputs.

    Args:
        item: the video.
        archive: opens the archive that it is in.
        warn: gets a sentence where parts of it cannot be read.
        wanted: which frames are yielded; all if None.
        stack: closes what has to be open for it.

    Raises:
        FaceflaxError: it cannot be read; or one of :data:`faceflax.batch.archives.ERRORS`.
    """
    if item.member is not None:
        name = Path(item.member)
        member = stack.enter_context(closing(archive(item).open(item.member)))
        if is_animation(member):
            member.seek(0)
            return animation_source(member, name, warn, wanted)
        member.seek(0)
        return video_source(open_video(member, warn, name=name, wanted=wanted), name.name)
    if isinstance(item.path, str):
        video = open_video(item.path, warn, wanted=wanted)
        if video.live:
            video.frames.close()
            problem = "has no end, as a camera has none"
            raise FaceflaxError("paths", item.name, problem, "use: faceflax live --source")
        return video_source(video, item.name, item.path)
    return open_file(item.path, warn, wanted=wanted)


@contextmanager
def opened(item: Input) -> Iterator[Source]:
    """Opens a video among the inputs once more, for the time of the block.

    Raises:
        FaceflaxError: it cannot be read any more.
    """
    archives = _Archives()
    with ExitStack() as stack:
        stack.enter_context(closing(archives))
        try:
            source = open_input(item, archives.get, lambda message: None, None, stack)
        except ERRORS as error:
            if isinstance(error, FaceflaxError):
                raise
            raise FaceflaxError("path", item.name, f"cannot be read again ({reason_of(error)})") from None
        stack.enter_context(closing(source.frames))
        yield source
