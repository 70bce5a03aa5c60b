"""What there is to analyse: images and videos in files, folders and archives, told by their content."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from faceflax.batch.archives import ERRORS, Archive, is_tar
from faceflax.errors import FaceflaxError, said
from faceflax.media.addresses import is_address, local_path, masked
from faceflax.media.images import is_animation, may_be_animated
from faceflax.media.kinds import HEAD, Kind, kind_by_name, kind_of, read_head
from faceflax.media.table import SCHEMA

Status = Literal["done", "no face", "damaged", "failed", "skipped"]
"""What became of an input: all of it was analysed; the same, without a face; parts of it could not be read; nothing of
it could; or it was left out on purpose."""

STATUSES: tuple[Status, ...] = ("done", "no face", "damaged", "failed", "skipped")


@dataclass(frozen=True)
class Input:
    """An image or a video.

    Attributes:
        name: its name in the table: its path, beginning as it was given; for a file in an archive, the archive's path
            and the file's path in it; for a stream its address without passwords.
        kind: by its content.
        path: of the file, or of the archive that it is in; or the address of a stream.
        member: its name in the archive.
        archive: the archive's kind.
        frames: how many frames a video announces that will be analysed; None where that is unknown.
    """

    name: str
    kind: Literal["image", "video"]
    path: Path | str
    member: str | None = None
    archive: Literal["zip", "tar"] | None = None
    frames: int | None = None


@dataclass(frozen=True)
class Record:
    """What became of an input: a row of :data:`faceflax.media.table.INPUT_COLUMNS`.

    Attributes:
        input: its name.
        kind: image or video; None where that is unknown.
        status: one of :data:`STATUSES`.
        reason: why it is damaged, failed or skipped.
        frames: how many were analysed.
        faces: how many were found.
        seconds: how long a video is.
    """

    input: str
    kind: str | None
    status: Status
    reason: str | None = None
    frames: int = 0
    faces: int = 0
    seconds: float | None = None

    def row(self) -> dict[str, Any]:
        """Returns the row."""
        return {"schema": SCHEMA} | vars(self)


def find_inputs(
    paths: Sequence[Path | str], include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[Input], list[Record]]:
    """Lists the images and videos in files, folders (subfolders too) and archives, each once.

    Args:
        paths: files, folders, zip and tar archives, addresses.
        include: of what is in folders and archives, only what matches one of these patterns, as ``*.jpg`` or
            ``2024/*``; the path in the folder or the name alone has to match.
        exclude: of these, not what matches one of these patterns.

    Returns:
        The inputs, those of folders sorted by name; and a record of each file that is none.

    Raises:
        FaceflaxError: a path is not there, or there is nothing to analyse.
    """
    search = _Search(include, exclude)
    for given in paths:
        if isinstance(given, str) and is_address(given):
            local = local_path("paths", given)
            if local is None:
                search.add(Input(masked(given), "video", given), given)
                continue
            given = local
        path = Path(given)
        try:
            present = path.exists() or path.is_symlink()
        except (OSError, ValueError):
            present = False
        if not present:
            raise FaceflaxError("paths", path, "there is no {}", "give images, videos, folders or archives")
        if path.is_dir():
            search.folder(path)
        else:
            search.file(path, path.name, given=True)
    if not search.found and not any(record.status == "failed" for record in search.others):
        shown = ", ".join(map(str, paths))
        raise FaceflaxError("paths", shown, "no images, videos or archives in {}")
    return list(search.found.values()), search.others


def find_file(path: Path, name: str) -> tuple[list[Input], list[Record]]:
    """Lists the images and videos that a file is or, as an archive, holds; as :func:`find_inputs` does in a folder.

    Args:
        path: of the file.
        name: what stands in the tables in place of the path.
    """
    search = _Search((), ())
    search.file(path, path.name)
    found = [replace(item, name=f"{name}{item.name.removeprefix(str(path))}") for item in search.found.values()]
    return found, [replace(item, input=f"{name}{item.input.removeprefix(str(path))}") for item in search.others]


class _Search:
    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self.found: dict[tuple[str, str | None], Input] = {}
        self.others: list[Record] = []
        self._include, self._exclude = include, exclude

    def add(self, item: Input, place: str) -> None:
        self.found.setdefault((place, item.member), item)

    def folder(self, folder: Path) -> None:
        def unreadable(error: OSError) -> None:
            self._leave(str(error.filename), "failed", f"the folder cannot be read ({said(error)})")

        files = []
        for root, folders, names in os.walk(folder, onerror=unreadable):
            for name in [name for name in folders if name.startswith(".")]:
                folders.remove(name)
                self._leave(str(Path(root, name)), "skipped", "is hidden")
            files += [Path(root, name) for name in names]
        for path in sorted(files):
            self.file(path, path.relative_to(folder).as_posix())

    def file(self, path: Path, inner: str, *, given: bool = False) -> None:
        name = str(path)
        if not given and not self._chosen(name, inner):
            return
        try:
            head = read_head("paths", path)
            kind = kind_of(head)
            if kind in ("zip", "tar"):
                self._archive(path, kind, given)
                return
            if kind is None and not given and kind_by_name(path.name) is None:
                self._leave(name, "skipped", "is neither an image, nor a video, nor an archive")
                return
            if kind is None and kind_by_name(path.name) == "archive":
                self._leave(name, "failed", "cannot be read as an archive; is it complete?")
                return
            by_name = "image" if kind_by_name(path.name) == "image" else "video"
            image = kind == "image" or (kind is None and by_name == "image")
            if may_be_animated(head) and is_animation(path):
                image = False
            self.add(Input(name, "image" if image else "video", path), str(path.resolve()))
        except FaceflaxError as error:
            known = given or kind_by_name(path.name) is not None
            self._leave(name, "failed" if known else "skipped", reason_of(error))

    def _archive(self, path: Path, kind: Literal["zip", "tar"], given: bool) -> None:
        name = str(path)
        meant = given or kind_by_name(path.name) == "archive"
        if not meant or (kind == "tar" and not is_tar(path)):
            problem = "cannot be read as an archive; is it complete?" if meant else None
            why = problem or "is neither an image, nor a video, nor an archive by its name"
            self._leave(name, "failed" if problem else "skipped", why)
            return
        try:
            archive = Archive(path, kind)
            try:
                for member in archive.members():
                    self._member(path, kind, archive, member.name, member.problem)
            finally:
                archive.close()
        except ERRORS as error:
            self._leave(name, "failed", f"cannot be read as an archive to its end ({said(error)})")

    def _member(
        self, path: Path, kind: Literal["zip", "tar"], archive: Archive, inner: str, problem: str | None
    ) -> None:
        name = f"{path}/{inner}"
        if not self._chosen(name, inner):
            return
        if problem is not None:
            self._leave(name, "failed", problem)
            return
        try:
            head, found = archive.head(inner, HEAD), ""
        except ERRORS as error:
            head, found = b"", said(error)
        told: Kind | None = kind_of(head)
        named = kind_by_name(inner)
        if told in ("zip", "tar") and named == "archive":
            self._leave(name, "failed", "is an archive in an archive; unpack the outer one first")
        elif told in ("image", "video") or named in ("image", "video"):
            moving = told == "video" or (told is None and named == "video")
            if may_be_animated(head):
                with suppress(*ERRORS), archive.open(inner) as file:  # said when its turn comes
                    moving = is_animation(file)
            item = Input(name, "video" if moving else "image", path, inner, kind)
            self.add(item, str(path.resolve()))
        else:
            self._leave(name, "skipped", found or "is neither an image nor a video")

    def _chosen(self, name: str, inner: str) -> bool:
        parts = [part for part in inner.split("/") if part != "."]
        if ".." in parts:
            self._leave(name, "skipped", "leads out of the archive")
        elif any(part.startswith((".", "__MACOSX")) for part in parts):
            self._leave(name, "skipped", "is hidden")
        elif self._include and not _matches(inner, self._include):
            self._leave(name, "skipped", "does not match --include")
        elif _matches(inner, self._exclude):
            self._leave(name, "skipped", "matches --exclude")
        else:
            return True
        return False

    def _leave(self, name: str, status: Status, why: str) -> None:
        self.others.append(Record(name, None, status, why))


def _matches(inner: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(inner, pattern) or fnmatch(inner.rpartition("/")[2], pattern) for pattern in patterns)


def reason_of(error: Exception) -> str:
    """Returns what is wrong with an input, for a list that has its name already."""
    if not isinstance(error, FaceflaxError):
        return said(error)
    problem = error.problem.replace("{}", "it", 1)
    return "; ".join(filter(None, (problem, error.remedy)))


def reasons(records: Sequence[Record]) -> Iterator[str]:
    """Yields lines that count the inputs of each status, and for each reason how many have it.

    Example:
        >>> records = [Record("a", "image", "done"), Record("b", None, "skipped", "is hidden")]
        >>> list(reasons(records))
        ['1 done', '1 skipped: is hidden']
    """
    for status in STATUSES:
        counts: dict[str | None, int] = {}
        for record in records:
            if record.status == status:
                counts[record.reason] = counts.get(record.reason, 0) + 1
        for reason, count in sorted(counts.items(), key=lambda each: -each[1]):
            yield f"{count} {status}" + (f": {reason}" if reason else "")
