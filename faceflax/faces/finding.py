"""The faces of a video: the whole frame is searched at intervals, known faces are followed in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from faceflax.errors import FaceflaxError
from faceflax.faces.detection import Detection, Detector, boxes_of, clip_to_frame, non_max_suppression
from faceflax.faces.frame import Frame, Image, as_frame
from faceflax.faces.haar import HaarDetector
from faceflax.faces.tracking import Track, Tracker

_SAMPLES = 45
"""Two frames are compared in this many rows or columns of pixels, whichever are fewer."""
_CUT = 25
"""Mean absolute difference of their green channels, in [0, 255], above which a new scene begins."""


class FaceFinder:
    """Finds and follows the faces of frames that come one after the other.

    The whole frame is searched at intervals and where a new scene begins. Each face found there is examined closely and
    kept if that detection is confident; known faces are looked for only where they should be. A face is shown once it
    was seen in two frames.

    Args:
        detector: finds the faces; :func:`video_detector` if not given.
        full_search_every: in one of how many frames the whole frame is searched; 1 is every frame.
        tracker: numbers the faces; a new :class:`~faceflax.faces.tracking.Tracker` if not given.

    Raises:
        FaceflaxError: an argument out of its range.

    Example:
        >>> from faceflax.media.demo import video
        >>> finder = FaceFinder()
        >>> [[track.id for track in finder(frame)] for frame, _ in zip(video(), range(3))]
        [[], [0], [0]]
    """

    def __init__(
        self, detector: Detector | None = None, full_search_every: int = 25, tracker: Tracker | None = None
    ) -> None:
        if full_search_every < 1:
            raise FaceflaxError("full_search_every", full_search_every, "is not a number of frames", "give 1 or more")
        self.detector = video_detector() if detector is None else detector
        self.full_search_every = full_search_every
        self.tracker = Tracker() if tracker is None else tracker
        self.reset()

    def reset(self) -> None:
        """Forgets all faces, for another video. Their numbers are not given again."""
        self.tracker.reset()
        self._until_search = 0
        self._shape: tuple[int, ...] = ()
        self._sample: np.ndarray | None = None

    def __call__(self, frame: Image) -> list[Track]:
        """Returns the faces of the next frame, the one known longest first.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.

        Raises:
            FaceflaxError: ``frame`` is not such an array.
        """
        frame = as_frame(frame)
        if frame.shape != self._shape:  # another camera or mode, whose pixels are other places
            self.reset()
            self._shape = frame.shape
        cut = self._new_scene(frame)
        seen = [face for face in self.detector.follow(frame, self.tracker.predict()) if face]
        new: list[Detection] = []
        if cut or self._until_search == 0:
            self._until_search = self.full_search_every
            proposed = [Detection(box.astype(np.float64)) for box in self.detector(_unknown(frame, seen))]
            kept = non_max_suppression(boxes_of([*seen, *proposed]))
            elsewhere = [proposed[i - len(seen)] for i in kept if i >= len(seen)]
            new = [face for face in self.detector.follow(frame, elsewhere) if face and face.confident]
        self._until_search -= 1
        height, width = frame.shape[:2]
        self.tracker.update(seen, new, height, width, cut)
        return self.tracker.tracks()

    def _new_scene(self, frame: Frame) -> bool:
        step = max(1, min(frame.shape[:2]) // _SAMPLES)
        before, self._sample = self._sample, frame.image[::step, ::step, 1].astype(np.int16)
        return before is not None and bool(np.abs(self._sample - before).mean() > _CUT)


def _unknown(frame: Frame, faces: Sequence[Detection]) -> Frame:
    """The frame without known faces, so that no time is spent on them: a quarter of a search, for one large face."""
    return frame.masked(clip_to_frame(boxes_of(faces), *frame.shape[:2])) if faces else frame


def video_detector(equalization: Literal["histogram", "clahe"] = "histogram") -> HaarDetector:
    """Returns a Haar detector that searches more coarsely and proposes more than for single images.

    :class:`FaceFinder` examines each proposal closely.

    Args:
        equalization: as for :class:`~faceflax.faces.haar.HaarDetector`.

    Raises:
        FaceflaxError: an unknown ``equalization``, or an OpenCV without the cascade.
    """
    return HaarDetector(1.25, min_neighbors=0, min_confidence=-np.inf, max_side=480, equalization=equalization)
