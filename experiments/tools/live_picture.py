"""The README's moving picture of the live loop: ``python -m experiments.tools.live_picture docs/live.webp``.

The live command itself labels and explains the demo video; some of its frames, made smaller, become one animation.
WebP, because the 256 colours of a GIF lose the colour of the boxes and of the maps.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from faceflax.cli import run

_COMMAND = ("-m", "scripts.live", "--source", "demo", "--headless", "--explain")


@dataclass(frozen=True)
class Options:
    """Write an animation of what the live window shows of the demo video."""

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT.webp")]
    """The file to write."""
    every: int = 2
    """One of how many frames is kept."""
    width: int = 560
    """Width of the animation in pixels."""
    quality: int = 60
    """WebP's quality, 0 to 100."""


def main(options: Options) -> None:
    """Runs the live command, reads its annotated video and writes the animation."""
    from PIL import Image

    from faceflax.media.demo import FPS
    from faceflax.opencv import cv2

    frames = []
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "live.mp4"
        subprocess.run([sys.executable, *_COMMAND, "--output", str(video)], check=True)
        capture = cv2.VideoCapture(str(video))
        while True:
            read, frame = capture.read()
            if not read:
                break
            frames.append(frame)
        capture.release()
    size = options.width, round(frames[0].shape[0] * options.width / frames[0].shape[1])
    first, *rest = (
        Image.fromarray(cv2.cvtColor(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB))
        for frame in frames[:: options.every]
    )
    duration = round(1000 * options.every / FPS)
    first.save(
        options.out, save_all=True, append_images=rest, duration=duration, loop=0, quality=options.quality, method=6
    )
    print(f"wrote {options.out}, {1 + len(rest)} frames, {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    run(main, Options)
