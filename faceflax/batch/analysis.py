"""Many images and videos into one table, in a way that can be stopped at any time and continued later."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from faceflax.batch.inputs import Input
from faceflax.batch.table import Table
from faceflax.errors import FaceflaxError
from faceflax.faces.face import Face
from faceflax.faces.frame import Frame, Image
from faceflax.faces.video import TwoStageAnalyzer
from faceflax.media.images import read_image
from faceflax.media.outputs import csv_lines
from faceflax.media.sources import open_file
from faceflax.pipeline import Ended, interrupts, pipeline

_CHUNK_FRAMES, _CHUNK_BYTES = 16, 2**26  # most frames and bytes that go through together
_LARGEST_MEMBER = 2**29  # bytes of a file in an archive, unpacked


@dataclass
class Result:
    """What became of the inputs.

    Attributes:
        images: how many images were analysed.
        videos: how many videos were.
        frames: how many images and frames were.
        faces: how many rows were written.
        before: how many inputs an earlier run had finished.
        bad: name and reason of each input that could not be read, or not whole.
    """

    images: int = 0
    videos: int = 0
    frames: int = 0
    faces: int = 0
    before: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Chunk:
    """Frames that go through together: of several images, or successive ones of one video."""

    frames: list[Frame] = field(default_factory=list)
    video: TwoStageAnalyzer | None = None
    announced: int = 0  # frames of a video that begins in this chunk, less the one that every input counts for
    located: list[Any] = field(default_factory=list)
    faces: list[Sequence[Face]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return len(self.frames) >= _CHUNK_FRAMES or sum(frame.nbytes for frame in self.frames) >= _CHUNK_BYTES


def analyze(
    inputs: Sequence[Input],
    table: Table,
    images: Callable[[Sequence[Image]], Sequence[Sequence[Face]]],
    video: Callable[[], TwoStageAnalyzer],
) -> Result:
    """Writes a row into ``table`` for each face of each input that is not in it yet.

    Inputs that cannot be read are skipped. Memory use depends neither on the number of inputs nor on a video's length.

    Args:
        inputs: from :func:`find_inputs`.
        table: from :func:`open_table`.
        images: finds the faces of several images together, such as ``FaceAnalyzer().analyze_batch``.
        video: makes what finds the faces of one video, such as ``VideoAnalyzer``.

    Raises:
        FaceflaxError: the table cannot be written.
        KeyboardInterrupt: Ctrl-C, once all that was analysed is written; the analysis can be continued later.
    """
    remaining = [item for item in inputs if item.name not in table.done]
    result = Result(before=len(inputs) - len(remaining))
    videos = {item.name for item in remaining if item.kind == "video"}

    def locate(chunk: _Chunk) -> _Chunk:
        if chunk.video is not None:
            chunk.located = [chunk.video.locate(frame) for frame in chunk.frames]
        return chunk

    def read(chunk: _Chunk) -> _Chunk:
        if chunk.frames:
            video = chunk.video
            found = images(chunk.frames) if video is None else video.read_batch(chunk.frames, chunk.located)
            chunk.faces = list(found)
        return chunk

    def write(chunk: _Chunk) -> _Chunk:
        table.write("".join(csv_lines(frame, faces) for frame, faces in zip(chunk.frames, chunk.faces, strict=True)))
        table.finish(chunk.finished)
        result.frames += len(chunk.frames)
        result.faces += sum(map(len, chunk.faces))
        result.videos += sum(name in videos for name in chunk.finished)
        result.images += sum(name not in videos for name in chunk.finished)
        result.bad += chunk.bad
        return chunk

    with (
        interrupts() as interrupted,
        tqdm(total=len(remaining), unit="frame") as bar,
        pipeline(_chunks(remaining, video), [locate, read, write], capacity=1) as through,
        suppress(Ended),
    ):
        total = len(remaining)
        while not interrupted.is_set():
            chunk = through.get(timeout=0.05)
            if chunk is not None:
                total += chunk.announced
                bar.total = total
                bar.update(len(chunk.frames) + len(chunk.bad))
    if interrupted.is_set():
        raise KeyboardInterrupt
    return result


def _chunks(inputs: Sequence[Input], video: Callable[[], TwoStageAnalyzer]) -> Iterator[_Chunk]:
    for path, group in groupby(inputs, key=lambda item: item.path if item.kind == "video" else None):
        if path is None:
            yield from _image_chunks(group)
        else:
            for item in group:
                yield from _video_chunks(item, video())


def _image_chunks(inputs: Iterable[Input]) -> Iterator[_Chunk]:
    chunk = _Chunk()
    for path, group in groupby(inputs, key=lambda item: item.path if item.member is not None else None):
        with ExitStack() as stack:
            archive = None if path is None else stack.enter_context(zipfile.ZipFile(path))
            for item in group:
                try:
                    chunk.frames.append(Frame(_read(item, archive), item.name))
                    chunk.finished.append(item.name)
                except (FaceflaxError, OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
                    # zipfile raises RuntimeError for a password, NotImplementedError for an unknown compression
                    chunk.bad.append((item.name, _why(error)))
                if chunk.full:
                    yield chunk
                    chunk = _Chunk()
    yield chunk


def _read(item: Input, archive: zipfile.ZipFile | None) -> Image:
    if archive is None:
        return read_image(item.path).image
    assert item.member is not None
    if archive.getinfo(item.member).file_size > _LARGEST_MEMBER:
        raise FaceflaxError("member", item.member, f"is larger than {_LARGEST_MEMBER / 2**20:.0f} MB when unpacked")
    return read_image(archive.read(item.member), name=Path(item.member)).image


def _why(error: Exception) -> str:
    """What is wrong with an input, in a list that has its name already."""
    if isinstance(error, FaceflaxError):
        return "; ".join(filter(None, (error.problem, error.remedy)))
    return str(error)


def _video_chunks(item: Input, analyzer: TwoStageAnalyzer) -> Iterator[_Chunk]:
    chunk = _Chunk(video=analyzer)

    def remark(problem: str) -> None:
        chunk.bad.append((item.name, problem))

    try:
        source = open_file(item.path, remark)
        chunk.announced = (source.count or 1) - 1
        with closing(source.frames) as frames:
            for frame in frames:
                frame.name = item.name
                chunk.frames.append(frame)
                if chunk.full:
                    yield chunk
                    chunk = _Chunk(video=analyzer)
        chunk.finished.append(item.name)
    except (FaceflaxError, OSError) as error:
        remark(_why(error))
    yield chunk
