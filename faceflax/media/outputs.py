"""Where results go: annotated images and videos, and a line per face as CSV or JSON."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from faceflax import files
from faceflax.errors import FaceflaxError, said
from faceflax.faces.face import Face
from faceflax.faces.frame import Frame, Image
from faceflax.media import table
from faceflax.media.images import encode
from faceflax.media.kinds import IMAGE_SUFFIXES
from faceflax.media.sources import Source
from faceflax.media.writing import FORMATS, VideoFile


def check_output(source: str, kind: str, output: Path) -> None:
    """Checks before the work starts that ``output`` fits the source and can be written.

    A camera, a video or ``demo`` gives a video (.mp4, .webm or .avi), an image gives an image, and a folder gives a
    folder with annotated images under the same names (:func:`copy_name`).

    Args:
        source: as :func:`faceflax.media.sources.open_source` takes it.
        kind: of the opened source.
        output: where the annotated copy goes.

    Raises:
        FaceflaxError: another suffix, the source itself, or a place that cannot be written.
    """
    if _same(output, source):
        raise FaceflaxError("output", output, "is the source itself", "name another place")
    if kind == "folder":
        if os.path.exists(output) and not output.is_dir():  # Path.exists raises for names that are too long
            raise FaceflaxError("output", output, "is a file", "for a folder of images name a folder")
        files.writable_folder("output", output)
        return
    suffixes = IMAGE_SUFFIXES if kind == "image" else tuple(FORMATS)
    if output.suffix.lower() not in suffixes:
        meaning = "an image" if kind == "image" else "a video"
        remedy = f"name a file that ends in {' or '.join(suffixes)}"
        raise FaceflaxError("output", output, f"is not {meaning}", remedy)
    files.writable_file("output", output)


def _same(output: Path, source: str) -> bool:
    try:
        return os.path.samefile(output, source)
    except (OSError, ValueError):  # there is no file of one of the names
        return False


def check_table(field: str, file: Path, suffix: str) -> None:
    """Checks before the work starts that ``file`` ends in ``suffix`` and can be written.

    Args:
        field: what the caller names the file by, for the error.
        file: the table, or another file of results.
        suffix: such as ``.csv``.

    Raises:
        FaceflaxError: another suffix, or a place that cannot be written.
    """
    if file.suffix.lower() != suffix:
        raise FaceflaxError(field, file, f"does not end in {suffix}", "name a file that does")
    files.writable_file(field, file)


def write_image(output: Path, image: Image) -> None:
    """Writes an image file in one step.

    Args:
        output: the file; its suffix gives the format.
        image: uint8 ``[height, width, 3]`` BGR.

    Raises:
        FaceflaxError: it cannot be written.
    """
    try:
        files.write(output, encode(image, output.suffix))
    except (OSError, ValueError) as error:
        raise FaceflaxError("output", output, f"cannot write {{}} ({said(error)})") from None


@contextmanager
def annotated(source: Source, output: Path) -> Iterator[Callable[[Frame, Image], None]]:
    """Yields what writes the annotated copy of a frame, as ``write(frame, image)``.

    Args:
        source: what the frames come from.
        output: fits the source, as :func:`check_output` says.
    """
    if source.kind == "image":
        yield lambda frame, image: write_image(output, image)
    elif source.kind == "folder":
        yield lambda frame, image: write_image(output / copy_name(frame.name), image)
    else:
        live = source.kind == "camera"
        with files.recording(output) as temporary:
            video = VideoFile(temporary, source.fps or 30.0, sound=source.file, live=live)
            with closing(video):
                yield video.write


def copy_name(name: str) -> str:
    """Returns the name of an image's annotated copy: its own, or with .png behind it where that cannot be written.

    Example:
        >>> copy_name("a.jpg"), copy_name("b.heic")
        ('a.jpg', 'b.heic.png')
    """
    return name if name.lower().endswith(IMAGE_SUFFIXES) else f"{name}.png"


class Lines:
    """A text file that grows by whole lines, each write at once or not at all, whatever ends the process.

    Args:
        field: what the caller names the file by, for errors.
        file: open for writing, without a buffer.
    """

    def __init__(self, field: str, file: BinaryIO) -> None:
        self._field = field
        self._file = file
        self._digest = hashlib.sha256()

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self._file.tell()

    def digest(self) -> str:
        """Returns the SHA-256 of what was written since the last call."""
        written, self._digest = self._digest, hashlib.sha256()
        return written.hexdigest()

    def write(self, text: str) -> None:
        """Appends ``text``, which is some whole lines.

        Raises:
            FaceflaxError: not all of it could be written; the file is as it was before.
        """
        self._append([text.encode()])

    def copy(self, path: Path) -> None:
        """Appends a file of whole lines.

        Raises:
            FaceflaxError: as :meth:`write`.
        """
        with path.open("rb") as file:
            self._append(iter(lambda: file.read(2**20), b""))

    def _append(self, blocks: Iterable[bytes]) -> None:
        start, digest = self._file.tell(), self._digest.copy()
        try:
            for block in blocks:
                digest.update(block)
                data = memoryview(block)
                while data:
                    data = data[self._file.write(data) :]
        except OSError as error:
            with suppress(OSError):  # a device cannot be cut
                self._file.truncate(start)
                self._file.seek(start)
            problem, remedy = (
                f"cannot write more than {{}} bytes ({said(error)})",
                "make room or name a file on another disk",
            )
            raise FaceflaxError(self._field, start, problem, remedy) from None
        self._digest = digest


@contextmanager
def rows(path: Path, kind: str) -> Iterator[Callable[[Frame, Sequence[Face]], None]]:
    """Yields what writes the faces of a frame to ``path``, as ``write(frame, faces)``; the suffix gives the format.

    Args:
        path: .csv or .jsonl, with :data:`faceflax.media.table.COLUMNS`.
        kind: of the source.

    Raises:
        FaceflaxError: of field ``csv`` or ``jsonl``: not all of it could be written.
    """
    suffix = path.suffix.lower()
    kind = "image" if kind == "folder" else kind
    with files.recording(path) as temporary, temporary.open("wb", buffering=0) as file:
        lines = Lines(suffix[1:], file)
        encode = table.encoder(suffix)
        header = table.COLUMNS.header() if suffix == ".csv" else ""

        def write(frame: Frame, faces: Sequence[Face]) -> None:
            nonlocal header  # goes with the first frame: without frames nothing is kept
            lines.write(header + encode(table.rows_of(frame, faces, kind)))
            header = ""

        yield write
