"""From an uploaded picture to faces, and to what is said about them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceflax.errors import FaceflaxError
from faceflax.faces.face import FACE_COLUMNS
from faceflax.media.images import read_image
from faceflax.media.kinds import HEAD, kind_of
from faceflax.media.table import COLUMNS, SCHEMA

if TYPE_CHECKING:  # only annotations need it
    from collections.abc import Callable, Sequence

    from faceflax.app.limits import Limits
    from faceflax.faces.face import Face
    from faceflax.faces.frame import Image

    Analyzer = Callable[[Image], Sequence[Face]]


@dataclass(frozen=True)
class Analysis:
    """A picture and its faces.

    Attributes:
        image: BGR, perhaps reduced.
        faces: in the pixels of ``image``.
        scale: how many of the picture's pixels one of ``image`` is, in x and y.
        seconds: how long reading and analysing took.
    """

    image: Image
    faces: list[Face]
    scale: tuple[float, float]
    seconds: float


def analyze_picture(content: bytes | Path, name: str, analyzer: Analyzer, limits: Limits) -> Analysis:
    """Reads an encoded picture and finds its faces.

    Args:
        content: its bytes, or the file.
        name: what it is called, for the error.
        analyzer: such as ``faceflax.FaceAnalyzer()``.
        limits: what is too much.

    Raises:
        FaceflaxError: of field ``picture``: it is empty, too large or not a picture.
    """
    size = content.stat().st_size if isinstance(content, Path) else len(content)
    if not size:
        raise FaceflaxError("picture", name, "is empty", "send a picture")
    if size > limits.bytes:
        raise too_large(name, limits)
    if kind_of(head_of(content)) != "image":
        raise FaceflaxError("picture", name, "is not a picture", "send a JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF or BMP")
    began = time.perf_counter()
    reduced = read_image(content, field="picture", name=Path(name), longest=limits.max_side)
    faces = list(analyzer(reduced.image))
    return Analysis(reduced.image, faces, reduced.scale, time.perf_counter() - began)


def head_of(content: bytes | Path) -> bytes:
    """The first bytes, which tell what it is; a suffix does not."""
    if isinstance(content, bytes):
        return content[:HEAD]
    with content.open("rb") as file:
        return file.read(HEAD)


def too_large(name: str, limits: Limits) -> FaceflaxError:
    """The error of an upload with too many bytes."""
    return FaceflaxError("picture", name, f"has more than {limits.megabytes:g} MB", "reduce it")


def as_json(analysis: Analysis) -> dict[str, Any]:
    """Returns what ``POST /v1/analyze`` answers: the columns that tables have, in pixels of the picture as it was."""
    across, down = analysis.scale
    height, width = analysis.image.shape[:2]
    rows = [face.to_dict(analysis.scale) for face in analysis.faces]
    return {
        "schema": SCHEMA,
        "width": round(width * across),
        "height": round(height * down),
        "seconds": round(analysis.seconds, 4),
        "faces": [
            {"face": number} | {name: COLUMNS.value(name, row[name]) for name in FACE_COLUMNS}
            for number, row in enumerate(rows)
        ],
    }
