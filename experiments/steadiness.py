"""How often a face's labels change in a video in which its expression does not.

Commands::

    python -m experiments.steadiness --dataset fer2013
    python -m experiments.steadiness --dataset fairface
    python -m experiments.steadiness --clips ../shared/data/video

The first two make a video of ten seconds of each of 30 faces of the validation split: the picture, in the middle of a
frame that repeats its border, drifts, turns, grows and shrinks a little, the light changes, it is blurred now and then,
and every frame has noise of its own. The last reads videos; their faces do move, so it counts more than mistakes.

Printed are, for emotion and gender, the share of frames whose raw label is another one than in the frame before, and
how many times in ten seconds of a face the label that :class:`faceflax.VideoAnalyzer` shows changes, which averages
over frames. A face is each track; frames in which it is not seen count for neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from faceflax.cli import run
from faceflax.cli.metavars import Weights
from faceflax.errors import FaceflaxError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

    from faceflax import FaceAnalyzer
    from faceflax.faces import Detector

FPS, SECONDS = 25, 10
MEMORY = 0.96
"""How much of a video's state is kept from frame to frame: a drift lasts about a second."""
DRIFT, TURN, GROWTH, LIGHT, BLUR, NOISE = 6.0, 3.0, 0.03, 0.1, 0.7, 3.0
"""Standard deviations: pixels of the face's 192, degrees, shares of the size and of the light, pixels, grey values."""


@dataclass(frozen=True)
class Options:
    """Count how often labels change in videos of single faces whose expression stays."""

    dataset: str = "fer2013"
    """A prepared dataset of cut-out faces."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    clips: Path | None = None
    """Folder of videos to read instead."""
    count: int = 30
    """Faces."""
    emotion_weights: Weights | None = None
    """Of emotion; those of the preset fast if not given."""
    gender_weights: Weights | None = None
    """Of gender; those of the preset fast if not given."""
    seed: int = 0
    """Of the videos."""


@dataclass
class Changes:
    """Of one kind of label.

    Attributes:
        frames: those in which a face was also seen in the frame before.
        raw: in how many of them the label is another one.
        shown: in how many of them the averaged label is.
    """

    frames: int = 0
    raw: int = 0
    shown: int = 0


@dataclass
class Counts:
    """Of some videos."""

    emotion: Changes = field(default_factory=Changes)
    gender: Changes = field(default_factory=Changes)


def main(options: Options) -> None:
    """Prints the counts."""
    if options.count < 1:
        raise FaceflaxError("count", options.count, "is not a number of faces", "give 1 or more")
    from faceflax.cli.detection import make_analyzer

    analyzer = make_analyzer("fast", options.emotion_weights, options.gender_weights)
    counts = Counts()
    for video in clips(options.clips) if options.clips else videos(options):
        watch(video, analyzer, counts)
    for name in ("emotion", "gender"):
        seen: Changes = getattr(counts, name)
        count = max(seen.frames, 1)
        print(
            f"{name}: {seen.frames:,} frames of faces; the raw label changes in {seen.raw / count:.2%} of them; "
            f"the shown label {10 * FPS * seen.shown / count:.2f} times in ten seconds"
        )


def watch(
    video: Iterable[np.ndarray], analyzer: FaceAnalyzer, counts: Counts, detector: Detector | None = None
) -> None:
    """Adds what happens in a video to the counts; ``detector`` as for :class:`faceflax.VideoAnalyzer`."""
    from faceflax import VideoAnalyzer

    shown, raw = VideoAnalyzer(analyzer, detector=detector), VideoAnalyzer(analyzer, detector=detector, smoothing=0)
    before: dict[int | None, tuple[str, str, str, str]] = {}
    for frame in video:
        tracks = shown.locate(frame)
        now = {}
        for a, b in zip(shown.read(frame, tracks), raw.read(frame, tracks), strict=True):
            now[a.track_id] = labels = a.emotion, b.emotion, a.gender, b.gender
            if a.track_id in before:
                last = before[a.track_id]
                for changes, i in ((counts.emotion, 0), (counts.gender, 2)):
                    changes.frames += 1
                    changes.shown += labels[i] != last[i]
                    changes.raw += labels[i + 1] != last[i + 1]
        before = now


def videos(options: Options) -> Iterator[Iterator[np.ndarray]]:
    """Makes a video of each of the split's first faces."""
    import numpy as np
    from tqdm import tqdm

    from faceflax import data
    from faceflax.evaluation.detected import SIDE

    examples = data.load(options.dataset, "validation", image_size=SIDE, data_dir=options.data_dir)
    for number in tqdm(range(min(options.count, len(examples.images))), unit="video", disable=None):
        yield video(examples.images[number, :, :, 0], np.random.default_rng([options.seed, number]))


def video(image: UInt8[np.ndarray, "side side"], random: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields the frames of a face that keeps its expression while the camera and the light do not keep still."""
    import numpy as np

    from faceflax.evaluation.detected import frame_of
    from faceflax.opencv import cv2

    frame = frame_of(image)[:, :, 0]
    middle = frame.shape[0] / 2
    state = random.normal(size=6)
    for _ in range(FPS * SECONDS):
        state = MEMORY * state + math.sqrt(1 - MEMORY**2) * random.normal(size=6)
        x, y, turn, growth, light, blur = state * [DRIFT, DRIFT, TURN, GROWTH, LIGHT, BLUR]
        matrix = cv2.getRotationMatrix2D((middle - 0.5, middle - 0.5), turn, 1 + growth)
        matrix[:, 2] += (x, y)
        moved = cv2.warpAffine(frame, matrix, frame.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        if abs(blur) > 0.3:
            moved = cv2.GaussianBlur(moved, (0, 0), abs(blur))
        values = moved * (1 + light) + random.normal(0, NOISE, moved.shape)
        yield cv2.cvtColor(np.rint(values).clip(0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)


def clips(folder: Path) -> Iterator[Iterator[np.ndarray]]:
    """Reads the folder's videos."""
    from faceflax.media.sources import open_source

    files = sorted(file for file in folder.glob("*") if file.suffix in (".mp4", ".webm", ".mov", ".avi"))
    if not files:
        raise FaceflaxError("clips", folder, "there is no video in {}", "name a folder of videos")
    for file in files:
        yield (frame.image for frame in open_source(str(file)).frames)


if __name__ == "__main__":
    run(main, Options)
