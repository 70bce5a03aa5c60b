"""The faces of a video: the whole frame is searched at intervals, known faces are followed in between."""

from __future__ import annotations

import numpy as np

from faceflax.errors import FaceflaxError
from faceflax.faces.choosing import make_detector
from faceflax.faces.detection import (
    Detection,
    Detector,
    FollowingDetector,
    ProposingDetector,
    boxes_of,
    non_max_suppression,
    search,
)
from faceflax.faces.frame import Frame, Image, as_frame
from faceflax.faces.tracking import Track, Tracker

SEARCH_EVERY, SEARCH_EVERY_PROPOSING = 5, 25
"""In one of how many frames the whole frame is searched, by a network and by the far slower Haar."""
_SAMPLES = 45
"""Two frames are compared in this many rows or columns of pixels, whichever are fewer."""
_CUT = 25
"""Mean absolute difference of their green channels, in [0, 255], above which a new scene begins."""


class FaceFinder:
    """Finds and follows the faces of frames that come one after the other.

    The whole frame is searched at intervals and where a new scene begins. Each face found there is examined closely and
    kept if that gives the detector's ``min_score`` too; known faces are looked for only where they should be, where
    a lower score will do. A face is shown once it was seen in two frames, or at once with a high score. A detector that
    cannot follow searches every frame.

    Args:
        detector: finds the faces; :func:`~faceflax.faces.make_detector` for videos if not given.
        full_search_every: in one of how many frames the whole frame is searched; 1 is every frame. If not given 5, or
            25 with Haar, whose search takes much longer.
        tracker: numbers the faces; a new :class:`~faceflax.faces.tracking.Tracker` if not given.

    Raises:
        FaceflaxError: an argument out of its range.

    Example:
        >>> from faceflax.media.demo import video
        >>> finder = FaceFinder()
        >>> [[track.id for track in finder(frame)] for frame, _ in zip(video(), range(3))]
        [[0], [0], [0]]
    """

    def __init__(
        self, detector: Detector | None = None, full_search_every: int | None = None, tracker: Tracker | None = None
    ) -> None:
        self.detector = make_detector(video=True) if detector is None else detector
        if full_search_every is None:
            proposing = isinstance(self.detector, ProposingDetector)
            full_search_every = SEARCH_EVERY_PROPOSING if proposing else SEARCH_EVERY
        if full_search_every < 1:
            raise FaceflaxError("full_search_every", full_search_every, "is not a number of frames", "give 1 or more")
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
        expected = self.tracker.predict()
        searching = cut or self._until_search == 0
        if searching:
            self._until_search = self.full_search_every
        self._until_search -= 1
        seen, new, min_score = self._find(frame, expected, searching)
        height, width = frame.shape[:2]
        self.tracker.update(seen, new, height, width, cut, min_score=min_score, grey=frame.grey)
        return self.tracker.tracks()

    def _find(
        self, frame: Frame, expected: list[Detection], searching: bool
    ) -> tuple[list[Detection], list[Detection], float]:
        """The expected faces that are there, the others, and which score is sufficient."""
        detector = self.detector
        if not isinstance(detector, FollowingDetector):
            return [], search(detector, frame), 0.0
        seen = [face for face in detector.follow(frame, expected) if face]
        if not searching:
            return seen, [], detector.min_score
        proposing = detector if isinstance(detector, ProposingDetector) else None
        proposed = proposing.propose(frame, seen) if proposing else search(detector, frame)
        kept = non_max_suppression(boxes_of([*seen, *proposed]))
        elsewhere = [proposed[i - len(seen)] for i in kept if i >= len(seen)]
        looks = detector.follow(frame, elsewhere)
        new = [face for face in looks if face and face.score >= detector.min_score]
        return seen, new, detector.min_score

    def _new_scene(self, frame: Frame) -> bool:
        step = max(1, min(frame.shape[:2]) // _SAMPLES)
        before, self._sample = self._sample, frame.image[::step, ::step, 1].astype(np.int16)
        return before is not None and bool(np.abs(self._sample - before).mean() > _CUT)
