"""What the analyzer says about one face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True, eq=False)
class Face:
    """One face of a frame and its perceived labels.

    Attributes:
        box: x, y, width, height in pixels of the frame.
        emotion: the likeliest of ``faceflax.labels.EMOTIONS``.
        emotion_probabilities: float32 ``[7]`` in the order of ``EMOTIONS``.
        gender: the likelier of ``faceflax.labels.GENDERS``.
        gender_probabilities: float32 ``[2]`` in the order of ``GENDERS``.
        track_id: which face of the frames before this is, where faces are tracked.
    """

    box: tuple[int, int, int, int]
    emotion: str
    emotion_probabilities: Float32[np.ndarray, " 7"]
    gender: str
    gender_probabilities: Float32[np.ndarray, " 2"]
    track_id: int | None = None
