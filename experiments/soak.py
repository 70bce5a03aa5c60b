"""The live loop left running on a still face: does its memory grow, does anything compile, is the face ever lost?

Command: ``python -m experiments.soak --frames 10000``

The video is one frame of the demo with fresh noise in every frame, as of a camera that nobody moves before. It goes
through the loop of scripts/live.py: threads, detection, tracks, both networks, drawing, a table and a video.

Result: 10,000 frames at 244 a second; 344.0 MiB after 500 frames and at the end (up to 1.9 MiB more in other runs, none
of it after frame 6,000); nothing compiled; one track, never lost. 41 seconds on two cores of an Intel Xeon, not idle.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from faceflax.cli import run
from faceflax.errors import FaceflaxError

if TYPE_CHECKING:
    import numpy as np

    from faceflax.faces.face import Face
    from faceflax.faces.frame import Frame
    from faceflax.faces.tracking import Track

SETTLED = 500
"""Frames after which memory must not grow."""
SLACK = 4.0
"""MiB by which it may: the system counts pages that the allocator keeps, and they come and go."""


@dataclass(frozen=True)
class Options:
    """Run the live loop on a still face for long and say what changed; exit with 2 if anything did that must not."""

    frames: int = 10_000
    """How many frames; more than 1000."""
    noise: float = 8.0
    """Standard deviation of the noise, in grey levels."""
    seed: int = 0
    """Of the noise."""


def main(options: Options) -> None:
    """Prints memory, compilations and tracks."""
    if options.frames <= 2 * SETTLED:
        raise FaceflaxError(
            "frames", options.frames, "is too few to conclude anything", f"give more than {2 * SETTLED}"
        )
    if not 0 <= options.noise < float("inf"):
        raise FaceflaxError("noise", options.noise, "is not a standard deviation", "give 0 or more")

    import tempfile

    import jax
    import numpy as np

    from faceflax.faces.video import VideoAnalyzer
    from faceflax.live import loop
    from faceflax.media.sources import Source

    memory = np.zeros(options.frames)  # made beforehand: what is noted must not grow itself
    frames = lost = compiled = 0
    ids: set[int | None] = set()

    class Watched(VideoAnalyzer):
        """Notes what each frame leaves behind."""

        def read_batch(self, images: Sequence[np.ndarray], located: Sequence[Sequence[Track]]) -> list[list[Face]]:
            nonlocal frames, lost
            found = super().read_batch(images, located)
            for faces in found:
                ids.update(face.track_id for face in faces)
                lost += frames > 0 and not faces  # in the first one its score may be too low
                memory[frames] = resident()
                frames += 1
            return found

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        nonlocal compiled
        compiled += "compile" in event and frames > 0

    jax.monitoring.register_event_duration_secs_listener(note)
    source = Source("video", still_video(options.frames, options.noise, options.seed), fps=25.0, count=options.frames)
    with tempfile.TemporaryDirectory() as folder:
        summary = loop.run(source, Watched(), output=Path(folder) / "video.mp4", csv=Path(folder) / "faces.csv")
    settled, end = np.median(memory[SETTLED - 100 : SETTLED]), np.median(memory[-100:])
    print(f"{summary.frames} frames, {summary.frames / summary.seconds:.0f} a second")
    print(f"memory: {settled:.1f} MiB after {SETTLED} frames, {end:.1f} MiB at the end ({end - settled:+.1f})")
    print(f"compilations after the first frame: {compiled}")
    print(f"frames without the face, but for the first: {lost}; tracks: {len(ids)}")
    if end - settled > SLACK or compiled or lost or len(ids) != 1:
        raise FaceflaxError("frames", options.frames, "in the course of {} something changed that must not, see above")


def still_video(count: int, noise: float, seed: int) -> Generator[Frame, None, None]:
    """Yields one frame of the demo ``count`` times, with noise that repeats after 64 frames in another order."""
    import numpy as np

    from faceflax.faces.frame import Frame
    from faceflax.media import demo

    rng = np.random.default_rng(seed)
    still = next(demo.video())
    images: list[np.ndarray] = [
        (still + rng.normal(0, noise, still.shape)).clip(0, 255).astype(np.uint8) for _ in range(64)
    ]
    for index in range(count):
        yield Frame(images[rng.integers(len(images))], "still", index, index / 25)


def resident() -> float:
    """Returns the memory this process has in use, in MiB; only Linux says."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except FileNotFoundError:
        problem = "does not say how much memory a process has"
        raise FaceflaxError("system", sys.platform, problem, "run it on Linux") from None


if __name__ == "__main__":
    run(main, Options)
