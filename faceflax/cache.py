"""The cache: what can be made again, verified before it is used, and trusted only where nobody else can write.

What lies here is machine code, so a file is used only if it is this user's, nobody else can write it or its folder,
and its SHA-256 is the one in its name. Anything else is made again.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import stat
from pathlib import Path

from faceflax import files
from faceflax.errors import said

_log = logging.getLogger("faceflax")


def folder(name: str = "") -> Path | None:
    """The cache folder, or one in it, made if need be; None where there is no place, or none that can be trusted.

    A folder made here is open to its user alone (0700).
    """
    root = files.cache_folder()
    if root is None:
        return None
    try:
        for place in dict.fromkeys((root, root / name)):
            for missing in [parent for parent in (place, *place.parents) if not parent.exists()][::-1]:
                missing.mkdir(mode=0o700, exist_ok=True)
            reason = distrust(place.stat())
            if reason is not None:
                _refused(place, reason)
                return None
    except OSError as error:
        _log.info("faceflax: nothing can be cached in %s (%s)", root / name, error)
        return None
    return root / name


def find(place: Path, stem: str, suffix: str) -> tuple[Path, bytes] | None:
    """Returns the whole, trusted file that :func:`keep` wrote under ``stem``, and its content; None if there is none.

    A file that is damaged, or that others own or can write, is deleted with a line, so that it is made again.
    """
    for file in sorted(place.glob(f"{stem}-*{suffix}")):
        try:
            with os.fdopen(os.open(file, os.O_RDONLY | _NOFOLLOW), "rb") as opened:
                about = os.fstat(opened.fileno())
                reason = distrust(about) if stat.S_ISREG(about.st_mode) else "it is not a file"
                content = b"" if reason else opened.read()
        except OSError as error:
            reason = said(error)
        if reason is None and _name(stem, content, suffix) != file.name:
            reason = "it is damaged"
        if reason is None:
            return file, content
        _log.warning("faceflax: %s is not used and made again: %s", file, reason)
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            _log.info("faceflax: %s cannot be deleted (%s)", file, error)
    return None


def keep(place: Path, stem: str, suffix: str, content: bytes) -> Path:
    """Writes a file that only its user can read, its hash in its name; what killed processes left goes first.

    Raises:
        OSError: it cannot be written.
    """
    for orphan in files.orphans(place):
        orphan.unlink(missing_ok=True)
    file = place / _name(stem, content, suffix)
    files.write(file, content, mode=0o600)
    return file


def distrust(about: os.stat_result) -> str | None:
    """Why a file or folder may hold what somebody else put there; None if it cannot."""
    if not hasattr(os, "geteuid"):  # Windows, where a user's folder is closed to others by its list of access rights
        return None
    if about.st_uid != os.geteuid():
        return "another user owns it"
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "other users can write it"
    return None


_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def _name(stem: str, content: bytes, suffix: str) -> str:
    return f"{stem}-{hashlib.sha256(content).hexdigest()[:32]}{suffix}"


@functools.cache
def _refused(place: Path, reason: str) -> None:
    """Says once that the folder is not used."""
    _log.warning(
        "faceflax: the cache %s is not used, because %s: chmod 700 it, or name another in FACEFLAX_CACHE_DIR",
        place,
        reason,
    )
