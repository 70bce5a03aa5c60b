"""Converts the reference's Keras files of mini-Xception into this project's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from faceflax import files
from faceflax.errors import FaceflaxError, renaming
from faceflax.labels import EMOTIONS, GENDERS


@dataclass(frozen=True)
class Options:
    """Convert a Keras 2 HDF5 file of the reference's mini-Xception (perceived emotion or perceived gender).

    The result is a weights file for faceflax.load and for every --weights option.
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE.hdf5")]
    """The Keras file, saved whole (model.save)."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT.safetensors")]
    """The .safetensors file to write; its record goes beside it as .json."""


def main(options: Options) -> None:
    """Reads the one file and writes the other."""
    files.writable_file("out", options.out)

    from faceflax import pretrained
    from faceflax.pretrained import keras

    with renaming(path="file"):
        arch, num_classes, image_size, variables = keras.read(options.file)
    # By the number of classes: labels, what the reference trained on, and the crop margin its weights do well with.
    known = {len(EMOTIONS): (EMOTIONS, "fer2013", 0.0), len(GENDERS): (GENDERS, "imdb", 0.4)}
    if num_classes not in known:
        raise FaceflaxError("file", options.file, f"has {num_classes} classes", "give one of the reference's, 7 or 2")
    labels, dataset, crop_margin = known[num_classes]
    info = pretrained.save(
        options.out,
        variables,
        arch=arch,
        dataset=dataset,
        labels=labels,
        image_size=image_size,
        crop_margin=crop_margin,
    )
    print(f"{options.out}: {info.arch}, {', '.join(info.labels)}, {info.image_size} pixels, SHA-256 {info.sha256}")
