"""Finds faces live and labels perceived emotion and perceived gender."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from faceflax import commands
from faceflax.errors import FaceflaxError


@dataclass(frozen=True)
class Options:
    """Find faces in a camera, video, image or folder and label perceived emotion and perceived gender.

    A blue box is perceived as a man, a red one as a woman. Press q or close the window to stop.
    """

    source: str = "0"
    """A camera's index, a video, an image, a folder of images, or demo."""
    output: Path | None = None
    """Annotated copy: a video (.mp4, .avi) of a camera, a video or demo; an image of an image; a folder of a folder."""
    csv: Path | None = None
    """Table with one row per face and frame: time, box, labels and all probabilities."""
    headless: bool = False
    """Open no window."""
    emotion_weights: str = "mini_xception-fer2013"
    """Weights for perceived emotion: a shipped name or a .safetensors file."""
    gender_weights: str = "mini_xception-fairface"
    """Weights for perceived gender: a shipped name or a .safetensors file."""
    max_frames: int | None = None
    """Stop after so many frames."""


def main(options: Options) -> None:
    """Runs the live loop as ``options`` say and prints a summary."""
    if options.max_frames is not None and options.max_frames < 1:
        raise FaceflaxError(f"--max-frames: {options.max_frames} is not a number of frames; give 1 or more")
    if options.csv is not None:
        if options.csv.suffix.lower() != ".csv":
            raise FaceflaxError(f"--csv: {str(options.csv)!r} is not the name of a table; end it in .csv")
        commands.writable_file("--csv", options.csv)

    from faceflax.vision import loop
    from faceflax.vision.sources import open_source

    source = open_source(options.source)
    if options.output is not None:
        loop.check_output(options.source, source.kind, options.output)
    if not options.headless:
        loop.check_window()

    from faceflax.runtime.analyzer import FaceAnalyzer

    summary = loop.run(
        source,
        FaceAnalyzer(options.emotion_weights, options.gender_weights),
        output=options.output,
        csv_file=options.csv,
        window=not options.headless,
        max_frames=options.max_frames,
    )
    print(
        f"{summary.frames} frames, {summary.frames_with_face} with a face, "
        f"{summary.frames / summary.seconds:.1f} frames a second"
    )
    for place in (options.output, options.csv):
        if place is not None:
            print(f"wrote {place}")


if __name__ == "__main__":
    commands.run(main, Options)
