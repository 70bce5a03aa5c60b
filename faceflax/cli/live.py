"""Finds faces live and labels perceived emotion and perceived gender."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from faceflax import files
from faceflax.cli.detection import DetectionOptions, PresetName, make_analyzer, networks
from faceflax.cli.metavars import Weights
from faceflax.cli.plugins import Explainer, explainer
from faceflax.cli.reporting import ReportOptions, counted
from faceflax.errors import FaceflaxError

if TYPE_CHECKING:
    from faceflax.live.overlay import SaliencyOverlay


KEYS = "q quits, p pauses, s saves the picture, o switches the overlay, e the emotion, b the bars"

_log = logging.getLogger("faceflax")


@dataclass(frozen=True)
class Options:
    """Find faces in a camera, video, image or folder and label perceived emotion and perceived gender.

    A blue box is perceived as a man, a red one as a woman. Keys: q quits, p pauses, s saves the image, o switches
    the overlay (labels, saliency beside or over the faces, plain), e the emotion that the saliency is of, b the bars of
    all seven emotions.
    """

    source: Annotated[str, tyro.conf.arg(metavar="SOURCE")] = "0"
    """A camera's index or an address (rtsp://, http://), a video, an image, a folder of images, or demo."""
    output: Path | None = None
    """Annotated copy: a video (.mp4, .webm, .avi) of a camera or video; an image of an image; a folder of a folder."""
    csv: Path | None = None
    """Table (.csv) with one row per face and frame: time, track, box, labels and all probabilities."""
    jsonl: Path | None = None
    """The same as JSON (.jsonl), a line per face and frame."""
    headless: bool = False
    """Open no window."""
    bars: bool = False
    """Show the probability of each of the seven emotions beside each face."""
    explain: bool = False
    """Show a saliency map of each face's emotion, by guided backpropagation."""
    overlay: Literal["beside", "over"] = "beside"
    """Where --explain shows it: beside the face or over it."""
    emotion: Literal["current", "angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"] = "current"
    """Which emotion --explain is about: the one each face shows, or always this one."""
    preset: PresetName = "fast"
    """Which networks: fast, or accurate: larger ones, that read each face mirrored too."""
    emotion_weights: Weights | None = None
    """Weights for perceived emotion in place of the preset's: a shipped name or a .safetensors file."""
    gender_weights: Weights | None = None
    """Weights for perceived gender in place of the preset's: a shipped name or a .safetensors file."""
    task_weights: Weights | None = None
    """Weights for a task of your own, with any labels: a .safetensors file that faceflax train has made."""
    max_frames: int | None = None
    """Stop after so many frames."""
    snapshots: Path = Path()
    """Folder for the images that the key s saves."""
    detection: Annotated[DetectionOptions, tyro.conf.arg(name="")] = field(default_factory=DetectionOptions)
    report: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


def main(options: Options) -> None:
    """Runs the live loop as ``options`` say and prints a summary."""
    if options.max_frames is not None and options.max_frames < 1:
        raise FaceflaxError("max_frames", options.max_frames, "is not a number of frames", "give 1 or more")
    options.detection.check()

    from faceflax.media import outputs

    for field_name, file in (("csv", options.csv), ("jsonl", options.jsonl)):
        if file is not None:
            outputs.check_table(field_name, file, f".{field_name}")

    from faceflax.live import loop
    from faceflax.media.sources import open_source
    from faceflax.media.window import check_window

    source = open_source(options.source)
    if options.output is not None:
        outputs.check_output(options.source, source.kind, options.output)
    if not options.headless:
        files.writable_folder("snapshots", options.snapshots)
        try:
            check_window()
        except FaceflaxError as error:
            remedy = "add --headless, with --output, --csv or --jsonl for the results"
            raise FaceflaxError("headless", error.value, error.problem, remedy) from None

    from faceflax.faces import VideoAnalyzer

    still = source.kind in ("image", "folder")
    detector = options.detection.for_images(options.preset) if still else options.detection.for_videos()
    images = make_analyzer(
        options.preset, options.emotion_weights, options.gender_weights, detector, options.task_weights
    )
    every = options.detection.search_every
    overlay = _overlay(options)
    if not options.headless:
        _log.info("faceflax: finds faces and what is perceived in them, on this machine alone; %s", KEYS)
    summary = loop.run(
        source,
        images if still else VideoAnalyzer(images, detector=detector, full_search_every=every),
        overlay=overlay,
        output=options.output,
        csv=options.csv,
        jsonl=options.jsonl,
        window=not options.headless,
        keys={
            "o": ("overlay", lambda: f"overlay: {overlay.next_mode()}"),
            "e": ("emotion", lambda: f"emotion: {overlay.next_emotion()}"),
            "b": ("bars", overlay.switch_bars),
        },
        snapshots=options.snapshots,
        max_frames=options.max_frames,
    )
    dropped = f", {summary.dropped} dropped" if source.kind == "camera" else ""
    text = (
        f"{counted(summary.frames, 'frame')}, {summary.frames_with_face} with a face{dropped}, "
        f"{summary.frames / summary.seconds:.1f} frames a second, latency {1000 * summary.latency:.0f} ms "
        f"(95%: {1000 * summary.latency_95:.0f} ms), {summary.seconds:.1f} s"
    )
    options.report.say(text, dataclasses.asdict(summary), [options.output, options.csv, options.jsonl])


def _overlay(options: Options) -> SaliencyOverlay:
    """Labels, and guided backpropagation through the emotion network, which is compiled when it is first shown."""
    import functools

    import numpy as np

    import faceflax
    from faceflax.live.overlay import SaliencyOverlay

    weights = networks(options.preset, options.emotion_weights, options.gender_weights).emotion
    info = faceflax.weights_info(weights)

    @functools.cache
    def compiled() -> Explainer:
        return explainer(*faceflax.load(weights))

    def explain(faces: np.ndarray, emotions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return compiled()(faces, emotions)

    if options.explain:  # no frame waits for it
        compiled().warm_up(info.image_size)
    mode = options.overlay if options.explain else "labels"
    return SaliencyOverlay(
        explain, info.crop_margin, info.image_size, mode=mode, emotion=options.emotion, bars=options.bars
    )
