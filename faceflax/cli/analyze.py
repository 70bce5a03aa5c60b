"""Analyses images, folders, archives and videos into one table: ``python scripts/analyze.py PATH... --csv out.csv``."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from faceflax.cli.detection import DetectionOptions, PresetName, make_analyzer, networks
from faceflax.cli.metavars import Pairs, Weights
from faceflax.cli.reporting import ReportOptions, complain, counted, printable
from faceflax.errors import FaceflaxError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from faceflax.batch import Analyzers, Input, Reading, Record

_MOST_LINES = 20  # of inputs that are listed at the end, and in which the reasons are counted

Patterns = Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN ...", help_behavior_hint="")]


@dataclass(frozen=True)
class Options:
    """Find the faces of images and videos and write perceived emotion and perceived gender of each into a table.

    Beside the table, NAME.inputs.csv (or .jsonl, .parquet) says of each input what became of it. After a stop, whatever
    stopped it, the same command goes on where it was: a video that was not finished begins again, nothing is in the
    table twice. A complete table is never written to. Exit status: 0; 1 if inputs could not be read, or not whole,
    which are listed at the end; 2 after bad input; 130 after Ctrl-C.
    """

    paths: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATH ...", help_behavior_hint="")]
    """Images, videos, folders with both, zip and tar archives, addresses of videos (https://...)."""
    csv: Path | None = None
    """The table (.csv): a row per face and frame: time, track, box, landmarks, labels and all probabilities."""
    jsonl: Path | None = None
    """The table as JSON (.jsonl), a line per face and frame, in place of --csv."""
    parquet: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """The table as Parquet (.parquet), in place of --csv; needs the extra "tables". With --runner a folder of such
    files, on any file system that Beam knows."""
    report: Path | None = None
    """Also write a page (.html): the emotions of each video's faces over time, and those of all images."""
    faces: bool = False
    """Show samples of the videos' faces in the report, which otherwise has none."""
    every: int = 1
    """Analyze one in so many frames of a video."""
    fps: float | None = None
    """Analyze at most so many frames of a second of a video; all if not given."""
    every_frame: bool = False
    """Write a row for images and frames without a face too."""
    max_side: int = 1600
    """Images are read with at most so many pixels on their longer side, which is faster; 0 reads them whole."""
    workers: int = 1
    """How many processes; the rows are the same."""
    include: Patterns = ()
    """Of folders and archives take only files that match one of these, such as "*.jpg" "2024/*"."""
    exclude: Patterns = ()
    """Of folders and archives leave out files that match one of these."""
    preset: PresetName = "accurate"
    """Which networks: fast, or accurate: larger ones, that read each face mirrored too."""
    emotion_weights: Weights | None = None
    """Weights for perceived emotion in place of the preset's: a shipped name or a .safetensors file."""
    gender_weights: Weights | None = None
    """Weights for perceived gender in place of the preset's: a shipped name or a .safetensors file."""
    task_weights: Weights | None = None
    """Weights for a task of your own, with any labels: a .safetensors file that faceflax train has made."""
    runner: Annotated[str | None, tyro.conf.arg(metavar="RUNNER")] = None
    """Analyze on many machines with Apache Beam: DirectRunner (this one), FlinkRunner, SparkRunner, DataflowRunner;
    needs the extra "beam"."""
    runner_options: Pairs = ()
    """What the runner needs, each as NAME=VALUE, such as flink_master=host:8081 or direct_num_workers=4."""
    detection: Annotated[DetectionOptions, tyro.conf.arg(name="")] = field(default_factory=DetectionOptions)
    said: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


def main(options: Options) -> None:
    """Analyses what ``options`` name and says what became of each input."""
    from faceflax import batch
    from faceflax.errors import renaming
    from faceflax.media import outputs

    if not options.paths:
        raise FaceflaxError("paths", None, "{} given", "give images, videos, folders or archives")
    options.detection.check()
    began = time.monotonic()
    if options.max_side < 0:
        raise FaceflaxError("max_side", options.max_side, "is not a number of pixels", "give 1 or more, or 0 for all")
    reading = batch.Reading(options.every, options.fps, options.max_side or None, options.every_frame)
    if options.workers < 1:
        raise FaceflaxError("workers", options.workers, "is not a number of processes", "give 1 or more")
    if options.runner is not None:
        _run_pipeline(options, options.runner, reading)
        return
    if options.runner_options:
        raise FaceflaxError("runner_options", options.runner_options[0], "is for --runner", "add --runner NAME")
    table_file = _table(options)
    if options.report is not None:
        outputs.check_table("report", options.report, ".html")
    elif options.faces:
        raise FaceflaxError("faces", None, "is for --report", "add --report FILE.html or leave it out")
    inputs, others = batch.find_inputs(options.paths, options.include, options.exclude)
    _check_place(table_file, inputs)

    import faceflax

    make = _maker(options)
    ready = make() if options.workers == 1 else None
    if ready is None:  # what cannot be loaded is said here, not in a worker
        options.detection.for_images(options.preset)
    chosen = networks(options.preset, options.emotion_weights, options.gender_weights)
    weights = []
    named = [("emotion_weights", chosen.emotion), ("gender_weights", chosen.gender)]
    if options.task_weights is not None:
        named.append(("task_weights", options.task_weights))
    for option, name in named:
        with renaming(weights=option):
            weights.append(faceflax.weights_info(name).sha256)
    settings = {"weights": weights, "mirrored": chosen.mirrored, "detail": chosen.detail}
    settings |= vars(reading) | options.detection.record()
    with batch.open_table(table_file, settings) as table:
        before = len([item for item in inputs if item.name in table.records])
        try:
            parts = batch.parts_of(table_file)
            recent = batch.analyze(
                *(inputs, table, make if ready is None else lambda: ready, reading),
                workers=options.workers,
                parts=parts,
            )
        except KeyboardInterrupt:
            complain("the same command goes on from here")
            raise
        known = table.records | {record.input: record for record in recent}
        records = [known[item.name] for item in inputs if item.name in known] + others
        if options.report is not None:
            _report(options, options.report, table.rows, records, inputs)
        table.complete(records)
    seconds = time.monotonic() - began
    _say(options.said, records, before, seconds, [table_file, batch.inputs_of(table_file), options.report])


def _maker(options: Options) -> Callable[[], Analyzers]:
    weights = options.emotion_weights, options.gender_weights, options.task_weights
    return partial(make_analyzers, options.preset, *weights, options.detection)


def make_analyzers(
    preset: PresetName,
    emotion_weights: str | None,
    gender_weights: str | None,
    task_weights: str | None,
    detection: DetectionOptions,
) -> Analyzers:
    """Makes what finds and labels faces in images and videos, in any process.

    Raises:
        FaceflaxError: weights or a detector that cannot be loaded.
    """
    from faceflax.batch import Analyzers
    from faceflax.faces import VideoAnalyzer

    analyzer = make_analyzer(preset, emotion_weights, gender_weights, detection.for_images(preset), task_weights)
    every = detection.search_every
    return Analyzers(
        analyzer.analyze_batch,
        partial(VideoAnalyzer, analyzer, detector=detection.for_videos(), full_search_every=every),
    )


def _run_pipeline(options: Options, runner: str, reading: Reading) -> None:
    """Analyses in a pipeline: paths here are listed first, those on Beam's file systems by the workers."""
    from faceflax import batch
    from faceflax.batch import beam

    if options.parquet is None:
        raise FaceflaxError("parquet", None, "there is no folder for the tables", "--runner writes --parquet only")
    for name in ("csv", "jsonl", "report"):
        if getattr(options, name) is not None:
            raise FaceflaxError(name, getattr(options, name), "is not written by --runner", "use --parquet alone")
    if options.workers != 1:
        remedy = "use --runner-options, such as direct_num_workers=4"
        raise FaceflaxError("workers", options.workers, "is not for --runner", remedy)
    patterns = [path for path in options.paths if beam.is_remote(path)]
    here = [path for path in options.paths if not beam.is_remote(path)]
    if patterns and (options.include or options.exclude):
        field = "include" if options.include else "exclude"
        raise FaceflaxError(field, None, f"is not for files such as {patterns[0]}", "give a narrower pattern as PATH")
    inputs, others = batch.find_inputs(here, options.include, options.exclude) if here else ([], [])
    options.detection.for_images(options.preset)  # what cannot be loaded is said here, not in a worker
    given = (patterns, inputs, options.parquet, _maker(options), reading, others)
    began = time.monotonic()
    records = beam.run(*given, runner=runner, options=options.runner_options)
    written = [options.parquet, beam.inputs_folder(options.parquet)]
    _say(options.said, records, 0, time.monotonic() - began, written)


def _table(options: Options) -> Path:
    from faceflax.media import outputs

    parquet = None if options.parquet is None else Path(options.parquet)
    given = {"csv": options.csv, "jsonl": options.jsonl, "parquet": parquet}
    named = {name: file for name, file in given.items() if file is not None}
    if len(named) != 1:
        problem = "there is no file for the table" if not named else "there are several files for the table"
        raise FaceflaxError("csv", None, problem, "give one of --csv, --jsonl and --parquet")
    ((name, file),) = named.items()
    if name == "parquet":
        import pyarrow  # noqa: F401  # before the work, not after it
    outputs.check_table(name, file, f".{name}")
    return file


def _check_place(table: Path, inputs: list[Input]) -> None:
    """The table must not be among what is analysed."""
    place = table.resolve()
    if any(isinstance(item.path, Path) and item.path.resolve() == place for item in inputs):
        raise FaceflaxError(table.suffix[1:].lower(), table, "is one of the inputs", "name another file")


def _report(options: Options, page: Path, rows: Path, records: list[Record], inputs: list[Input]) -> None:
    from faceflax.batch import opened
    from faceflax.media import timeline

    videos = {item.name: partial(opened, item) for item in inputs if item.kind == "video"}
    try:
        timeline.write_page(page, rows, [record.row() for record in records], videos if options.faces else None)
    except FaceflaxError as error:  # a video that has gone meanwhile
        raise error.renamed("paths" if error.field == "video" else error.field) from None


def _say(
    said: ReportOptions, records: list[Record], before: int, seconds: float, written: Sequence[Path | str | None]
) -> None:
    from faceflax import batch

    done = [record for record in records if record.frames]
    images, videos = (sum(record.kind == kind for record in done) for kind in ("image", "video"))
    earlier = f", {before} of these inputs by an earlier run" if before else ""
    frames, faces = sum(record.frames for record in done), sum(record.faces for record in done)
    lines = [
        f"{counted(images, 'image')} and {counted(videos, 'video')}{earlier}; "
        f"{counted(frames, 'frame')}, {counted(faces, 'face')}; {seconds:.1f} s",
        "inputs:",
        *(f"  {line}" for line in batch.reasons(records)),
    ]
    counts = {"images": images, "videos": videos, "frames": frames, "faces": faces, "seconds": round(seconds, 3)}
    statuses = Counter(record.status for record in records)
    said.say("\n".join(lines), counts | {"inputs": dict(sorted(statuses.items()))}, written)
    bad = [record for record in records if record.status in ("failed", "damaged")]
    if bad:
        lines = [printable(f"  {record.input}: {record.reason}") for record in bad[:_MOST_LINES]]
        if len(bad) > _MOST_LINES:
            lines.append(f"  and {len(bad) - _MOST_LINES} more, which are in {printable(str(written[1]))}")
        complain(f"{len(bad)} could not be read, or not whole:", *lines)
        sys.exit(1)
