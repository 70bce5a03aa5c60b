"""Many images and videos into one table, in a way that can be stopped at any time and go on later.

Messages name the arguments ``PATH`` and ``--csv`` of ``scripts/analyze.py``.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol

from tqdm import tqdm

from faceflax.errors import FaceflaxError
from faceflax.faces.face import Face
from faceflax.media.outputs import CSV_COLUMNS, Image, Lines, csv_lines
from faceflax.media.sources import IMAGE_SUFFIXES, Frame, open_file, read_image
from faceflax.pipeline import Ended, interrupts, pipeline

VIDEO_SUFFIXES: tuple[str, ...] = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")

_CHUNK_FRAMES, _CHUNK_BYTES = 16, 2**26  # how much goes through together, whichever is less
_LARGEST_MEMBER = 2**29  # bytes of a file in an archive, unpacked


class FilmAnalyzer(Protocol):
    """Finds the faces of one film and labels those of several frames together; each called in the frames' order."""

    def locate(self, frame: Image) -> Any:
        """Finds the faces of a frame."""
        ...

    def read_batch(self, frames: Sequence[Image], located: Sequence[Any]) -> Sequence[Sequence[Face]]:
        """Labels what :meth:`locate` found in each of ``frames``."""
        ...


@dataclass(frozen=True)
class Input:
    """An image or a video.

    Attributes:
        name: what the table calls it: its path, as the user began it; for a file in an archive, the archive's path
            and the file's in it.
        kind: by its suffix.
        path: of the file, or of the archive that it is in.
        member: its name in the archive.
    """

    name: str
    kind: Literal["image", "video"]
    path: Path
    member: str | None = None


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


def find_inputs(paths: Sequence[Path]) -> tuple[list[Input], list[tuple[str, str]]]:
    """Lists the images and videos of files, folders (with all in them) and zip archives (images alone), each once.

    Args:
        paths: a file that is neither an image nor an archive by its suffix is taken for a video.

    Returns:
        The inputs, folders and archives in the order of names; and name and reason of each archive that is none.

    Raises:
        FaceflaxError: a path is not there, or there is nothing to analyse.
    """
    found: dict[tuple[Path, str | None], Input] = {}
    bad = []
    for given in paths:
        if not given.exists():
            raise FaceflaxError(f"PATH: there is no {str(given)!r}; give images, videos, folders or zip archives")
        for path in _media(given) if given.is_dir() else [given]:
            try:
                for item in _expand(path):
                    found.setdefault((item.path.resolve(), item.member), item)
            except (zipfile.BadZipFile, OSError) as error:
                bad.append((str(path), f"cannot be read as a zip archive ({error})"))
    if not found and not bad:
        raise FaceflaxError(f"PATH: no images, videos or zip archives in {', '.join(repr(str(p)) for p in paths)}")
    return list(found.values()), bad


def _media(folder: Path) -> list[Path]:
    """All media in a folder and the folders in it; names that begin with a dot are not looked at."""
    known = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, ".zip")
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in known
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _expand(path: Path) -> Iterable[Input]:
    if path.suffix.lower() != ".zip":
        return [Input(str(path), "image" if path.suffix.lower() in IMAGE_SUFFIXES else "video", path)]
    with zipfile.ZipFile(path) as archive:
        members = [Path(name) for name in sorted(archive.namelist())]
    return [
        Input(f"{path}/{member.as_posix()}", "image", path, member.as_posix())
        for member in members
        if member.suffix.lower() in IMAGE_SUFFIXES and not any(p.startswith((".", "__MACOSX")) for p in member.parts)
    ]


class Table:
    """A CSV file and, until it is complete, a journal beside it of which inputs are in it whole.

    Made by :func:`open_table`.

    Attributes:
        done: the names of these inputs.
    """

    def __init__(self, rows: Lines, journal: Lines, done: set[str]) -> None:
        self.done = done
        self._rows = rows
        self._journal = journal

    def write(self, rows: str) -> None:
        """Appends whole rows."""
        self._rows.write(rows)

    def finish(self, names: Sequence[str]) -> None:
        """Notes that all rows of these inputs, and of no others, have been written since the last time."""
        if names:
            self._journal.write(json.dumps({"done": names, "bytes": self._rows.size}) + "\n")


def journal_of(table: Path) -> Path:
    """Returns the path of a table's journal.

    Example:
        >>> str(journal_of(Path("faces.csv")))
        'faces.csv.progress'
    """
    return table.with_name(f"{table.name}.progress")


@contextmanager
def open_table(path: Path, settings: Mapping[str, Any]) -> Iterator[Table]:
    """Begins a table, or goes on with one whose journal is there: rows of unfinished inputs are taken out first.

    Args:
        path: of the CSV file.
        settings: what the rows depend on, such as the weights; must be the same when it goes on. JSON values.

    Raises:
        FaceflaxError: a file without a journal, that is, a complete table or something else; or other settings.
    """
    journal = journal_of(path)
    head = json.dumps({"columns": CSV_COLUMNS, "settings": settings}) + "\n"
    header = ",".join(CSV_COLUMNS) + "\n"
    done: set[str] = set()
    rows_end, journal_end = len(header), len(head)
    if journal.exists():
        lines = [line for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        if lines and lines[0] != head.encode():
            raise FaceflaxError(
                f"--csv: {str(path)!r} was begun with other weights or another version; finish it with those, "
                f"or delete it and {str(journal)!r}"
            )
        size = path.stat().st_size if path.exists() else 0
        for line in lines[1:]:
            entry = json.loads(line)
            if entry["bytes"] > size:  # its rows were lost
                break
            done.update(entry["done"])
            rows_end, journal_end = entry["bytes"], journal_end + len(line)
    elif path.exists() and path.stat().st_size:
        raise FaceflaxError(f"--csv: {str(path)!r} is there already; name another file or delete it")
    with ExitStack() as stack:
        files = []
        for file, end, first in ((journal, journal_end, head), (path, rows_end, header)):
            opened = stack.enter_context(open(file, "r+b" if file.exists() else "w+b", buffering=0))
            opened.truncate(end if done else 0)
            opened.seek(0, os.SEEK_END)
            files.append(Lines("--csv", opened))
            if not done:
                files[-1].write(first)
        yield Table(files[1], files[0], done)


@dataclass
class _Chunk:
    """Frames that go through together: of several images, or successive ones of one video."""

    frames: list[Frame] = field(default_factory=list)
    video: FilmAnalyzer | None = None
    announced: int = 0  # frames that a video of this chunk brings with it, beyond the one that every input counts for
    located: list[Any] = field(default_factory=list)
    faces: list[Sequence[Face]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return len(self.frames) >= _CHUNK_FRAMES or sum(frame.image.nbytes for frame in self.frames) >= _CHUNK_BYTES


def analyze(
    inputs: Sequence[Input],
    table: Table,
    images: Callable[[Sequence[Image]], Sequence[Sequence[Face]]],
    video: Callable[[], FilmAnalyzer],
) -> Result:
    """Writes a row into ``table`` for each face of each input that is not in it yet.

    Inputs that cannot be read are skipped. Memory does not depend on how many inputs there are or how long a video is.

    Args:
        inputs: from :func:`find_inputs`.
        table: from :func:`open_table`.
        images: finds the faces of several images together, such as ``FaceAnalyzer().analyze_batch``.
        video: makes what finds the faces of one video, such as ``VideoAnalyzer``.

    Raises:
        FaceflaxError: the table cannot be written.
        KeyboardInterrupt: Ctrl-C, once all that was analysed is written; the table can be gone on with.
    """
    remaining = [item for item in inputs if item.name not in table.done]
    result = Result(before=len(inputs) - len(remaining))
    videos = {item.name for item in remaining if item.kind == "video"}

    def locate(chunk: _Chunk) -> _Chunk:
        if chunk.video is not None:
            chunk.located = [chunk.video.locate(frame.image) for frame in chunk.frames]
        return chunk

    def read(chunk: _Chunk) -> _Chunk:
        pictures = [frame.image for frame in chunk.frames]
        if pictures:
            found = images(pictures) if chunk.video is None else chunk.video.read_batch(pictures, chunk.located)
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


def _chunks(inputs: Sequence[Input], video: Callable[[], FilmAnalyzer]) -> Iterator[_Chunk]:
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
                    chunk.frames.append(Frame(_read(item, archive), item.name, 0, 0.0))
                    chunk.finished.append(item.name)
                except (FaceflaxError, OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
                    # zipfile's RuntimeError is a password, its NotImplementedError a compression it does not know
                    chunk.bad.append((item.name, str(error)))
                if chunk.full:
                    yield chunk
                    chunk = _Chunk()
    yield chunk


def _read(item: Input, archive: zipfile.ZipFile | None) -> Image:
    if archive is None:
        image = read_image(item.path)
    else:
        assert item.member is not None
        if archive.getinfo(item.member).file_size > _LARGEST_MEMBER:
            raise FaceflaxError(f"is larger than {_LARGEST_MEMBER / 2**20:.0f} MB when unpacked")
        image = read_image(archive.read(item.member))
    if image is None:
        raise FaceflaxError("cannot be read as an image; is it complete?")
    return image


def _video_chunks(item: Input, analyzer: FilmAnalyzer) -> Iterator[_Chunk]:
    chunk = _Chunk(video=analyzer)

    def remark(message: str) -> None:
        chunk.bad.append((item.name, message.removeprefix("PATH: ").removeprefix(f"{str(item.path)!r} ")))

    try:
        source = open_file(item.path, "PATH", remark)
        chunk.announced = (source.count or 1) - 1
        with closing(source.frames) as frames:
            for frame in frames:
                chunk.frames.append(replace(frame, name=item.name))
                if chunk.full:
                    yield chunk
                    chunk = _Chunk(video=analyzer)
        chunk.finished.append(item.name)
    except (FaceflaxError, OSError) as error:
        remark(str(error))
    yield chunk
