"""What a prepared dataset consists of, so that changed files are not read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from faceflax import files
from faceflax.errors import said

NAME = "digests.json"
"""The file that lists the SHA-256 of all others in the folder of a prepared dataset."""


def seal(folder: Path) -> None:
    """Lists the digests of all files in ``folder``, which is complete."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and file.name != NAME)
    content = {"version": 1, "sha256": {name: _digest(folder / name) for name in names}}
    files.write(folder / NAME, json.dumps(content, indent=1) + "\n")


def is_sealed(folder: Path) -> bool:
    """Whether there are digests to verify: faceflax 0.1 prepared datasets without."""
    return (folder / NAME).exists()


def damage(folder: Path, chosen: Callable[[str], bool]) -> str | None:
    """Returns which of the ``chosen`` files is not what was prepared, or None; their names are the argument.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     _ = Path(name, "labels.txt").write_text("happy")
        ...     seal(Path(name))
        ...     print(damage(Path(name), lambda file: True))
        ...     _ = Path(name, "labels.txt").write_text("sad")
        ...     print(damage(Path(name), lambda file: True))
        None
        labels.txt is not what was prepared
    """
    try:
        content = json.loads((folder / NAME).read_bytes())
        listed = dict(content["sha256"])
        if content["version"] != 1 or content.keys() != {"version", "sha256"}:
            return f"{NAME} is of another version"
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return f"{NAME} cannot be read"
    for name in filter(chosen, listed):
        try:
            if _digest(folder / name) != listed[name]:
                return f"{name} is not what was prepared"
        except OSError as error:
            return f"{name} cannot be read ({said(error)})"
    return None


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
