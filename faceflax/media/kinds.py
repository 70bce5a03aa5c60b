"""What a file is, told by its content: names lie, and phones, chats and browsers give any suffix to anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from faceflax.errors import FaceflaxError, said
from faceflax.files import check_file

Kind = Literal["image", "video", "zip", "tar"]

HEAD = 4096
"""Bytes from a file's beginning that :func:`kind_of` needs."""

IMAGE_SUFFIXES: tuple[str, ...] = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of the images that are written, and read by any program."""

_IMAGE_NAMES = (
    *(*IMAGE_SUFFIXES, ".avif", ".dib", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jp2", ".jpe", ".j2k", ".mpo"),
    *(".pbm", ".pgm", ".pnm", ".ppm"),
)
_VIDEO_NAMES = (
    *(".3g2", ".3gp", ".asf", ".avi", ".dv", ".flv", ".ivf", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
_ARCHIVE_NAMES = (".cbz", ".tar", ".tar.bz2", ".tar.gz", ".tar.xz", ".tbz2", ".tgz", ".txz", ".zip")

_HEIF = {b"avif", b"avis", b"heic", b"heif", b"heim", b"heis", b"heix", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1"}
_MAGIC: tuple[tuple[Kind, re.Pattern[bytes]], ...] = (
    (
        "image",
        re.compile(
            rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|II[*+]\x00|MM\x00[*+]"
            rb"|BM....\x00\x00\x00\x00|\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|P[1-6][\s#]",
            re.DOTALL,
        ),
    ),
    ("zip", re.compile(rb"PK(\x03\x04|\x05\x06|\x07\x08)")),
    ("tar", re.compile(rb".{257}ustar|\x1f\x8b\x08|BZh[1-9]1AY&SY|\xfd7zXZ\x00", re.DOTALL)),
    (
        "video",
        re.compile(
            rb"....(ftyp|moov|mdat|free|skip|wide|pnot)|\x1aE\xdf\xa3|RIFF....AVI |OggS|FLV\x01|DKIF|YUV4MPEG2 "
            rb"|0&\xb2u\x8ef\xcf\x11|\x00\x00\x01[\xb3\xba\xb5]|\x00{2,3}\x01[\x09\x40\x42\x46\x67]"
            rb"|\x06\x0e\x2b\x34|(.{0}|.{4})G.{187}(.{0}|.{4})G|\x1f\x07\x00[\x3f\xbf]|\.RMF",
            re.DOTALL,
        ),
    ),
)


def kind_of(head: bytes) -> Kind | None:
    """Tells what a file is by its first :data:`HEAD` bytes; None if it is nothing that can be analysed.

    A compressed file counts as a tar archive, which it mostly is.

    Example:
        >>> kind_of(b"GIF89a..."), kind_of(bytes(4) + b"ftypisom"), kind_of(bytes(4) + b"ftypheic"), kind_of(b"text")
        ('image', 'video', 'image', None)
    """
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF:
        return "image"
    return next((kind for kind, pattern in _MAGIC if pattern.match(head)), None)


def kind_by_name(name: str) -> Literal["image", "video", "archive"] | None:
    """Tells what a file's name says that it is.

    Example:
        >>> kind_by_name("photo.HEIC"), kind_by_name("clips.tar.gz"), kind_by_name("notes.txt")
        ('image', 'archive', None)
    """
    lower = name.lower()
    if lower.endswith(_IMAGE_NAMES):
        return "image"
    if lower.endswith(_VIDEO_NAMES):
        return "video"
    return "archive" if lower.endswith(_ARCHIVE_NAMES) else None


def not_media(field: str, path: Path, why: str = "", kind: Literal["image", "video"] | None = None) -> FaceflaxError:
    """Returns the error about a file that is not what can be analysed, or not whole.

    Args:
        field: what the caller names it by.
        path: its name.
        why: what is wrong.
        kind: what its content is; what its name says if not given.
    """
    meant = "an image" if (kind or kind_by_name(path.name)) == "image" else "a video"
    return FaceflaxError(field, path, f"cannot be read as {meant}{why}", f"is it complete, and {meant}?")


def read_head(field: str, path: Path) -> bytes:
    """Returns the first :data:`HEAD` bytes of a file.

    Args:
        field: what the caller names the file by, for the error.
        path: a file; its name need not be UTF-8.

    Raises:
        FaceflaxError: it is not there, not a file, empty, or cannot be read.
    """
    check_file(field, path)
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise FaceflaxError(field, path, f"cannot read {{}} ({said(error)})") from None
    if not head:
        raise FaceflaxError(field, path, "is empty")
    return head
