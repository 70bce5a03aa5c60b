"""How long the complete pipeline takes: finding the face and both classifications, part by part.

Command: ``python -m experiments.paper --only pipeline`` (about a minute).

Every frame of the demo's video (640x360, one face) goes through ``FaceAnalyzer`` with OpenCV's Haar cascade, as the
study has it, which searches the whole frame.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice

import numpy as np
from matplotlib.figure import Figure

from experiments.paper import intervals
from experiments.paper.record import Picture, Result, Table, below
from experiments.paper.study import Study
from faceflax import FaceAnalyzer, compile
from faceflax.faces.haar import HaarDetector
from faceflax.media import demo
from faceflax.preprocessing import normalize

TITLE = "2. The pipeline's time"
CLAIM = "detection and both classifications together take 0.22 ms, with a deviation of 0.0003 ms, on a laptop's CPU."
NEEDS = (("mini_xception", "emotion"), ("mini_xception", "gender"))
STATED = 0.22


@dataclass(frozen=True)
class Config:
    """How much is timed."""

    frames: int = demo.NUM_FRAMES
    repeats: int = 3


FULL = Config()
QUICK = Config(frames=3, repeats=2)


def run(study: Study, config: Config) -> Result:
    """Times each part on each frame."""
    emotion, gender = (study.network("mini_xception", task) for task in ("emotion", "gender"))
    detector = HaarDetector()
    analyzer = FaceAnalyzer(emotion.path, gender.path, detector, preset="fast")
    frames = list(islice(demo.video(), config.frames))
    alone = {}
    for task, network in (("emotion", emotion), ("gender", gender)):
        predict, size = compile(network.model, network.variables), network.weights.image_size
        alone[f"{task} network alone"] = predict, normalize(np.zeros((1, size, size, 1), np.uint8))
    for predict, face in alone.values():
        predict(face)
    times: dict[str, list[float]] = {}
    found = 0
    for _ in range(config.repeats):
        for frame in frames:
            start = time.perf_counter()
            boxes = detector(frame)
            middle = time.perf_counter()
            analyzer.probabilities(frame, boxes)
            end = time.perf_counter()
            found += len(boxes)
            parts = {
                "whole pipeline": end - start,
                "detection": middle - start,
                "crop and both classifications": end - middle,
            }
            for name, (predict, face) in alone.items():
                start = time.perf_counter()
                predict(face)
                parts[name] = time.perf_counter() - start
            for name, seconds in parts.items():
                times.setdefault(name, []).append(1000 * seconds)
    rows, numbers = [], {}
    for name, values in times.items():
        numbers[name] = intervals.mean(name, np.array(values), "ms", "frames")
        low, middle, high = np.percentile(values, [5, 50, 95])
        spread = f"{np.std(values, ddof=1):.3f} ms", f"{low:.3f} ms", f"{middle:.3f} ms", f"{high:.3f} ms"
        rows.append((name, str(numbers[name]), *spread))
    figure = Figure((7, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.boxplot(
        list(times.values())[::-1], orientation="horizontal", tick_labels=list(times)[::-1], whis=(5, 95), sym=""
    )
    axes.axvline(STATED, color="#b2182b", linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel=f"ms a frame (whiskers: 5% and 95%; dashed: the study's {STATED} ms)")
    axes.spines[["top", "right"]].set_visible(False)
    return Result(
        verdicts=(
            below("The pipeline takes 0.22 ms a frame", numbers["whole pipeline"], STATED + 0.005),
            below(
                "Crop and both classifications take 0.22 ms", numbers["crop and both classifications"], STATED + 0.005
            ),
        ),
        tables=(
            Table(
                f"Milliseconds a frame of {frames[0].shape[1]}x{frames[0].shape[0]}",
                ("part", "mean [95% interval]", "deviation", "5%", "median", "95%"),
                tuple(rows),
            ),
        ),
        pictures=(Picture.of(figure, "Milliseconds of the pipeline and its parts, on a logarithmic axis"),),
        remarks=(
            f"{found} faces were found in {config.repeats * len(frames)} frames. Times are of this machine, whatever "
            "else it was doing. VideoAnalyzer, which follows a face from frame to frame, is faster; the study "
            "describes a search of every frame.",
        ),
    )
