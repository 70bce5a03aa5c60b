"""Prepares a dataset from the publisher's files; see ``faceflax prepare-data --help``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

SHOWN = 20
"""Damaged rows named, at most."""


@dataclass(frozen=True)
class Options:
    """Turn the files that a publisher gives into a dataset that training and evaluation read.

    Nothing is downloaded. A run without --source says where the files of a dataset are given.
    """

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """fer2013, ferplus, fairface, imdb, wiki, folder (your own, one folder a class), synthetic (no source); for a
    detector faces or wider."""

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


def main(options: Options) -> None:
    """Prepares the dataset, unless it is there already, and prints what is in it."""
    from faceflax.data import loading
    from faceflax.data.face_boxes import SceneBuilder
    from faceflax.errors import FaceflaxError

    dataset = options.dataset
    if options.name is not None:
        if dataset != "folder":
            raise FaceflaxError("name", options.name, "is for your own images only", f"leave it out for {dataset!r}")
        dataset = f"folder/{options.name}"
    make = loading.prepare if options.overwrite else loading.make_builder
    builder = make(dataset, source=options.source, data_dir=options.data_dir, skip_corrupt=options.skip_corrupt)
    if builder.is_prepared and not options.overwrite:
        print(f"{dataset} is already prepared in {builder.data_dir} (--overwrite prepares it again)")
    else:
        if not options.overwrite:
            builder.prepare()
        print(f"{dataset} is prepared in {builder.data_dir}")
    for note in builder.notes:
        print(f"note: {note}")

    for split, skipped in builder.skipped.items():
        shown = ", ".join(skipped[:SHOWN]) + (", ..." if len(skipped) > SHOWN else "")
        print(f"note: damaged rows left out of the {split} split ({len(skipped)}): {shown}")

    names, counts = loading.count_classes(builder)
    width = max(map(len, (*names, "skipped")))
    print(f"\n{'class':<{width}}", *(f"{split:>10}" for split in counts))
    for label, name in enumerate(names):
        print(f"{name:<{width}}", *(f"{counts[split][label]:>10}" for split in counts))
    print(f"{'total':<{width}}", *(f"{counts[split].sum():>10}" for split in counts))
    if builder.skipped:
        print(f"{'skipped':<{width}}", *(f"{len(builder.skipped.get(split, ())):>10}" for split in counts))
    data_dir = f" --data-dir {options.data_dir}" if options.data_dir else ""
    arch = "face_detector" if isinstance(builder, SceneBuilder) else "mini_xception"
    print(f"\nnext: faceflax train --arch {arch} --dataset {dataset}{data_dir}")
