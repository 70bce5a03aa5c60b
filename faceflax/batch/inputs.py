"""What there is to analyse: images and videos in files, folders and archives."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faceflax.errors import FaceflaxError
from faceflax.media.sources import IMAGE_SUFFIXES

VIDEO_SUFFIXES: tuple[str, ...] = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


@dataclass(frozen=True)
class Input:
    """An image or a video.

    Attributes:
        name: its name in the table: its path, beginning as it was given; for a file in an archive, the archive's path
            and the file's path in it.
        kind: by its suffix.
        path: of the file, or of the archive that it is in.
        member: its name in the archive.
    """

    name: str
    kind: Literal["image", "video"]
    path: Path
    member: str | None = None


def find_inputs(paths: Sequence[Path]) -> tuple[list[Input], list[tuple[str, str]]]:
    """Lists the images and videos in files, folders (subfolders too) and zip archives (images only), each once.

    Args:
        paths: a file that is neither an image nor an archive by its suffix is taken for a video.

    Returns:
        The inputs, those of folders and archives sorted by name; and name and reason of each archive that cannot be
        read.

    Raises:
        FaceflaxError: a path is not there, or there is nothing to analyse.
    """
    found: dict[tuple[Path, str | None], Input] = {}
    bad = []
    for given in paths:
        if not given.exists():
            raise FaceflaxError("paths", given, "there is no {}", "give images, videos, folders or zip archives")
        for path in _media(given) if given.is_dir() else [given]:
            try:
                for item in _expand(path):
                    found.setdefault((item.path.resolve(), item.member), item)
            except (zipfile.BadZipFile, OSError) as error:
                bad.append((str(path), f"cannot be read as a zip archive ({error})"))
    if not found and not bad:
        raise FaceflaxError("paths", ", ".join(map(str, paths)), "no images, videos or zip archives in {}")
    return list(found.values()), bad


def _media(folder: Path) -> list[Path]:
    """All media in a folder and its subfolders, except what is hidden: names that begin with a dot."""
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
