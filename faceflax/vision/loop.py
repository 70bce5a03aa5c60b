"""The live loop: frames in, faces found, pictures and rows out.

Messages name the live command's options ``--source``, ``--output`` and ``--headless``.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from faceflax.commands import writable_file, writable_folder
from faceflax.errors import FaceflaxError
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.vision.drawing import draw_faces
from faceflax.vision.face import Face
from faceflax.vision.opencv import cv2
from faceflax.vision.sources import IMAGE_SUFFIXES, Frame, Source

Image = UInt8[np.ndarray, "height width 3"]

CSV_COLUMNS: tuple[str, ...] = (
    *("name", "frame", "time", "face", "x", "y", "width", "height"),
    *("emotion", *(f"emotion_{name}" for name in EMOTIONS)),
    *("gender", *(f"gender_{name}" for name in GENDERS)),
)
"""One row a face: the file, the frame's number and seconds, the face's number in it, its box, labels, probabilities."""

_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
_TITLE = "faceflax"


@dataclass
class Summary:
    """What a run saw.

    Attributes:
        frames: how many frames were analysed.
        frames_with_face: in how many of them a face was found.
        seconds: from the first frame's arrival to the end.
    """

    frames: int = 0
    frames_with_face: int = 0
    seconds: float = 0.0


def run(
    source: Source,
    analyzer: Callable[[Image], Sequence[Face]],
    *,
    overlay: Callable[[Image, Sequence[Face]], Image] = draw_faces,
    output: Path | None = None,
    csv_file: Path | None = None,
    window: bool = False,
    max_frames: int | None = None,
) -> Summary:
    """Analyses the frames of ``source`` until they end, the window is closed, or Ctrl-C.

    Results are written under a temporary name beside their place and take it at the end, or at Ctrl-C with what there
    is; a run that fails leaves what was there before. A video keeps the source's clock: a frame is shown until the
    next one's time, so that a slow camera does not make a fast film.

    Args:
        source: from :func:`faceflax.vision.sources.open_source`; closed at the end.
        analyzer: finds the faces of a frame, such as ``faceflax.FaceAnalyzer()``.
        overlay: draws what was found: ``(frame, faces) -> frame`` of the same size.
        output: as :func:`check_output` takes it; None writes no pictures.
        csv_file: where rows of ``CSV_COLUMNS`` go; None writes none.
        window: show the frames; q or the close button ends the run. Call :func:`check_window` first.
        max_frames: stop after so many.

    Raises:
        FaceflaxError: the source holds no frame, or the output cannot be encoded.
        KeyboardInterrupt: Ctrl-C, once everything written is closed.
    """
    total = source.count if max_frames is None else min(max_frames, source.count or max_frames)
    summary = Summary()
    with ExitStack() as stack:
        frames = stack.enter_context(closing(source.frames))
        write_picture = stack.enter_context(_pictures(source, output))
        write_rows = stack.enter_context(_rows(csv_file))
        if window:
            stack.callback(cv2.destroyAllWindows)
        progress = stack.enter_context(tqdm(total=total, unit="frame", disable=source.kind == "image"))
        start = time.perf_counter()
        for frame in frames:
            faces = analyzer(frame.image)
            summary.frames += 1
            summary.frames_with_face += bool(faces)
            summary.seconds = time.perf_counter() - start
            write_rows(frame, faces)
            if output or window:
                picture = overlay(frame.image, faces)
                write_picture(frame, picture)
                still = source.kind in ("image", "folder")
                if window and not _show(picture, summary, None if still else start + frame.time):
                    break
            progress.update()
            if summary.frames == max_frames:
                break
        summary.seconds = time.perf_counter() - start
    return summary


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


def check_window() -> None:
    """Proves that a window can be opened here, in another process, because Qt ends the one in which it fails.

    Raises:
        FaceflaxError: no display, or an OpenCV without windows.
    """
    probe = [sys.executable, "-c", f"import cv2; cv2.namedWindow({_TITLE!r})"]
    if subprocess.run(probe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        raise FaceflaxError(
            "--headless: a window cannot be opened (no display, or a headless OpenCV); "
            "add --headless, with --output or --csv for the results"
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside ``path`` which becomes ``path`` at the end of the block, or at Ctrl-C.

    If the block fails otherwise, what was at ``path`` stays and the temporary file goes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "rows.csv") as temporary:
        ...         size = temporary.write_text("a,b")
        ...     print([file.name for file in Path(folder).iterdir()])
        ['rows.csv']
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and temporary.exists():
            temporary.replace(path)
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


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
        self._written = 0

    def write(self, frame: Frame, picture: Image) -> None:
        """Appends ``picture`` as what is seen from ``frame.time`` on; the first one decides the size.

        Raises:
            FaceflaxError: OpenCV has no encoder for the file's suffix.
        """
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self._path), codec, self._fps, picture.shape[1::-1])
            if not self._writer.isOpened():
                raise FaceflaxError(
                    f"--output: this OpenCV cannot encode {self._path.suffix} videos; name a file that ends in "
                    f"{' or '.join(suffix for suffix in _CODECS if suffix != self._path.suffix.lower())}"
                )
        while self._written <= round(frame.time * self._fps):
            self._writer.write(picture)
            self._written += 1

    def close(self) -> None:
        """Finishes the file, which plays from then on."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def _pictures(source: Source, output: Path | None) -> Iterator[Callable[[Frame, Image], None]]:
    if output is None:
        yield lambda frame, picture: None
    elif source.kind == "image":
        yield lambda frame, picture: write_image(output, picture)
    elif source.kind == "folder":
        yield lambda frame, picture: write_image(output / frame.name, picture)
    else:
        with replacing(output) as temporary, closing(VideoFile(temporary, source.fps or 30.0)) as video:
            yield video.write


def write_image(file: Path, picture: Image) -> None:
    """Writes an image file in one step.

    Raises:
        FaceflaxError: it cannot be written.
    """
    with replacing(file) as temporary:
        if not cv2.imwrite(str(temporary), picture):
            raise FaceflaxError(f"--output: cannot write {str(file)!r}; is the disk full?")


@contextmanager
def _rows(csv_file: Path | None) -> Iterator[Callable[[Frame, Sequence[Face]], None]]:
    if csv_file is None:
        yield lambda frame, faces: None
        return
    with replacing(csv_file) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)

        def write(frame: Frame, faces: Sequence[Face]) -> None:
            writer.writerows([_row(frame, number, face) for number, face in enumerate(faces)])
            file.flush()

        yield write


def _row(frame: Frame, number: int, face: Face) -> list[object]:
    emotions, genders = (
        [f"{p:.4f}" for p in probabilities] for probabilities in (face.emotion_probabilities, face.gender_probabilities)
    )
    place = [frame.name, frame.index, f"{frame.time:.3f}", number, *face.box]
    return [*place, face.emotion, *emotions, face.gender, *genders]


def _show(picture: Image, summary: Summary, due: float | None) -> bool:
    """Shows a frame until the clock reads ``due`` (None: until a key); False once the user wants to stop."""
    shown = picture.copy()
    text = f"{summary.frames / summary.seconds:.0f} fps   q: quit"
    scale = max(0.4, min(shown.shape[:2]) / 800)
    for color, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        origin = (8, shown.shape[0] - 8)
        cv2.putText(shown, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, color, thickness, cv2.LINE_AA)
    cv2.imshow(_TITLE, shown)
    while True:
        left = 0.05 if due is None else due - time.perf_counter()
        key = cv2.waitKey(max(1, min(50, round(1000 * left))))
        if key == ord("q") or not _visible():
            return False
        if key != -1 if due is None else time.perf_counter() >= due:
            return True


def _visible() -> bool:
    try:
        return cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:  # Qt's way to say that the last window was closed
        return False
