"""Measures this machine: ``python scripts/benchmark.py``; how is said in experiments/benchmarks/__init__.py."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from faceflax.cli import run
from faceflax.errors import FaceflaxError
from faceflax.files import writable_file

Row = Literal["forward", "train", "guided", "start", "memory", "live"]


@dataclass(frozen=True)
class Options:
    """Time faceflax beside plain Flax, ONNX Runtime, PyTorch, Captum and fer, as far as they are installed, on the CPU.

    The contenders alternate, so that a machine whose speed drifts still gives a fair ratio. Medians are printed, with
    the 10th and 90th percentile.
    """

    rows: tuple[Row, ...] = get_args(Row)
    """What to measure: forward passes, train steps, guided backprop, process starts, peak memory, whole frames live."""
    repeats: int = 30
    """Rounds in which each contender has a turn; train steps get a third of them, process starts a sixth."""
    onnx: Path | None = None
    """ONNX graph of mini_xception, images [batch, 1, 64, 64] to logits [batch, 7], instead of one of our weights."""
    video: Path | None = None
    """Film with one face for the row live, instead of the demo's, 640x360."""
    output: Path | None = None
    """JSON file for the table."""
    plot: Path | None = None
    """Picture of the ratios, .png, .pdf or .svg."""


def main(options: Options) -> None:
    """Prints a table, contender by contender."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # experiments/ is not installed
    from experiments.benchmarks.run import run as measure

    if options.repeats < 1:
        raise FaceflaxError(f"--repeats: {options.repeats} is not a number of rounds; give 1 or more")
    if options.plot and options.plot.suffix not in (".png", ".pdf", ".svg"):
        raise FaceflaxError(f"--plot: {str(options.plot)!r} is no picture; end it in .png, .pdf or .svg")
    for argument, file in (("--output", options.output), ("--plot", options.plot)):
        if file:
            writable_file(argument, file)
    if options.video and not options.video.is_file():
        raise FaceflaxError(f"--video: there is no file {str(options.video)!r}; check the path")
    video = options.video and options.video.resolve()
    measure(options.rows, options.repeats, options.onnx, options.output, options.plot, video)


if __name__ == "__main__":
    run(main, Options)
