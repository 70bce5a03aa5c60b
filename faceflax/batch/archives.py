"""Files in zip and tar archives."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, BinaryIO, Literal, NamedTuple, cast

from faceflax.errors import FaceflaxError

ERRORS = (
    *(OSError, EOFError, RuntimeError, NotImplementedError, KeyError, ValueError),  # zipfile's, for password and method
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
)
"""What reading a damaged archive raises."""

LARGEST = 2**34
"""Bytes of a file in an archive, unpacked, that are read at most."""

_IN_MEMORY = 2**26  # bytes; larger files go to the disk


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        name: its path in it.
        problem: why it cannot be read, if it cannot.
    """

    name: str
    problem: str | None


class Archive:
    """An open zip or tar archive. A compressed tar is read from front to back: ask for its files in their order.

    Args:
        path: of the archive.
        kind: zip, or tar, compressed or not.

    Raises:
        OSError: or another of :data:`ERRORS`: it is not one, or not whole.
    """

    def __init__(self, path: Path, kind: Literal["zip", "tar"]) -> None:
        self.path = path
        self._file = path.open("rb")
        try:
            self._zip = zipfile.ZipFile(self._file) if kind == "zip" else None
            self._tar = tarfile.open(fileobj=self._file, mode="r:*") if kind == "tar" else None  # noqa: SIM115
        except BaseException:
            self._file.close()
            raise
        self._infos: dict[str, tarfile.TarInfo] = {}

    def members(self) -> list[Member]:
        """Returns its files, those of a zip sorted by name."""
        if self._zip is not None:
            entries = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
            return [
                Member(name, _problem(info.flag_bits & 1, info.file_size)) for name, info in sorted(entries.items())
            ]
        assert self._tar is not None
        self._infos = {info.name: info for info in self._tar.getmembers() if not info.isdir()}
        return [
            Member(name, _problem(0, info.size) if info.isreg() else "is a link or a device in an archive")
            for name, info in self._infos.items()
        ]

    def head(self, name: str, size: int) -> bytes:
        """Returns the first bytes of a file."""
        with self._stream(name) as stream:
            return stream.read(size)

    def open(self, name: str) -> BinaryIO:
        """Returns a file's content, unpacked: in memory, or on the disk if it is large.

        Raises:
            FaceflaxError: it is larger than it says, and than :data:`LARGEST`.
        """
        copy = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  # the caller closes it
        try:
            with self._stream(name) as stream:
                for block in _blocks(stream):
                    copy.write(block)
        except BaseException:
            copy.close()
            raise
        copy.seek(0)
        return cast(BinaryIO, copy)

    def close(self) -> None:
        """Closes the archive."""
        for each in (self._zip, self._tar, self._file):
            if each is not None:
                each.close()

    def _stream(self, name: str) -> IO[bytes]:
        if self._zip is not None:
            return self._zip.open(name)
        assert self._tar is not None
        if not self._infos:
            self.members()
        stream = self._tar.extractfile(self._infos[name])
        if stream is None:
            raise KeyError(name)
        return stream


def _problem(encrypted: int, size: int) -> str | None:
    if encrypted:
        return "is encrypted; unpack the archive with its password first"
    return f"is larger than {LARGEST / 2**30:.0f} GB when unpacked" if size > LARGEST else None


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    total = 0
    while block := stream.read(2**20):
        total += len(block)
        if total > LARGEST:
            raise FaceflaxError("member", None, f"is larger than {LARGEST / 2**30:.0f} GB when unpacked")
        yield block


def is_tar(path: Path) -> bool:
    """Tells a tar archive, compressed or not, from another compressed file."""
    openers = (Path.open, gzip.open, bz2.open, lzma.open)
    for opener in openers:
        try:
            with opener(path, "rb") as file:
                if file.read(263)[257:262] == b"ustar":
                    return True
        except ERRORS:
            continue
    return False
