"""fer, a package for perceived emotion with OpenCV's Haar detector: ``pip install fer``, which brings TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import numpy as np
from fer.fer import FER

from experiments.benchmarks import shared


def live(video: str | None) -> Callable[[], np.ndarray]:
    """How many faces there are in the next frame, and their emotions, as its documentation begins."""
    detector, frames = FER(), cycle(shared.video_frames(video))
    return lambda: np.asarray(len(detector.detect_emotions(next(frames))))


def found(video: str | None) -> Callable[[], np.ndarray]:
    """In how many frames there is a face."""
    detector = FER()
    number = sum(len(detector.detect_emotions(frame)) > 0 for frame in shared.video_frames(video))
    return lambda: np.asarray(number)
