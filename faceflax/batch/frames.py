"""What was found as a DataFrame, or as rows one by one: for Python, without files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from faceflax.batch.analysis import TOGETHER, Analyzers, Reading, results_of, tasks_of
from faceflax.batch.inputs import Input, Record, find_inputs
from faceflax.errors import FaceflaxError, needing_extras
from faceflax.faces.analyzer import FaceAnalyzer
from faceflax.faces.choosing import make_detector
from faceflax.faces.detection import Detector
from faceflax.faces.face import Face
from faceflax.faces.frame import Frame, Image
from faceflax.faces.video import VideoAnalyzer
from faceflax.media.sources import Source
from faceflax.media.table import COLUMNS, Row, rows_of

if TYPE_CHECKING:  # only annotations need it
    import pandas

_FPS = 25.0
_log = logging.getLogger("faceflax")

Paths = str | PathLike[str] | Iterable[str | PathLike[str]]


def iter_rows(
    inputs: Paths | Iterable[np.ndarray],
    *,
    video: bool = False,
    preset: Literal["fast", "accurate"] = "accurate",
    detector: str | Path | Detector | None = None,
    every: int = 1,
    fps: float | None = None,
    longest: int | None = None,
    every_frame: bool = False,
    records: list[Record] | None = None,
) -> Iterator[Row]:
    """Yields a row for each face, as dictionaries by the columns of ``docs/tables.md``, while the rest is analysed.

    Args:
        inputs: a path or several, of images, videos, folders and archives; or images in memory, uint8
            ``[height, width, 3]`` BGR, which may come from a generator.
        video: the images in memory are consecutive frames of a video, a 25th of a second apart.
        preset: which networks, as in :class:`~faceflax.FaceAnalyzer`.
        detector: what finds the faces, as in :class:`~faceflax.FaceAnalyzer`.
        every: one in so many frames of a video is analysed.
        fps: at most so many frames of a second of a video are.
        longest: images of files are reduced to so many pixels on their longer side, which is faster and loses small
            faces; boxes are in pixels of the file all the same.
        every_frame: images and frames without a face have a row too.
        records: what became of each input is appended to it.

    Raises:
        FaceflaxError: a path is not there, or a number is out of its range. An input that cannot be read is a warning
            in the log.

    Example:
        >>> from faceflax.media.demo import photograph
        >>> [(row["input"], row["face"]) for row in iter_rows([photograph()], preset="fast")]
        [('0', 0)]
    """
    reading = Reading(every, fps, longest, every_frame)
    told = [] if records is None else records
    moving = None if detector is None else make_detector(detector, video=True)
    analyzer = FaceAnalyzer(detector=detector, preset=preset)
    analyzers = Analyzers(analyzer.analyze_batch, partial(VideoAnalyzer, analyzer, detector=moving))
    paths, arrays = _divide(inputs)
    if paths is None and not video:
        images = (Frame(image, str(number)) for number, image in enumerate(arrays))
        yield from rows_of_images(images, analyzer.analyze_batch, reading, told)
        return
    tasks = [[Input("0", "video", Path("0"))]]
    sources = {}
    if paths is not None:
        found, others = find_inputs(paths)
        for record in others:
            _tell(record, told)
        tasks = tasks_of(found)
    else:
        wanted = reading.wanted()
        frames = (Frame(image, "0", n, n / _FPS) for n, image in enumerate(arrays))
        source = Source("video", (f for f in frames if wanted is None or wanted(f.index, f.time)), _FPS)
        sources["0"] = lambda: source
    with closing(results_of(tasks, analyzers, reading, sources=sources)) as results:
        for rows, ended in results:
            for record in ended:
                _tell(record, told)
            yield from rows


def analyze(
    inputs: Paths | Iterable[np.ndarray],
    *,
    video: bool = False,
    preset: Literal["fast", "accurate"] = "accurate",
    detector: str | Path | Detector | None = None,
    every: int = 1,
    fps: float | None = None,
    longest: int | None = None,
    every_frame: bool = False,
) -> pandas.DataFrame:
    """Returns a row for each face of images, videos, folders and archives, or of images in memory.

    It is :func:`iter_rows` as a DataFrame. Whole numbers are of type ``Int64``,
    as the track of a face in an image is missing. ``table.attrs["inputs"]`` lists what became of each input.

    Args:
        inputs: a path or several; or images in memory, uint8 ``[height, width, 3]`` BGR.
        video: the images in memory are consecutive frames of a video.
        preset: which networks.
        detector: what finds the faces.
        every: one in so many frames of a video is analysed.
        fps: at most so many frames of a second of a video are.
        longest: images of files are reduced to so many pixels on their longer side.
        every_frame: images and frames without a face have a row too.

    Raises:
        FaceflaxError: a path is not there, or a number is out of its range.
        MissingExtraError: pandas is not installed; it comes with the extra ``tables``.

    Example:
        >>> from faceflax.media.demo import photograph
        >>> table = analyze([photograph()], preset="fast")
        >>> len(table), table.input[0], table.face[0]
        (1, '0', np.int64(0))
    """
    with needing_extras():
        import pandas as pd

    records: list[Record] = []
    rows = iter_rows(
        inputs,
        video=video,
        preset=preset,
        detector=detector,
        every=every,
        fps=fps,
        longest=longest,
        every_frame=every_frame,
        records=records,
    )
    types: dict[type, Any] = {bool: "boolean", int: "Int64", float: "float64", str: object}
    values = [[row[name] for name in COLUMNS.kinds] for row in rows]
    columns = list(zip(*values, strict=True)) or [()] * len(COLUMNS.kinds)
    frame = pd.DataFrame(
        {
            name: pd.Series(list(column), dtype=types[kind])
            for (name, kind), column in zip(COLUMNS.kinds.items(), columns, strict=True)
        }
    )
    frame.attrs["inputs"] = [record.row() for record in records]
    return frame


def _divide(inputs: Any) -> tuple[list[str | Path] | None, Iterator[np.ndarray]]:
    """Paths, or images in memory."""
    if isinstance(inputs, str | PathLike):
        return [_path(inputs)], iter(())
    if isinstance(inputs, np.ndarray) and inputs.ndim == 3:
        return None, iter([inputs])
    iterator = iter(inputs)
    first = next(iterator, None)
    if first is None:
        raise FaceflaxError("inputs", None, "there are none", "give paths or images")
    if isinstance(first, str | PathLike):
        return [_path(each) for each in (first, *iterator)], iter(())

    def images() -> Iterator[np.ndarray]:
        yield first
        yield from iterator

    return None, images()


def _path(path: str | PathLike[str]) -> str | Path:
    return path if isinstance(path, str) else Path(fspath(path))


def rows_of_images(
    images: Iterator[Frame],
    find: Callable[[Sequence[Image]], Sequence[Sequence[Face]]],
    reading: Reading,
    records: list[Record],
) -> Iterator[Row]:
    """Yields the rows of images in memory.

    Args:
        images: with their names.
        find: finds and labels the faces of several images.
        reading: whether images without a face have rows.
        records: what became of each image is appended to it.
    """
    while some := list(islice(images, TOGETHER)):
        for frame, faces in zip(some, find(some), strict=True):
            _tell(Record(frame.name, "image", "done" if faces else "no face", frames=1, faces=len(faces)), records)
            yield from rows_of(frame, faces, "image", every_frame=reading.every_frame)


def _tell(record: Record, records: list[Record]) -> None:
    records.append(record)
    if record.status in ("failed", "damaged"):
        _log.warning("faceflax: %s: %s", record.input, record.reason)
