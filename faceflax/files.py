"""Folders and files: the cache, places checked before work starts, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import platformdirs

from faceflax.errors import FaceflaxError, said

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


def check_file(field: str, file: Path, *, most: int | None = None, what: str = "", remedy: str = "") -> None:
    """Checks that a name is that of a file, before it is opened: devices have no end, and pipes keep who opens them.

    Args:
        field: what the caller names the file by, for the error.
        file: the file; any string that a user gave.
        most: bytes that it may have.
        what: what the file is, for the error, as ``, the record of 'x.safetensors'``.
        remedy: for the error.

    Raises:
        FaceflaxError: nothing is there, something else than a file, or too much.

    Example:
        >>> check_file("weights", Path())
        Traceback (most recent call last):
        faceflax.errors.FaceflaxError: weights: '.' is a folder, not a file; give a file
    """
    try:
        about = os.stat(file)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise FaceflaxError(field, file, f"cannot read {{}}{what} ({said(error)})", remedy) from None
    if not stat.S_ISREG(about.st_mode):
        problem = f"is a {_kind(about.st_mode)}, not a file"
        raise FaceflaxError(field, file, f"{{}}{what} {problem}" if what else problem, remedy or "give a file")
    if most is not None and about.st_size > most:
        problem = f"{{}}{what} has {about.st_size:,} bytes, more than can be right"
        raise FaceflaxError(field, file, problem, remedy)


def read(field: str, file: Path, most: int, *, what: str = "", remedy: str = "") -> bytes:
    """Reads a whole file that a user named; the arguments are those of :func:`check_file`.

    Raises:
        FaceflaxError: as :func:`check_file`, or it cannot be read.
    """
    check_file(field, file, most=most, what=what, remedy=remedy)
    try:
        with open(file, "rb") as opened:
            return opened.read(most)
    except OSError as error:
        raise FaceflaxError(field, file, f"cannot read {{}}{what} ({said(error)})", remedy) from None


def _kind(mode: int) -> str:
    """What something is that is not a file."""
    tests = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
    return next((name for test, name in tests if test(mode)), "device")


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
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise FaceflaxError(field, folder, f"cannot write into {{}} ({said(error)})", "name another folder") from None
    return folder


def writable_file(field: str, file: Path) -> Path:
    """Like :func:`writable_folder`, for the folder of ``file``; what is there must be a file that can be written.

    A device or a pipe is refused: the file that is written would take its place.
    """
    writable_folder(field, file.parent)
    try:
        mode = os.stat(file).st_mode
    except FileNotFoundError:
        return file
    except (OSError, ValueError) as error:
        raise FaceflaxError(field, file, f"cannot write {{}} ({said(error)})", "name another file") from None
    if not stat.S_ISREG(mode):
        raise FaceflaxError(field, file, f"cannot write {{}}, which is a {_kind(mode)}", "name another file")
    if not os.access(file, os.W_OK):
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


def is_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, is that a disk or a quota is full.

    Libraries in C++ raise errors of their own kinds, which quote the system's words.

    Example:
        >>> import errno
        >>> is_full(OSError(errno.ENOSPC, "No space left on device")), is_full(OSError(errno.EACCES, "denied"))
        (True, False)
    """
    seen: BaseException | None = error
    while seen is not None:
        known = isinstance(seen, OSError) and seen.errno in _FULL
        if known or any(os.strerror(code) in str(seen) for code in _FULL):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def exclusively(field: str, path: Path, file: Path, *, keep: bool = False) -> Iterator[BinaryIO]:
    """Opens ``file`` to append to, unbuffered, for this process alone: what its user lets one run at a time do.

    Args:
        field: what the caller names ``path`` by, for the error.
        path: what is written.
        file: what is locked; it is made if need be, and deleted at the end.
        keep: do not delete it.

    Raises:
        FaceflaxError: another process has it, or it cannot be written.
    """
    busy = FaceflaxError(field, path, "is being written by another run", "wait for it or name another one")
    try:
        opened = file.open("a+b", buffering=0)
    except OSError as error:
        raise FaceflaxError(field, file, f"cannot write {{}} ({said(error)})", "name another place") from None
    with opened:
        if not lock(opened):
            raise busy
        try:
            ours = os.path.samestat(os.fstat(opened.fileno()), file.stat())
        except OSError:
            ours = False
        if not ours:  # the other run has just ended
            raise busy
        try:
            yield opened
        finally:
            if not keep:
                if sys.platform == "win32":
                    opened.close()
                file.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """Yields a temporary name beside ``path`` which becomes ``path`` at the end of the block.

    If the block fails, what was at ``path`` stays and the temporary file goes. What an earlier process left there when
    it was killed goes first; a temporary file that another process is writing is locked, and stays.

    Args:
        path: the file.
        mode: its permissions, from which the process's umask takes away.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "rows.csv") as temporary:
        ...         size = temporary.write_text("a,b")
        ...     print([file.name for file in Path(folder).iterdir()])
        ['rows.csv']
    """
    for orphan in orphans(path.parent, path):
        orphan.unlink(missing_ok=True)
    with _temporary(path, mode) as temporary:
        yield temporary
        temporary.replace(path)


@contextmanager
def recording(path: Path) -> Iterator[Path]:
    """Like :func:`replacing`, for what is written bit by bit and worth having even when the block fails.

    After a failure it becomes ``path`` if nothing is there; an older file there stays, and this one is kept beside it
    as ``NAME.partial.SUFFIX``. After Ctrl-C it becomes ``path``. An empty file is not kept. What a process that was
    killed left is kept under such a name by the next one, with a message.
    """
    for orphan in orphans(path.parent, path):
        if orphan.stat().st_size:
            place = _free(path)
            orphan.replace(place)
            _log.warning("faceflax: what an earlier run had written when it was killed is %r", str(place))
        else:
            orphan.unlink(missing_ok=True)
    with _temporary(path, 0o666) as temporary:
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


def write(path: Path, content: str | bytes, *, mode: int = 0o666) -> None:
    """Writes a whole file in one step, text as UTF-8: on any failure what was at ``path`` stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(Path(folder) / "labels.txt", "happy\\n")
        ...     (Path(folder) / "labels.txt").read_bytes()
        b'happy\\n'
    """
    with replacing(path, mode=mode) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def orphans(folder: Path, path: Path | None = None) -> list[Path]:
    """Returns the temporary files in ``folder`` that no process is writing any more: theirs were killed.

    Args:
        folder: where to look; one that cannot be listed has none.
        path: only those that were to become this file.
    """
    found = []
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    for name in names:
        match = _TEMPORARY.fullmatch(name)
        if match and (path is None or match.groups() == (_label(path), path.suffix)):
            try:
                with (folder / name).open("rb") as file:
                    if lock(file):
                        found.append(folder / name)
            except OSError:  # another process was quicker
                continue
    return found


_TEMPORARY = re.compile(r"\.(.*)\.\d+-[0-9a-f]{8}\.partial(|\.[^.]+)", re.DOTALL)


@contextmanager
def _temporary(path: Path, mode: int) -> Iterator[Path]:
    """Makes a hidden file beside ``path``, locked for the block, at whose end it goes if it has not been renamed."""
    temporary = path.with_name(f".{_label(path)}.{os.getpid()}-{secrets.token_hex(4)}.partial{path.suffix}")
    with os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode), "rb") as file:
        if sys.platform == "win32":  # there an open file can be neither renamed nor deleted, which is a lock too
            file.close()
        else:
            lock(file)
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def _label(path: Path) -> str:
    """The stem, or as much of it as leaves room for what is put around it: a name has at most 255 bytes."""
    encoded = os.fsencode(path.stem)
    return path.stem if len(encoded) <= 128 else hashlib.sha256(encoded).hexdigest()


def _free(path: Path) -> Path:
    """The first name of ``NAME.partial.SUFFIX``, ``NAME.partial2.SUFFIX`` and so on that is not taken."""
    names = (path.with_name(f"{path.stem}.partial{number or ''}{path.suffix}") for number in (0, *range(2, 10**6)))
    return next(name for name in names if not name.exists())
