"""The options of ``python scripts/benchmark.py``; how it measures is said in :mod:`experiments.benchmarks`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from faceflax.errors import FaceflaxError
from faceflax.files import writable_file

Row = Literal["forward", "train", "guided", "start", "memory", "live", "files", "attribution"]


@dataclass(frozen=True)
class Options:
    """Time faceflax beside plain Flax, ONNX Runtime, PyTorch, Captum and fer, as far as they are installed, on the CPU.

    The contenders alternate, so that a machine whose speed drifts still gives a fair ratio. Medians are printed, with
    the 10th and 90th percentile.
    """

    rows: tuple[Row, ...] = get_args(Row)[:-1]
    """What to measure: forward passes, train steps, guided backprop, process starts, peak memory, whole frames live,
    files from end to end; and, where it is asked for, ten attribution methods on a ResNet-18."""
    repeats: int = 30
    """Rounds in which each contender has a turn; train steps get a third of them, process starts a sixth."""
    onnx: Path | None = None
    """ONNX graph of mini_xception, images [batch, 1, 64, 64] to logits [batch, 7], instead of one of our weights."""
    video: Path | None = None
    """Video with one face for the row live, instead of the demo's, 640x360."""
    output: Path | None = None
    """JSON file for the table."""
    plot: Path | None = None
    """Figure of the ratios, .png, .pdf or .svg."""


def main(options: Options) -> None:
    """Prints a table, contender by contender."""
    from experiments.benchmarks.run import run as measure

    if options.repeats < 1:
        raise FaceflaxError("repeats", options.repeats, "is not a number of rounds", "give 1 or more")
    if options.plot and options.plot.suffix not in (".png", ".pdf", ".svg"):
        raise FaceflaxError("plot", options.plot, "is no image file", "end it in .png, .pdf or .svg")
    for name, file in (("output", options.output), ("plot", options.plot)):
        if file:
            writable_file(name, file)
    if options.video and not options.video.is_file():
        raise FaceflaxError("video", options.video, "there is no file {}", "check the path")
    video = options.video and options.video.resolve()
    measure(options.rows, options.repeats, options.onnx, options.output, options.plot, video)
