"""From the frames of a film to its faces, each followed from frame to frame and labelled steadily."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32, UInt8

from faceflax.errors import FaceflaxError
from faceflax.faces.analyzer import FaceAnalyzer, check_frame, make_face
from faceflax.faces.detection import Detector
from faceflax.faces.face import Face
from faceflax.faces.finding import FaceFinder
from faceflax.faces.tracking import Track, Tracker

Frame = UInt8[np.ndarray, "height width 3"]


class VideoAnalyzer:
    """A :class:`~faceflax.FaceAnalyzer` for frames that come one after the other.

    Faces are followed (:class:`~faceflax.faces.finding.FaceFinder`), each has its ``track_id``, and its labels are of
    probabilities averaged over its last frames, so that they do not flicker.

    ``analyzer(frame)`` is ``analyzer.read(frame, analyzer.locate(frame))``. A pipeline may call :meth:`locate` in one
    thread and :meth:`read` in another, each in the frames' order, and leave out any frame on the way.

    Args:
        analyzer: reads the faces; a new :class:`~faceflax.FaceAnalyzer` if not given.
        detector: finds them; Haar, set for films, if not given.
        full_search_every: in one of how many frames the whole frame is searched; 1 is every frame.
        smoothing: how much of a face's average probabilities is kept from frame to frame, in [0, 1).
        tracker: numbers the faces; a new :class:`~faceflax.faces.tracking.Tracker` if not given.

    Raises:
        FaceflaxError: an argument out of its range.

    Example:
        >>> from faceflax.media.demo import video
        >>> analyzer = VideoAnalyzer()
        >>> [[face.track_id for face in analyzer(frame)] for frame, _ in zip(video(), range(3))]
        [[], [0], [0]]
    """

    def __init__(
        self,
        analyzer: FaceAnalyzer | None = None,
        *,
        detector: Detector | None = None,
        full_search_every: int = 25,
        smoothing: float = 0.9,
        tracker: Tracker | None = None,
    ) -> None:
        if not 0 <= smoothing < 1:
            raise FaceflaxError(f"smoothing: {smoothing} is not from 0 up to, but not including, 1")
        self.finder = FaceFinder(detector, full_search_every, tracker)
        self.smoothing = smoothing
        self.analyzer = FaceAnalyzer() if analyzer is None else analyzer
        self._averages: dict[int, _Average] = {}
        self._reads = 0

    def reset(self) -> None:
        """Forgets all faces, for another film. Their numbers are not given again."""
        self.finder.reset()
        self._averages = {}

    def locate(self, frame: Frame) -> list[Track]:
        """Finds the faces of the next frame.

        Raises:
            FaceflaxError: ``frame`` is not uint8 ``[height, width, 3]``.
        """
        check_frame(frame)
        return self.finder(frame)

    def read(self, frame: Frame, located: Sequence[Track]) -> list[Face]:
        """Labels the faces that :meth:`locate` found in ``frame``; one that is not seen in it keeps its labels.

        Raises:
            FaceflaxError: ``frame`` is not uint8 ``[height, width, 3]``.
        """
        return self.read_batch([frame], [located])[0]

    def read_batch(self, frames: Sequence[Frame], located: Sequence[Sequence[Track]]) -> list[list[Face]]:
        """Like :meth:`read`, for several frames, whose faces go through the networks together.

        Args:
            frames: that came one after the other.
            located: what :meth:`locate` found in each.

        Raises:
            FaceflaxError: a frame is not uint8 ``[height, width, 3]``.
        """
        known, fresh = set(self._averages), []
        for tracks in located:
            fresh.append([track for track in tracks if track.seen or track.id not in known])
            known.update(track.id for track in tracks)
        boxes = [np.array([track.box for track in tracks]).reshape(-1, 4) for tracks in fresh]
        answers = zip(*self.analyzer.probabilities_batch(frames, boxes), strict=True)
        return [self._average(*tracks, answers) for tracks in zip(located, fresh, strict=True)]

    def _average(
        self, located: Sequence[Track], fresh: Sequence[Track], answers: Iterator[tuple[np.ndarray, ...]]
    ) -> list[Face]:
        """The faces of the next frame; of ``fresh`` ones the networks' answers come next."""
        self._reads += 1
        averages = self._averages
        for track in fresh:
            averages.setdefault(track.id, _Average()).add(next(answers), self.smoothing)
        for track in located:
            averages[track.id].last = self._reads
        oldest = self._reads - self.finder.tracker.memory
        self._averages = {number: average for number, average in averages.items() if average.last >= oldest}
        faces = [(track, averages[track.id].values) for track in located]
        return [make_face(track.box, emotions, genders, track.id) for track, (emotions, genders) in faces]

    def __call__(self, frame: Frame) -> list[Face]:
        """Returns the faces of the next frame, the one known longest first.

        Raises:
            FaceflaxError: ``frame`` is not uint8 ``[height, width, 3]``.
        """
        return self.read(frame, self.locate(frame))


class _Average:
    """The mean of a face's probabilities: of all so far while they are few, exponential from then on."""

    def __init__(self) -> None:
        self.values: list[Float32[np.ndarray, " classes"]] = []
        self.count = 0
        self.last = 0

    def add(self, now: Sequence[Float32[np.ndarray, " classes"]], smoothing: float) -> None:
        self.count += 1
        rate = np.float32(max(1 - smoothing, 1 / self.count))
        self.values = [old + rate * (new - old) for old, new in zip(self.values or now, now, strict=True)]
