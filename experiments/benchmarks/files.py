"""Files from end to end: photographs of 12 megapixels and a video of 640x360, made of the demo's.

``python -m experiments.benchmarks.files FOLDER`` makes them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from faceflax.batch.analysis import Analyzers, Reading, results_of, tasks_of
from faceflax.batch.inputs import find_inputs
from faceflax.faces import FaceAnalyzer, VideoAnalyzer
from faceflax.media import demo
from faceflax.media.images import encode
from faceflax.media.sources import open_source
from faceflax.media.writing import VideoFile

PHOTOGRAPHS = 8
"""Photographs of which each has other pixels: what is read again and again would come out of a cache."""

Run = Callable[[], np.ndarray]

_SIZE = (4000, 3000)
_SPAN = 400  # pixels that the face is moved by at most


def make(folder: Path, copies: int) -> None:
    """Writes ``few/`` with the photographs, ``many/`` with that many links to each, and ``video.mp4``."""
    picture = demo.photograph()
    scale = max((side + _SPAN) / have for side, have in zip(_SIZE, picture.shape[1::-1], strict=True))
    large = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    for name in ("few", "many"):
        (folder / name).mkdir()
    for number in range(PHOTOGRAPHS):
        start = number * _SPAN // PHOTOGRAPHS
        file = folder / f"few/{number}.jpg"
        file.write_bytes(encode(large[start : start + _SIZE[1], start : start + _SIZE[0]], ".jpg"))
        for copy in range(copies):
            (folder / f"many/{copy:03}{number}.jpg").hardlink_to(file)
    with closing(VideoFile(folder / "video.mp4", demo.FPS)) as video:
        for frame in open_source("demo").frames:
            video.write(frame, frame.image)


def photographs(folder: str) -> Run:
    """How many faces the photographs show, read as ``faceflax analyze`` reads them."""
    return _analysis(folder, Reading(longest=1600))


def photographs_whole(folder: str) -> Run:
    """How many faces the photographs show, each read whole with OpenCV and analysed before the next."""
    analyzer = FaceAnalyzer(preset="fast")
    files = sorted(Path(folder).iterdir())

    def run() -> np.ndarray:
        faces = 0
        for file in files:
            image = cv2.imread(str(file))
            assert image is not None
            faces += len(analyzer(image))
        return np.asarray(faces)

    return run


def video(file: str) -> Run:
    """How many faces a video's frames show, decoded while the frames before are analysed."""
    return _analysis(file, Reading())


def video_in_turn(file: str) -> Run:
    """How many faces a video's frames show, each decoded with OpenCV and analysed before the next."""
    images = FaceAnalyzer(preset="fast")

    def run() -> np.ndarray:
        analyzer, capture, faces = VideoAnalyzer(images), cv2.VideoCapture(file), 0
        while True:
            read, frame = capture.read()
            if not read:
                return np.asarray(faces)
            faces += len(analyzer(frame))

    return run


def _analysis(path: str, reading: Reading) -> Run:
    images = FaceAnalyzer(preset="fast")
    analyzers = Analyzers(images.analyze_batch, partial(VideoAnalyzer, images))
    tasks = tasks_of(find_inputs([path])[0])
    return lambda: np.asarray(sum(len(rows) for rows, _ in results_of(tasks, analyzers, reading)))


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]))
