"""Where results go: annotated pictures and videos, and a line per face as CSV or JSON.

Messages name the option that the caller says, such as ``--output``.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8

from faceflax.errors import FaceflaxError
from faceflax.faces.face import Face
from faceflax.files import recording, replacing, writable_file, writable_folder
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.media.sources import IMAGE_SUFFIXES, Frame, Source
from faceflax.opencv import cv2

Image = UInt8[np.ndarray, "height width 3"]

CSV_COLUMNS: tuple[str, ...] = (
    *("name", "frame", "time", "face", "track", "x", "y", "width", "height"),
    *("emotion", *(f"emotion_{name}" for name in EMOTIONS)),
    *("gender", *(f"gender_{name}" for name in GENDERS)),
)
"""One row a face: the file, the frame's number and seconds, the face's number in it and its track's, its box in pixels,
labels and probabilities. The track is empty where faces are not tracked."""

_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
_INDEX_ROOM = 2**20  # bytes kept free on the disk, so that a video can still be finished: its index comes last
_LONGEST_STILL = 10.0  # seconds; a longer gap between frames, such as a pause, is cut out of the video


def check_output(source: str, kind: str, output: Path) -> None:
    """Proves before the work starts that ``--output`` fits the source and can be written.

    A camera, a video or ``demo`` gives a video (.mp4 or .avi), an image gives an image, and a folder gives a folder
    with annotated images under the same names.

    Args:
        source: as ``--source`` was given.
        kind: the opened source's.
        output: as ``--output`` was given.

    Raises:
        FaceflaxError: another suffix, the source itself, or a place that cannot be written.
    """
    if output.resolve() == Path(source).resolve():
        raise FaceflaxError(f"--output: {str(output)!r} is the --source itself; name another place")
    if kind == "folder":
        if output.exists() and not output.is_dir():
            raise FaceflaxError(f"--output: {str(output)!r} is a file; for a folder of images name a folder")
        writable_folder("--output", output)
        return
    suffixes = IMAGE_SUFFIXES if kind == "image" else tuple(_CODECS)
    if output.suffix.lower() not in suffixes:
        meaning = "an image" if kind == "image" else "a video"
        raise FaceflaxError(
            f"--output: {str(output)!r} is not {meaning}; name a file that ends in {' or '.join(suffixes)}"
        )
    writable_file("--output", output)


def check_table(argument: str, file: Path, suffix: str) -> None:
    """Proves before the work starts that ``file`` ends in ``suffix`` and can be written.

    Raises:
        FaceflaxError: another suffix, or a place that cannot be written.
    """
    if file.suffix.lower() != suffix:
        raise FaceflaxError(f"{argument}: {str(file)!r} does not end in {suffix}; name a file that does")
    writable_file(argument, file)


def write_image(file: Path, picture: Image, argument: str = "--output") -> None:
    """Writes an image file in one step.

    Args:
        file: its suffix says the format.
        picture: uint8 BGR.
        argument: the option that named the place, for messages.

    Raises:
        FaceflaxError: it cannot be written.
    """
    try:
        encoded, content = cv2.imencode(file.suffix, picture)
        if not encoded:
            raise OSError("OpenCV cannot encode it")
        with replacing(file) as temporary:
            temporary.write_bytes(content.tobytes())
    except (OSError, cv2.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FaceflaxError(f"{argument}: cannot write {str(file)!r} ({reason})") from None


class VideoFile:
    """A video that keeps the frames' own times: each is repeated until the next one is due.

    Args:
        path: ends in .mp4 (MPEG-4) or .avi (Motion JPEG).
        fps: frames a second.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._written = 0
        self._cut = 0.0

    def write(self, frame: Frame, picture: Image) -> None:
        """Appends ``picture`` as what is seen from ``frame.time`` on.

        The first picture decides the size, a smaller or larger one is fitted into it with black bars. Gaps of more than
        ten seconds are cut out.

        Raises:
            FaceflaxError: OpenCV has no encoder for the file's suffix, or the disk is full.
        """
        if self._writer is None:
            self._size = (max(2, picture.shape[1] // 2 * 2), max(2, picture.shape[0] // 2 * 2))  # encoders want even
            codec = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self._path), codec, self._fps, self._size)
            if not self._writer.isOpened():
                raise FaceflaxError(
                    f"--output: this OpenCV cannot encode {self._path.suffix} videos; name a file that ends in "
                    f"{' or '.join(suffix for suffix in _CODECS if suffix != self._path.suffix.lower())}"
                )
        gap = frame.time - self._cut - self._written / self._fps
        if gap > _LONGEST_STILL:
            self._cut += gap
        fitted = _fit(picture, self._size)
        while self._written <= round((frame.time - self._cut) * self._fps):
            free = shutil.disk_usage(self._path.parent).free  # OpenCV does not say when it could not write a frame
            if free < _INDEX_ROOM + 64 * self._written + fitted.nbytes // 4:
                raise FaceflaxError(
                    f"--output: the disk of {str(self._path.parent)!r} is full; make room or name a file on another one"
                )
            self._writer.write(fitted)
            self._written += 1

    def close(self) -> None:
        """Finishes the file, which plays from then on.

        Raises:
            FaceflaxError: it does not, because not all of it could be written.
        """
        if self._writer is None or not self._writer.isOpened():
            return
        self._writer.release()
        capture = cv2.VideoCapture(str(self._path))
        if self._written and not capture.isOpened():
            raise FaceflaxError(
                "--output: the video could not be finished and does not play; is the disk full, or is there a limit?"
            )
        capture.release()


def _fit(picture: Image, size: tuple[int, int]) -> Image:
    """The picture as large as fits into ``size`` (width, height), in the middle of black."""
    height, width = picture.shape[:2]
    if (width // 2 * 2, height // 2 * 2) == size:
        return picture[: size[1], : size[0]]
    scale = min(size[0] / width, size[1] / height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    resized = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas[top : top + inner[1], left : left + inner[0]] = resized
    return canvas


@contextmanager
def pictures(source: Source, output: Path) -> Iterator[Callable[[Frame, Image], None]]:
    """Yields what writes a frame's picture to ``output``, which fits the source as :func:`check_output` says."""
    if source.kind == "image":
        yield lambda frame, picture: write_image(output, picture)
    elif source.kind == "folder":
        yield lambda frame, picture: write_image(output / frame.name, picture)
    else:
        with recording(output) as temporary, closing(VideoFile(temporary, source.fps or 30.0)) as video:
            yield video.write


class Lines:
    """A text file that grows by whole lines, each write at once or not at all, whatever ends the process.

    Args:
        argument: the option that named the file, for messages.
        file: open for writing, without a buffer.
    """

    def __init__(self, argument: str, file: BinaryIO) -> None:
        self._argument = argument
        self._file = file

    @property
    def size(self) -> int:
        """How many bytes the file has."""
        return self._file.tell()

    def write(self, text: str) -> None:
        """Appends ``text``, some whole lines.

        Raises:
            FaceflaxError: not all of it could be written; none of it has been, then.
        """
        data, start = memoryview(text.encode()), self._file.tell()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            with suppress(OSError):  # a device cannot be cut
                self._file.truncate(start)
                self._file.seek(start)
            raise FaceflaxError(
                f"{self._argument}: cannot write more ({error.strerror}); make room or name a file on another disk"
            ) from None


@contextmanager
def rows(argument: str, path: Path) -> Iterator[Callable[[Frame, Sequence[Face]], None]]:
    """Yields what writes the faces of a frame to ``path``, in the format that its suffix says: .csv or .jsonl.

    Args:
        argument: the option that named the file, for messages.
        path: CSV with :data:`CSV_COLUMNS`, or JSON with the same names, a face a line: see :func:`json_lines`.
    """
    with recording(path) as temporary, temporary.open("wb", buffering=0) as file:
        lines = Lines(argument, file)
        encode = csv_lines if path.suffix.lower() == ".csv" else json_lines
        header = ",".join(CSV_COLUMNS) + "\n" if encode is csv_lines else ""

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
        place = [frame.name, frame.index, f"{frame.time:.3f}", number, face.track_id, *face.box]
        writer.writerow([*place, face.emotion, *emotions, face.gender, *genders])
    return text.getvalue()


def json_lines(frame: Frame, faces: Sequence[Face]) -> str:
    """Returns a JSON object on a line of its own for each face.

    Example:
        >>> face = Face((1, 2, 3, 4), "sad", np.eye(7, dtype=np.float32)[4], "man", np.float32([0, 1]), track_id=5)
        >>> print(json_lines(Frame(np.zeros((9, 9, 3), np.uint8), "clip.mp4", 30, 1.0), [face]), end="")
        {"name": "clip.mp4", "frame": 30, "time": 1.0, "face": 0, "track": 5, "box": [1, 2, 3, 4], "emotion": "sad", \
"emotion_probabilities": {"angry": 0.0, "disgust": 0.0, "fear": 0.0, "happy": 0.0, "sad": 1.0, "surprise": 0.0, \
"neutral": 0.0}, "gender": "man", "gender_probabilities": {"woman": 0.0, "man": 1.0}}
    """
    objects = []
    for number, face in enumerate(faces):
        emotions, genders = ([round(float(p), 4) for p in each] for each in _probabilities(face))
        place = {"name": frame.name, "frame": frame.index, "time": round(frame.time, 3), "face": number}
        objects.append(
            place
            | {"track": face.track_id, "box": face.box}
            | {"emotion": face.emotion, "emotion_probabilities": dict(zip(EMOTIONS, emotions, strict=True))}
            | {"gender": face.gender, "gender_probabilities": dict(zip(GENDERS, genders, strict=True))}
        )
    return "".join(json.dumps(each) + "\n" for each in objects)


def _probabilities(face: Face) -> tuple[np.ndarray, np.ndarray]:
    return face.emotion_probabilities, face.gender_probabilities
