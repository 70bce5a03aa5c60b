"""Analyses images, folders, archives and videos into one table: ``python scripts/analyze.py PATH... --csv out.csv``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from faceflax.cli.detection import DetectionOptions, PresetName, make_analyzer, networks
from faceflax.cli.metavars import Weights
from faceflax.errors import FaceflaxError


@dataclass(frozen=True)
class Options:
    """Find the faces of images and videos and write perceived emotion and perceived gender of each into a table.

    After a stop, whatever stopped it, the same command goes on where it was: a video that was not finished begins
    again, nothing is in the table twice. A complete table is never written to. Exit status: 0; 1 if files had to be
    skipped, which are listed at the end; 2 after bad input; 130 after Ctrl-C.
    """

    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PATH ...", help_behavior_hint="")]
    """Images, videos, folders with both, zip archives of images."""
    csv: Path
    """The table (.csv): a row per face and frame with name, time, track, box, labels and all probabilities."""
    report: Path | None = None
    """Also write a page (.html) that shows the emotions of each video's faces over time."""
    preset: PresetName = "accurate"
    """Which networks: fast, or accurate: larger ones, that read each face mirrored too."""
    emotion_weights: Weights | None = None
    """Weights for perceived emotion in place of the preset's: a shipped name or a .safetensors file."""
    gender_weights: Weights | None = None
    """Weights for perceived gender in place of the preset's: a shipped name or a .safetensors file."""
    detection: Annotated[DetectionOptions, tyro.conf.arg(name="")] = field(default_factory=DetectionOptions)


def main(options: Options) -> None:
    """Analyses what ``options`` name and lists what had to be skipped."""
    from faceflax import batch
    from faceflax.media import outputs

    if not options.paths:
        raise FaceflaxError("paths", None, "{} given", "give images, videos, folders or zip archives")
    options.detection.check()
    outputs.check_table("csv", options.csv, ".csv")
    if options.report is not None:
        outputs.check_table("report", options.report, ".html")
    inputs, bad = batch.find_inputs(options.paths)
    videos = [item for item in inputs if item.kind == "video"]
    if options.report is not None and not videos:
        problem = "there is no video among the paths, and {} would show videos"
        raise FaceflaxError("report", options.report, problem, "leave it out")

    import faceflax
    from faceflax.faces import VideoAnalyzer

    chosen = networks(options.preset, options.emotion_weights, options.gender_weights)
    still, moving = options.detection.for_images(options.preset), options.detection.for_videos()
    weights = [faceflax.weights_info(name).sha256 for name in (chosen.emotion, chosen.gender)]
    settings = {"weights": weights, "mirrored": chosen.mirrored, "detail": chosen.detail} | options.detection.record()
    with batch.open_table(options.csv, settings) as table:
        analyzer = make_analyzer(options.preset, options.emotion_weights, options.gender_weights, still)

        def video() -> VideoAnalyzer:
            return VideoAnalyzer(analyzer, detector=moving, full_search_every=options.detection.search_every)

        try:
            result = batch.analyze(inputs, table, analyzer.analyze_batch, video)
        except KeyboardInterrupt:
            print("the same command goes on from here", file=sys.stderr)
            raise
    if options.report is not None:
        from faceflax.media import timeline

        try:
            timeline.write_page(options.report, options.csv, {item.name: item.path for item in videos})
        except FaceflaxError as error:  # a video that has gone meanwhile
            raise error.renamed("paths") from None
    batch.journal_of(options.csv).unlink()
    earlier = f", {result.before} more by an earlier run" if result.before else ""
    print(f"{result.images} images and {result.videos} videos{earlier}; {result.frames} frames, {result.faces} faces")
    print(f"wrote {options.csv}")
    if options.report is not None:
        print(f"wrote {options.report}")
    bad += result.bad
    if bad:
        print(
            f"{len(bad)} could not be read, or not whole:",
            *(f"  {name}: {why}" for name, why in bad),
            sep="\n",
            file=sys.stderr,
        )
        sys.exit(1)
