"""Faces found and false boxes against how often the whole frame is searched.

Command: ``python -m experiments.detection.clips --clips ../shared/data/video --output recall.md``

The clips are four short videos with one face or none, 640x360 or 960x540. Where the face is was read off by eye in
every 6th to 30th frame (:data:`TRUTH`), with lines between; a box that overlaps it by 0.4 or more (intersection over
union) has found it, any other is false. The baseline is Haar on the whole of every frame, factor 1.1, 5 neighbours, as
``faceflax.FaceAnalyzer(detector="haar")`` uses it. Milliseconds are the processor's, of finding alone, on one thread.

Result with Haar, on an Intel Xeon busy with other work (five minutes): whatever the interval, all 616 faces, no false
box, one track a face. The baseline finds 606, with 19 false boxes.

| whole frame searched | found | false boxes | ms median | ms 95% |
| --- | --- | --- | --- | --- |
| Haar, every frame | 606 | 19 | 124 | 138 |
| followed, 1 in 1 | 616 | 0 | 35 | 43 |
| followed, 1 in 5 | 616 | 0 | 3.5 | 38 |
| followed, 1 in 10 | 616 | 0 | 3.3 | 34 |
| followed, 1 in 25 | 616 | 0 | 3.1 | 4.4 |
| followed, 1 in 60 | 616 | 0 | 3.1 | 3.9 |

The default is 1 in 25 with Haar, 1 in 5 with a network. ``--detector faceflax`` finds all 616 at 1 in 5 and 10 as
well, with no false box and one track a face.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from faceflax import files
from faceflax.cli import run
from faceflax.errors import FaceflaxError

if TYPE_CHECKING:
    import numpy as np

_PORTRAIT: dict[int, tuple[float, float, float]] = {
    **{0: (290, 62, 275), 24: (311, 68, 262), 36: (345, 85, 263), 48: (317, 55, 261), 72: (285, 74, 270)},
    **{84: (293, 81, 276), 90: (318, 105, 245), 96: (314, 96, 263), 102: (296, 81, 274), 120: (307, 92, 272)},
    **{132: (316, 86, 272), 144: (310, 48, 262), 150: (289, 28, 282), 162: (297, 22, 256), 192: (315, 26, 250)},
    **{222: (314, 26, 259), 234: (326, 24, 259), 258: (320, 26, 266), 282: (312, 21, 275), 300: (314, 7, 280)},
    **{318: (316, 17, 282), 336: (324, 29, 282), 354: (344, 27, 279), 372: (353, 44, 267), 390: (355, 44, 266)},
    **{396: (318, 42, 276), 402: (290, 62, 275), 408: (290, 64, 272), 414: (290, 70, 268), 420: (285, 65, 270)},
    **{432: (285, 60, 270), 438: (293, 48, 272), 444: (305, 65, 273), 450: (327, 88, 266), 456: (343, 100, 260)},
    **{462: (350, 100, 255), 471: (347, 100, 255)},
}
TRUTH: dict[str, dict[int, tuple[float, float, float]]] = {
    "pyfeat_WolfgangLanger_Pexels.mp4": _PORTRAIT,
    "pyfeat_face_noface.mov": {0: (293, 135, 300), 24: (300, 123, 285), 48: (297, 112, 288), 71: (298, 110, 292)},
    "pyfeat_single_face.mp4": {0: (195, 90, 200), 24: (200, 82, 190), 48: (198, 75, 192), 71: (199, 73, 195)},
    "pyfeat_no_face.mp4": {},
}
"""For each clip the face's left, top and side in pixels by frame number; there is none after the last."""


@dataclass(frozen=True)
class Options:
    """Measure recall, false boxes and time of face finding in the clips, by how often the whole frame is searched."""

    clips: Path
    """Folder with the clips that the module names."""
    detector: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "haar"
    """What finds and follows the faces, as in ``faceflax live``."""
    every: tuple[int, ...] = (1, 5, 10, 15, 25, 30, 60)
    """Whole-frame searches: in one of so many frames."""
    output: Path | None = None
    """Markdown file for the table, which is printed as well."""
    max_frames: int | None = None
    """So many frames of each clip only."""


def main(options: Options) -> None:
    """Prints the table, a row for the baseline and each interval."""
    for name in TRUTH:
        if not (options.clips / name).is_file():
            raise FaceflaxError("clips", options.clips, f"there is no {name!r} in {{}}", "name the folder of the clips")
    for every in options.every:
        if every < 1:
            raise FaceflaxError("every", every, "is not a frame count", "give 1 or more")
    if options.max_frames is not None and options.max_frames < 1:
        raise FaceflaxError("max_frames", options.max_frames, "is not a frame count", "give 1 or more")
    if options.output:
        files.writable_file("output", options.output)

    import numpy as np
    from tqdm import tqdm

    from faceflax.faces.choosing import make_detector
    from faceflax.faces.finding import FaceFinder
    from faceflax.faces.haar import HaarDetector
    from faceflax.media.sources import open_source
    from faceflax.opencv import cv2

    cv2.setNumThreads(1)
    clips = {}
    for name in TRUTH:
        frames = [frame.image for frame in open_source(str(options.clips / name)).frames][: options.max_frames]
        clips[name] = frames, truth(name, len(frames))
    ways: dict[str, Callable[[], Callable[[np.ndarray], Iterable[Any]]]] = {"Haar, every frame": HaarDetector}
    detector = make_detector(options.detector, video=True)
    for every in options.every:
        ways[f"followed, 1 in {every}"] = partial(FaceFinder, detector, full_search_every=every)
    head = ["whole frame searched", *(Path(name).stem for name in TRUTH), "found", "false boxes", "tracks", "ms median"]
    lines = [" | ".join([*head, "ms 95%"]), " | ".join(["---"] * (len(head) + 1))]
    first = 0
    for label, make in tqdm(ways.items(), unit="way", disable=None):
        runs = [follow(make(), *clip) for clip in clips.values()]
        found, false, tracks = (sum(getattr(run, name) for run in runs) for name in ("found", "false", "tracks"))
        first = first or found
        milliseconds = 1e3 * np.concatenate([run.seconds for run in runs])
        counts = [f"{run.found} of {run.faces}" if run.faces else f"{run.false} false" for run in runs]
        times = [f"{value:.1f}" for value in np.percentile(milliseconds, [50, 95])]
        number = str(tracks) if make is not HaarDetector else "-"
        lines.append(" | ".join([label, *counts, f"{found} ({found / first:.3f})", str(false), number, *times]))
    table = "\n".join(f"| {line} |" for line in lines)
    print(table)
    if options.output:
        files.write(options.output, table + "\n")


@dataclass(frozen=True)
class Run:
    """What was found in a clip.

    Attributes:
        faces: how many there are in all frames.
        found: how many of them were found.
        false: boxes that are none of them.
        tracks: how many ids the boxes had.
        seconds: of the processor, for each frame.
    """

    faces: int
    found: int
    false: int
    tracks: int
    seconds: Sequence[float]


def follow(
    find: Callable[[np.ndarray], Iterable[Any]], frames: Sequence[np.ndarray], boxes: Sequence[np.ndarray]
) -> Run:
    """Finds the faces of a clip's frames, one after the other, and compares them with the true ``boxes``."""
    import numpy as np

    from faceflax.faces.detection import iou

    found, false, ids, seconds = 0, 0, set(), []
    for frame, true in zip(frames, boxes, strict=True):
        start = time.process_time()
        faces = list(find(frame))
        seconds.append(time.process_time() - start)
        ids |= {getattr(face, "id", 0) for face in faces}
        overlap = iou(true, np.array([getattr(face, "box", face) for face in faces], np.float64).reshape(-1, 4))
        hits = int((overlap >= 0.4).any(axis=1).sum())
        found, false = found + hits, false + len(faces) - hits
    return Run(sum(map(len, boxes)), found, false, len(ids), seconds)


def truth(name: str, count: int) -> list[np.ndarray]:
    """Returns the true boxes ``[faces, 4]`` of each of a clip's frames."""
    import numpy as np

    known = TRUTH[name]
    if not known:
        return [np.empty((0, 4))] * count
    frames = np.arange(count)
    left, top, side = (np.interp(frames, list(known), column) for column in zip(*known.values(), strict=True))
    boxes = np.stack([left, top, side, side], axis=1)[:, None]
    return [box if frame <= max(known) else box[:0] for frame, box in enumerate(boxes)]


if __name__ == "__main__":
    run(main, Options)
