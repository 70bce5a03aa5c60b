"""Converts the reference's Keras files of mini-Xception into this project's weights."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from faceflax import files
from faceflax.cli.reporting import ReportOptions
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
    labels: tuple[str, ...] = ()
    """The class names, in the order of the outputs: a Keras file does not hold them. Those of the two files that the
    reference publishes are known."""
    dataset: str = "unknown"
    """What the weights were trained on, for the record; known for the reference's."""
    crop_margin: float = 0.0
    """Share of a detected box's side to add on each side before the face is cut out; known for the reference's."""
    said: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


# The files that the reference publishes, by their SHA-256: labels, what they were trained on, and the crop margin they
# do well with.
REFERENCES = {
    "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e": (EMOTIONS, "fer2013", 0.0),
    "7affc7bd520c48ca908eada26988d0e17fdfa1d447d8ae5675395f05ca6f943b": (GENDERS, "imdb", 0.4),
}


def main(options: Options) -> None:
    """Reads the one file and writes the other."""
    files.writable_file("out", options.out)
    began = time.monotonic()

    from faceflax import pretrained
    from faceflax.pretrained import keras

    with renaming(path="file"):
        arch, num_classes, image_size, variables = keras.read(options.file)
    labels, dataset, crop_margin = options.labels, options.dataset, options.crop_margin
    if not labels:
        digest = hashlib.sha256(options.file.read_bytes()).hexdigest()
        if digest not in REFERENCES:
            problem = (
                f"has {num_classes} classes without names, and is not one of the files that the reference publishes"
            )
            raise FaceflaxError("file", options.file, problem, "name them, in the order of the outputs, with labels")
        labels, dataset, crop_margin = REFERENCES[digest]
    if len(labels) != num_classes:
        problem = f"are {len(labels)}, but {str(options.file)!r} has {num_classes} classes"
        raise FaceflaxError("labels", " ".join(labels), problem, "name each class once")
    info = pretrained.save(
        options.out,
        variables,
        arch=arch,
        dataset=dataset,
        labels=labels,
        image_size=image_size,
        crop_margin=crop_margin,
    )
    seconds = time.monotonic() - began
    numbers = {"arch": info.arch, "labels": list(info.labels), "image_size": info.image_size, "sha256": info.sha256}
    options.said.say(
        f"{info.arch}, {', '.join(info.labels)}, {info.image_size} pixels, SHA-256 {info.sha256}; {seconds:.1f} s",
        numbers | {"seconds": round(seconds, 3)},
        [options.out, options.out.with_suffix(".json")],
    )
