"""Prepares a dataset from the publisher's files; see ``faceflax prepare-data --help``."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from faceflax.cli.metavars import Pairs
from faceflax.cli.reporting import ReportOptions, counted

if TYPE_CHECKING:
    from collections.abc import Iterable

SHOWN = 20
"""Damaged rows named, at most."""


@dataclass(frozen=True)
class Options:
    """Turn the files that a publisher gives into a dataset that training and evaluation read.

    Nothing is downloaded. A run without --source says where the files of a dataset are given.
    """

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """fer2013, ferplus, fairface, imdb, imdb_reference (imdb in the splits of the reference's code), wiki, folder (your
    own, one folder a class), synthetic (no source); for a detector faces or wider."""

    source: Path | None = None
    """The publisher's files: a file or a folder."""

    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""

    name: str | None = None
    """What to call your own set of images: train on it with --dataset folder/NAME. Only for folder."""

    skip_corrupt: bool = False
    """Leave damaged rows and images out and count them, instead of stopping at the first."""

    overwrite: bool = False
    """Prepare it again; the older one is replaced when the new one is complete."""

    workers: int = 0
    """Threads that read and shrink images; as many as there are processors, 16 at the most, if 0."""

    runner: Annotated[str | None, tyro.conf.arg(metavar="RUNNER")] = None
    """Let the workers of an Apache Beam pipeline read the images: DirectRunner, FlinkRunner, SparkRunner,
    DataflowRunner; needs the extra "beam". They must see --source and --data-dir under the same paths."""

    runner_options: Pairs = ()
    """What the runner needs, each as NAME=VALUE, such as flink_master=host:8081 or direct_num_workers=4."""

    said: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


def main(options: Options) -> None:
    """Prepares the dataset, unless it is there already, and says what is in it."""
    from faceflax.data import loading
    from faceflax.data.face_boxes import SceneBuilder
    from faceflax.data.preparation import Preparation
    from faceflax.errors import FaceflaxError

    began = time.monotonic()
    dataset = options.dataset
    if options.name is not None:
        if dataset != "folder":
            raise FaceflaxError("name", options.name, "is for your own images only", f"leave it out for {dataset!r}")
        dataset = f"folder/{options.name}"
    how = Preparation(options.workers, options.runner, options.runner_options)
    make = loading.prepare if options.overwrite else loading.make_builder
    builder = make(
        dataset, source=options.source, data_dir=options.data_dir, skip_corrupt=options.skip_corrupt, how=how
    )
    before = builder.is_prepared and not options.overwrite
    if not builder.is_prepared:
        builder.prepare()
    again = "already prepared in {} (--overwrite prepares it again)" if before else "prepared in {}"
    lines = [f"{dataset} is {again.format(builder.data_dir)}", *(f"note: {note}" for note in builder.notes)]
    for split, skipped in builder.skipped.items():
        shown = ", ".join(skipped[:SHOWN]) + (", ..." if len(skipped) > SHOWN else "")
        lines.append(f"note: damaged rows left out of the {split} split ({len(skipped)}): {shown}")

    names, counts = loading.count_classes(builder)
    width = max(map(len, (*names, "skipped")))

    def line(name: str, numbers: Iterable[object]) -> str:
        return " ".join([f"{name:<{width}}", *(f"{number:>10}" for number in numbers)])

    lines += ["", line("class", counts)]
    lines += [line(name, (counts[split][label] for split in counts)) for label, name in enumerate(names)]
    lines.append(line("total", (counts[split].sum() for split in counts)))
    if builder.skipped:
        lines.append(line("skipped", (len(builder.skipped.get(split, ())) for split in counts)))
    seconds = time.monotonic() - began
    total = sum(int(each.sum()) for each in counts.values())
    lines += ["", f"{counted(total, 'image')}; {seconds:.1f} s"]
    numbers = {
        "dataset": dataset,
        "already_prepared": before,
        "counts": {split: dict(zip(names, map(int, each), strict=True)) for split, each in counts.items()},
        "skipped": {split: list(skipped) for split, skipped in builder.skipped.items()},
        "notes": list(builder.notes),
        "seconds": round(seconds, 3),
    }
    place = "" if options.data_dir is None else f" --data-dir {shlex.quote(str(options.data_dir))}"
    arch = "face_detector" if isinstance(builder, SceneBuilder) else "mini_xception"
    then = f"faceflax train --arch {arch} --dataset {dataset}{place}"
    options.said.say("\n".join(lines), numbers, [Path(builder.data_dir)], then=then)
