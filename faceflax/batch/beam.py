"""The analysis as an Apache Beam pipeline, for more machines than one: needs the extra ``beam``."""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np

from faceflax.batch.analysis import TOGETHER, Analyzers, Reading, results_of, tasks_of
from faceflax.batch.frames import rows_of_images
from faceflax.batch.inputs import Input, Record, find_file, find_inputs, reason_of
from faceflax.errors import FaceflaxError, needing_extras, said
from faceflax.faces.frame import Frame
from faceflax.files import writable_folder
from faceflax.media.addresses import SCHEMES, is_address, masked
from faceflax.media.kinds import kind_by_name
from faceflax.media.table import COLUMNS, INPUT_COLUMNS, Columns, Row

with needing_extras():
    import apache_beam as beam
    from apache_beam.io import fileio, filesystem
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.io.parquetio import WriteToParquet
    from apache_beam.runners.runner import PipelineState
    from apache_beam.utils.shared import Shared

    from faceflax import runners

Element: TypeAlias = str | Input | tuple[str, np.ndarray] | filesystem.FileMetadata | fileio.ReadableFile
"""What :class:`Analyze` takes: a path or an address; an input found before; an image in memory with its name, uint8
``[height, width, 3]`` BGR; or what ``fileio.MatchFiles`` and ``fileio.ReadMatches`` give."""


class Analyze(beam.PTransform):
    """Turns inputs into rows of the documented tables.

    The outcome has two collections of dictionaries, in no order: ``rows``, a row for each face, and ``inputs``, a row
    for each input that says what became of it. Paths may be of any file system that Beam knows, as
    ``gs://bucket/a.jpg``.
    Networks are loaded once a process. An input that cannot be read is recorded and does not stop the pipeline.

    Args:
        make: makes what finds the faces, in each worker: a module's function or a ``functools.partial`` of one.
        reading: how inputs are read; all frames, in full size, if not given.

    Example:
        >>> from faceflax.media.demo import photograph
        >>> with beam.Pipeline() as pipeline:
        ...     images = pipeline | beam.Create([("portrait", photograph())])
        ...     found = images | Analyze(partial(analyzers, "fast"))
        ...     _ = found.rows | beam.Map(lambda row: print(row["input"], row["face"]))
        portrait 0
    """

    def __init__(self, make: Callable[[], Analyzers], reading: Reading | None = None) -> None:
        super().__init__()
        self._make = make
        self._reading = Reading() if reading is None else reading

    def expand(self, elements: Any) -> Any:
        """Builds the steps: images go some together, all else alone."""
        images, others = elements | "By kind" >> beam.Partition(lambda each, _: int(not _is_image(each)), 2)
        some = images | "Some images" >> beam.BatchElements(min_batch_size=TOGETHER, max_batch_size=TOGETHER)
        alone = others | "Alone" >> beam.Map(lambda each: [each])
        return (
            (some, alone)
            | "Both" >> beam.Flatten()
            | "Spread" >> beam.Reshuffle()
            | "Analyse" >> beam.ParDo(_Analysis(self._make, self._reading)).with_outputs("inputs", main="rows")
        )


def analyzers(preset: Any = "accurate") -> Analyzers:
    """Makes what finds faces with the shipped networks, for :class:`Analyze`.

    Args:
        preset: as in :class:`~faceflax.FaceAnalyzer`.
    """
    from faceflax.faces import FaceAnalyzer, VideoAnalyzer

    analyzer = FaceAnalyzer(preset=preset)
    return Analyzers(analyzer.analyze_batch, partial(VideoAnalyzer, analyzer))


def run(
    paths: Sequence[str],
    inputs: Sequence[Input],
    folder: str,
    make: Callable[[], Analyzers],
    reading: Reading,
    others: Sequence[Record] = (),
    *,
    runner: str = "DirectRunner",
    options: Sequence[str] = (),
) -> list[Record]:
    """Analyses inputs in a pipeline and writes two folders of Parquet files; returns what became of each input.

    Args:
        paths: patterns of files that the workers find, on file systems of Beam's, as ``gs://bucket/photos/**``.
        inputs: from :func:`~faceflax.batch.find_inputs`: files that all workers reach under the same path.
        folder: for the rows of faces, on any file system; those of the inputs go to :func:`inputs_folder`.
        make: see :class:`Analyze`.
        reading: how inputs are read.
        others: records of what was left out before.
        runner: a name that Beam knows, such as ``FlinkRunner``.
        options: of the pipeline and the runner, as ``direct_num_workers=4``.

    Raises:
        FaceflaxError: a pattern that matches nothing, a runner that is unknown, a folder with files in it, or a
            pipeline that failed.
    """
    chosen, flags = runners.choose(runner, options)
    for pattern in paths:
        if not _matches(pattern):
            raise FaceflaxError("paths", pattern, "there is no {}", "give a pattern such as gs://bucket/photos/**")
    for place in (folder, inputs_folder(folder)):
        _check_folder(place)
    with runners.running(runner):
        pipeline = beam.Pipeline(runner=chosen, options=flags)
        found = pipeline | "Inputs" >> beam.Create(list(inputs), reshuffle=False)
        if paths:
            matched = pipeline | "Patterns" >> beam.Create(list(paths)) | "Match" >> fileio.MatchAll()
            found = (found, matched) | "All inputs" >> beam.Flatten()
        tables = found | "Faces" >> Analyze(make, reading)
        left_out = pipeline | "Left out" >> beam.Create([INPUT_COLUMNS.written(each.row()) for each in others])
        told = (tables.inputs, left_out) | "All records" >> beam.Flatten()
        tables.rows | "Write rows" >> _writer(folder, COLUMNS)
        told | "Write inputs" >> _writer(inputs_folder(folder), INPUT_COLUMNS)
        state = pipeline.run().wait_until_finish()
    if state != PipelineState.DONE:
        raise FaceflaxError("runner", runner, f"{{}} ended as {state}", "see what it has logged")
    return list(_records(inputs_folder(folder)))


def is_remote(path: str) -> bool:
    """Tells a path on one of Beam's other file systems from one here and from a video's address.

    Example:
        >>> is_remote("gs://bucket/a.jpg"), is_remote("https://host/a.mp4"), is_remote("a.jpg")
        (True, False, False)
    """
    return is_address(path) and path.partition(":")[0].lower() not in (*SCHEMES, "file")


def inputs_folder(folder: str) -> str:
    """Returns the folder of the table of the inputs beside the one of the faces.

    Example:
        >>> inputs_folder("gs://bucket/faces.parquet")
        'gs://bucket/faces.inputs.parquet'
    """
    stem, suffix = posixpath.splitext(folder.rstrip("/"))
    return f"{stem}.inputs{suffix}"


class _Loaded:
    """What a process has loaded, which its threads share."""

    def __init__(self, make: Callable[[], Analyzers]) -> None:
        self.analyzers = make()


class _Analysis(beam.DoFn):
    def __init__(self, make: Callable[[], Analyzers], reading: Reading) -> None:
        self._make = make
        self._reading = reading
        self._shared = Shared()

    def setup(self) -> None:
        self._loaded = self._shared.acquire(partial(_Loaded, self._make))

    def process(self, elements: Sequence[Element]) -> Iterator[Any]:
        analyzers = self._loaded.analyzers
        records: list[Record] = []
        images = (Frame(each[1], each[0]) for each in elements if isinstance(each, tuple))
        for row in rows_of_images(images, analyzers.images, self._reading, records):
            yield COLUMNS.written(row)
        tasks = _tasks([each for each in elements if not isinstance(each, tuple)], records)
        with closing(tasks), closing(results_of(tasks, analyzers, self._reading)) as results:
            for rows, ended in results:
                records += ended
                yield from map(COLUMNS.written, rows)
        for record in records:
            yield beam.pvalue.TaggedOutput("inputs", INPUT_COLUMNS.written(record.row()))


def _tasks(elements: Iterable[Any], records: list[Record]) -> Generator[Sequence[Input], None, None]:
    """What there is in files, which are copied here for as long as they are read; ``records`` gets what is left out."""
    ready = [each for each in elements if isinstance(each, Input)]
    yield from tasks_of(ready)
    for element in elements:
        if isinstance(element, Input):
            continue
        path = _path_of(element)
        with ExitStack() as stack:
            try:
                if isinstance(element, str) and not is_remote(element):
                    found, others = find_inputs([path])
                else:
                    here = stack.enter_context(_copied(path)) if is_remote(path) else Path(path)
                    found, others = find_file(here, path)
            except FaceflaxError as error:
                found, others = [], [Record(masked(path), None, "failed", reason_of(error))]
            records += others
            yield from tasks_of(found)


def _path_of(element: Any) -> str:
    if isinstance(element, fileio.ReadableFile):
        element = element.metadata
    return element if isinstance(element, str) else element.path


def _is_image(element: Element) -> bool:
    if isinstance(element, tuple):
        return True
    return (element.kind if isinstance(element, Input) else kind_by_name(_path_of(element))) == "image"


@contextmanager
def _copied(path: str) -> Iterator[Path]:
    """A file of any file system as one of this machine's, for the time of the block."""
    with TemporaryDirectory(prefix="faceflax-") as folder:
        place = Path(folder, posixpath.basename(path))
        try:
            kept = filesystem.CompressionTypes.UNCOMPRESSED  # else a .tar.gz would come unpacked
            with FileSystems.open(path, compression_type=kept) as source, place.open("wb") as copy:
                shutil.copyfileobj(source, copy, 2**20)
        except Exception as error:  # the file systems' clients raise anything
            raise FaceflaxError("paths", path, f"cannot read {{}} ({said(error)})") from None
        yield place


def _writer(folder: str, columns: Columns) -> Any:
    return WriteToParquet(f"{folder.rstrip('/')}/part", columns.arrow(), codec="zstd", file_name_suffix=".parquet")


def _matches(pattern: str, field: str = "paths") -> bool:
    try:
        return any(result.metadata_list for result in FileSystems.match([pattern], limits=[1]))
    except Exception as error:  # the file systems' clients raise anything
        raise FaceflaxError(field, pattern, f"cannot look for {{}} ({said(error)})") from None


def _check_folder(folder: str) -> None:
    """It must be empty: files of an earlier run would be read as part of the table."""
    if is_remote(folder):
        taken = _matches(f"{folder.rstrip('/')}/*", "parquet")
    else:
        path = Path(folder)
        taken = path.exists() and not (path.is_dir() and not any(path.iterdir()))
        if not taken:
            writable_folder("parquet", path)
    if taken:
        raise FaceflaxError("parquet", folder, "is there already", "name another folder or delete it")


def _records(folder: str) -> Iterator[Record]:
    """Reads what was written about the inputs."""
    import pyarrow.parquet

    (result,) = FileSystems.match([f"{folder.rstrip('/')}/part*"])
    for metadata in sorted(result.metadata_list, key=lambda each: each.path):
        with FileSystems.open(metadata.path) as file:
            rows: list[Row] = pyarrow.parquet.read_table(file).to_pylist()
        for row in rows:
            del row["schema"]
            yield Record(**row)
