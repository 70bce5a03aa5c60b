"""Folders and files: the cache, places checked before work starts, and files that appear whole or not at all."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import platformdirs

from faceflax.errors import FaceflaxError

_log = logging.getLogger("faceflax")


def cache_folder() -> Path | None:
    """The folder of what can be made again, such as compiled kernels: it may be deleted at any time.

    ``$FACEFLAX_CACHE_DIR``, or ``faceflax`` in the user's cache folder of the platform. None where there is no such
    place, as for a user without a home.
    """
    given = os.environ.get("FACEFLAX_CACHE_DIR")
    if given:
        return Path(given).absolute()
    try:
        folder = platformdirs.user_cache_path("faceflax", appauthor=False)
    except RuntimeError:  # no home folder can be determined
        return None
    return folder if folder.is_absolute() else None


def writable_folder(field: str, folder: Path) -> Path:
    """Creates ``folder`` if needed and proves that a file can be written into it.

    Args:
        field: what the caller names the folder by, for the error.
        folder: the folder.

    Raises:
        FaceflaxError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise FaceflaxError(field, folder, f"cannot write into {{}} ({reason})", "name another folder") from None
    return folder


def writable_file(field: str, file: Path) -> Path:
    """Like :func:`writable_folder`, for the folder of ``file``; a file that exists must be a writable file."""
    writable_folder(field, file.parent)
    if file.exists() and (file.is_dir() or not os.access(file, os.W_OK)):
        raise FaceflaxError(field, file, "cannot write {}", "name another file")
    return file


def lock(file: BinaryIO) -> bool:
    """Takes an open file for this process, until the file is closed or the process ends; False if another has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0, os.SEEK_END)
            end = file.tell()
            file.seek(2**40)  # a byte that nobody reads
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            finally:
                file.seek(end)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside ``path`` which becomes ``path`` at the end of the block.

    If the block fails, what was at ``path`` stays and the temporary file goes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "rows.csv") as temporary:
        ...         size = temporary.write_text("a,b")
        ...     print([file.name for file in Path(folder).iterdir()])
        ['rows.csv']
    """
    temporary = temporary_name(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def recording(path: Path) -> Iterator[Path]:
    """Like :func:`replacing`, for what is written bit by bit and worth having even when the block fails.

    After a failure it becomes ``path`` if nothing is there; an older file there stays, and this one is kept beside it
    as ``NAME.partial.SUFFIX``. After Ctrl-C it becomes ``path``. An empty file is not kept.
    """
    temporary = temporary_name(path)
    place = path
    try:
        yield temporary
    except Exception:
        if path.exists():
            place = path.with_name(f"{path.stem}.partial{path.suffix}")
        raise
    finally:
        if temporary.exists() and temporary.stat().st_size:
            temporary.replace(place)
            if place != path:
                _log.warning(
                    "faceflax: %r is as it was before; what was written until now is %r", str(path), str(place)
                )
        temporary.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Writes a whole file in one step, text as UTF-8: on any failure what was at ``path`` stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(Path(folder) / "labels.txt", "happy\\n")
        ...     (Path(folder) / "labels.txt").read_bytes()
        b'happy\\n'
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def temporary_name(path: Path) -> Path:
    """Returns the hidden name beside ``path`` under which this process writes it."""
    return path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
