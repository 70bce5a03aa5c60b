"""Analyses the photograph and the video that come with the package: ``python scripts/demo.py``."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from faceflax import files
from faceflax.cli.detection import PresetName, make_analyzer, networks
from faceflax.cli.metavars import Weights
from faceflax.cli.reporting import ReportOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from faceflax.faces import Face


@dataclass(frozen=True)
class Options:
    """Find the face in a real photograph and in a video made of it, label both, and show what the networks look at."""

    output_dir: Path = Path("out")
    """Folder for demo.png and demo.mp4."""
    preset: PresetName = "fast"
    """Which networks: fast, or accurate: larger ones, that read each face mirrored too."""
    emotion_weights: Weights | None = None
    """Weights for perceived emotion in place of the preset's: a shipped name or a .safetensors file."""
    gender_weights: Weights | None = None
    """Weights for perceived gender in place of the preset's: a shipped name or a .safetensors file."""
    said: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


def main(options: Options) -> None:
    """Writes the figure and the video into the folder and says what was found."""
    files.writable_folder("output_dir", options.output_dir)
    figure, video = options.output_dir / "demo.png", options.output_dir / "demo.mp4"
    files.writable_file("output_dir", figure)
    files.writable_file("output_dir", video)

    from faceflax.faces import VideoAnalyzer
    from faceflax.labels import EMOTIONS, GENDERS
    from faceflax.live import loop
    from faceflax.media import demo
    from faceflax.media.sources import open_source

    began = time.monotonic()
    analyzer = make_analyzer(options.preset, options.emotion_weights, options.gender_weights)
    (face, *_) = analyzer(demo.photograph())
    lines = [f"photograph: a face at x, y, width, height = {face.box}, score {face.score:.2f}"]
    for what, labels, probabilities in (
        ("emotion", EMOTIONS, face.emotion_probabilities),
        ("gender", GENDERS, face.gender_probabilities),
    ):
        shares = ", ".join(f"{label} {p:.0%}" for label, p in zip(labels, probabilities, strict=True))
        lines.append(f"  perceived {what}: {shares}")
    with files.replacing(figure) as temporary:
        _figure(face, options).savefig(temporary, dpi=150)

    summary = loop.run(open_source("demo"), VideoAnalyzer(analyzer), output=video)
    lines.append(
        f"video: a face in {summary.frames_with_face} of {summary.frames} frames, "
        f"{summary.frames / summary.seconds:.0f} frames a second, detection, both networks and drawing included"
    )
    seconds = time.monotonic() - began
    numbers = {"face": face.to_dict(), "video": dataclasses.asdict(summary), "seconds": round(seconds, 3)}
    options.said.say("\n".join([*lines, f"{seconds:.1f} s in all"]), numbers, [figure, video])


def _figure(face: Face, options: Options) -> Figure:
    """The labelled photograph; beside it, for each network, the crop that it sees and guided backprop of its label."""
    import numpy as np
    from matplotlib.figure import Figure

    import faceflax
    from faceflax.cli.plugins import explainer
    from faceflax.media import demo
    from faceflax.media.drawing import draw_faces
    from faceflax.opencv import cv2
    from faceflax.preprocessing import normalize

    photo = demo.photograph()
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.25], squeeze=False)[0]
    axes = left.subplots()
    axes.imshow(cv2.cvtColor(draw_faces(photo, [face]), cv2.COLOR_BGR2RGB))
    axes.set_title("perceived emotion and perceived gender")
    axes.axis("off")
    grid = right.subplots(2, 2)
    chosen = networks(options.preset, options.emotion_weights, options.gender_weights)
    answers = ((chosen.emotion, face.emotion), (chosen.gender, face.gender))
    for (seen, attributed), (weights, label) in zip(grid, answers, strict=True):
        loaded = faceflax.load(weights)
        info = loaded.info
        crop = face.crop(photo, info.crop_margin, info.image_size)
        _, maps = explainer(*loaded)(normalize(crop[None, ..., None]), info.labels.index(label))
        signed = maps[0, ..., 0]
        seen.imshow(crop, cmap="gray", vmin=0, vmax=255)
        seen.set_title(f"what {info.name} sees", fontsize=9)
        limit = np.abs(signed).max()
        image = attributed.imshow(signed, cmap="RdBu_r", vmin=-limit, vmax=limit)
        attributed.set_title(f"guided backprop of {label!r}", fontsize=9)
        bar = right.colorbar(image, ax=attributed, shrink=0.75, ticks=[-limit, 0, limit])
        bar.ax.set_yticklabels(["-max", "0", "+max"], fontsize=7)
        for panel in (seen, attributed):
            panel.axis("off")
    return figure
