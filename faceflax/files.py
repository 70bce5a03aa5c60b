"""Folders and files: where faceflax keeps what it can make again, and places checked before work starts."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from faceflax.errors import FaceflaxError


def cache_folder() -> Path:
    """The cache folder: ``$FACEFLAX_CACHE_DIR``, or ``faceflax`` in the user's cache folder of the platform.

    It can be deleted at any time.
    """
    given = os.environ.get("FACEFLAX_CACHE_DIR")
    if given:
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "faceflax"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faceflax"


def writable_folder(argument: str, folder: Path) -> Path:
    """Creates ``folder`` if needed and proves that a file can be written into it.

    Raises:
        FaceflaxError: the folder cannot be made or written; the message names ``argument`` and the path.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise FaceflaxError(f"{argument}: cannot write into {str(folder)!r} ({reason}); name another folder") from None
    return folder


def writable_file(argument: str, file: Path) -> Path:
    """Like :func:`writable_folder`, for the folder of ``file``; a file that exists must be a writable file."""
    writable_folder(argument, file.parent)
    if file.exists() and (file.is_dir() or not os.access(file, os.W_OK)):
        raise FaceflaxError(f"{argument}: cannot write {str(file)!r}; name another file")
    return file
