"""Where results go: annotated images and videos, and a line per face as CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from faceflax import files
from faceflax.errors import FaceflaxError
from faceflax.faces.face import Face
from faceflax.faces.frame import Frame, Image
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.media.images import encode
from faceflax.media.kinds import IMAGE_SUFFIXES
from faceflax.media.sources import Source
from faceflax.media.writing import FORMATS, VideoFile

CSV_COLUMNS: tuple[str, ...] = (
    *("name", "frame", "time", "face", "track", "x", "y", "width", "height", "score"),
    *("emotion", *(f"emotion_{name}" for name in EMOTIONS)),
    *("gender", *(f"gender_{name}" for name in GENDERS)),
)
"""Columns of the table, which has a row for each face: name of the file, index and time (seconds) of the frame, index
of the face in the frame, its track, its box in pixels, the detector's score, labels and probabilities. The track is
empty where faces are not tracked."""


def check_output(source: str, kind: str, output: Path) -> None:
    """Checks before the work starts that ``output`` fits the source and can be written.

    A camera, a video or ``demo`` gives a video (.mp4, .webm or .avi), an image gives an image, and a folder gives a
    folder with annotated images under the same names (:func:`copy_name`).

    Args:
        source: as :func:`faceflax.media.sources.open_source` takes it.
        kind: of the opened source.
        output: where the annotated copy goes.

    Raises:
        FaceflaxError: another suffix, the source itself, or a place that cannot be written.
    """
    if output.resolve() == Path(source).resolve():
        raise FaceflaxError("output", output, "is the source itself", "name another place")
    if kind == "folder":
        if output.exists() and not output.is_dir():
            raise FaceflaxError("output", output, "is a file", "for a folder of images name a folder")
        files.writable_folder("output", output)
        return
    suffixes = IMAGE_SUFFIXES if kind == "image" else tuple(FORMATS)
    if output.suffix.lower() not in suffixes:
        meaning = "an image" if kind == "image" else "a video"
        remedy = f"name a file that ends in {' or '.join(suffixes)}"
        raise FaceflaxError("output", output, f"is not {meaning}", remedy)
    files.writable_file("output", output)


def check_table(field: str, file: Path, suffix: str) -> None:
    """Checks before the work starts that ``file`` ends in ``suffix`` and can be written.

    Args:
        field: what the caller names the file by, for the error.
        file: the table, or another file of results.
        suffix: such as ``.csv``.

    Raises:
        FaceflaxError: another suffix, or a place that cannot be written.
    """
    if file.suffix.lower() != suffix:
        raise FaceflaxError(field, file, f"does not end in {suffix}", "name a file that does")
    files.writable_file(field, file)


def write_image(output: Path, image: Image) -> None:
    """Writes an image file in one step.

    Args:
        output: the file; its suffix gives the format.
        image: uint8 ``[height, width, 3]`` BGR.

    Raises:
        FaceflaxError: it cannot be written.
    """
    try:
        files.write(output, encode(image, output.suffix))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FaceflaxError("output", output, f"cannot write {{}} ({reason})") from None


@contextmanager
def annotated(source: Source, output: Path) -> Iterator[Callable[[Frame, Image], None]]:
    """Yields what writes the annotated copy of a frame, as ``write(frame, image)``.

    Args:
        source: what the frames come from.
        output: fits the source, as :func:`check_output` says.
    """
    if source.kind == "image":
        yield lambda frame, image: write_image(output, image)
    elif source.kind == "folder":
        yield lambda frame, image: write_image(output / copy_name(frame.name), image)
    else:
        live = source.kind == "camera"
        with files.recording(output) as temporary:
            video = VideoFile(temporary, source.fps or 30.0, sound=source.file, live=live)
            with closing(video):
                yield video.write


def copy_name(name: str) -> str:
    """Returns the name of an image's annotated copy: its own, or with .png behind it where that cannot be written.

    Example:
        >>> copy_name("a.jpg"), copy_name("b.heic")
        ('a.jpg', 'b.heic.png')
    """
    return name if name.lower().endswith(IMAGE_SUFFIXES) else f"{name}.png"


class Lines:
    """A text file that grows by whole lines, each write at once or not at all, whatever ends the process.

    Args:
        field: what the caller names the file by, for errors.
        file: open for writing, without a buffer.
    """

    def __init__(self, field: str, file: BinaryIO) -> None:
        self._field = field
        self._file = file

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self._file.tell()

    def write(self, text: str) -> None:
        """Appends ``text``, which is some whole lines.

        Raises:
            FaceflaxError: not all of it could be written; the file is as it was before.
        """
        data, start = memoryview(text.encode()), self._file.tell()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            with suppress(OSError):  # a device cannot be cut
                self._file.truncate(start)
                self._file.seek(start)
            problem, remedy = (
                f"cannot write more than {{}} bytes ({error.strerror})",
                "make room or name a file on another disk",
            )
            raise FaceflaxError(self._field, start, problem, remedy) from None


@contextmanager
def rows(path: Path) -> Iterator[Callable[[Frame, Sequence[Face]], None]]:
    """Yields what writes the faces of a frame to ``path``, as ``write(frame, faces)``; the suffix gives the format.

    Args:
        path: .csv, with :data:`CSV_COLUMNS`; or .jsonl, with the same names, one face per line: see :func:`json_lines`.

    Raises:
        FaceflaxError: of field ``csv`` or ``jsonl``: not all of it could be written.
    """
    field = "csv" if path.suffix.lower() == ".csv" else "jsonl"
    with files.recording(path) as temporary, temporary.open("wb", buffering=0) as file:
        lines = Lines(field, file)
        encode = csv_lines if field == "csv" else json_lines
        header = ",".join(CSV_COLUMNS) + "\n" if field == "csv" else ""

        def write(frame: Frame, faces: Sequence[Face]) -> None:
            nonlocal header  # goes with the first frame: without frames nothing is kept
            lines.write(header + encode(frame, faces))
            header = ""

        yield write


def csv_lines(frame: Frame, faces: Sequence[Face]) -> str:
    """Returns a row of :data:`CSV_COLUMNS` for each face."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for number, face in enumerate(faces):
        emotions, genders = ([f"{p:.4f}" for p in each] for each in _probabilities(face))
        place = [frame.name, frame.index, f"{frame.time:.3f}", number, face.track_id, *face.box, f"{face.score:.4f}"]
        writer.writerow([*place, face.emotion, *emotions, face.gender, *genders])
    return text.getvalue()


def json_lines(frame: Frame, faces: Sequence[Face]) -> str:
    """Returns a JSON object on a line of its own for each face.

    Example:
        >>> face = Face((1, 2, 3, 4), "sad", np.eye(7, dtype=np.float32)[4], "man", np.float32([0, 1]), track_id=5)
        >>> print(json_lines(Frame(np.zeros((9, 9, 3), np.uint8), "clip.mp4", 30, 1.0), [face]), end="")
        {"name": "clip.mp4", "frame": 30, "time": 1.0, "face": 0, "track": 5, "box": [1, 2, 3, 4], "score": 1.0, \
"landmarks": null, "emotion": "sad", "emotion_probabilities": {"angry": 0.0, "disgust": 0.0, "fear": 0.0, \
"happy": 0.0, "sad": 1.0, "surprise": 0.0, "neutral": 0.0}, "gender": "man", "gender_probabilities": \
{"woman": 0.0, "man": 1.0}}
    """
    objects = []
    for number, face in enumerate(faces):
        emotions, genders = ([round(float(p), 4) for p in each] for each in _probabilities(face))
        place = {"name": frame.name, "frame": frame.index, "time": round(frame.time, 3), "face": number}
        objects.append(
            place
            | {"track": face.track_id, "box": face.box, "score": round(face.score, 4), "landmarks": _points(face)}
            | {"emotion": face.emotion, "emotion_probabilities": dict(zip(EMOTIONS, emotions, strict=True))}
            | {"gender": face.gender, "gender_probabilities": dict(zip(GENDERS, genders, strict=True))}
        )
    return "".join(json.dumps(each) + "\n" for each in objects)


def _points(face: Face) -> list[list[float]] | None:
    """The landmarks, to a tenth of a pixel."""
    return None if face.landmarks is None else [[round(float(value), 1) for value in each] for each in face.landmarks]


def _probabilities(face: Face) -> tuple[np.ndarray, np.ndarray]:
    return face.emotion_probabilities, face.gender_probabilities
