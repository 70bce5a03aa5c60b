"""From the frames of a video to its faces, each followed from frame to frame, with labels averaged over time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from faceflax.errors import FaceflaxError
from faceflax.faces.analyzer import FaceAnalyzer
from faceflax.faces.detection import Detection, Detector
from faceflax.faces.face import Face
from faceflax.faces.finding import FaceFinder
from faceflax.faces.frame import Image, as_frame
from faceflax.faces.tracking import Track, Tracker

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float32

LEAD = 0.05
"""By how much the probability of another label leads that of the one shown before it takes its place."""


@runtime_checkable
class TwoStageAnalyzer(Protocol):
    """An analyzer of consecutive frames whose two halves can work on different frames at the same time.

    :class:`VideoAnalyzer` is one. Each half is called in the frames' order, by one thread at a time.
    """

    def locate(self, frame: Image) -> Any:
        """Finds the faces of the next frame."""
        ...

    def read_batch(self, frames: Sequence[Image], located: Sequence[Any]) -> Sequence[Sequence[Face]]:
        """Labels what :meth:`locate` found in each of ``frames``."""
        ...


class VideoAnalyzer:
    """A :class:`~faceflax.FaceAnalyzer` for frames that come one after the other.

    Faces are followed (:class:`~faceflax.faces.finding.FaceFinder`), each has its ``track_id``, and its probabilities
    are averaged over its last frames. A label that is shown stays until the average of another leads its own by
    :data:`LEAD`, so that labels do not flicker. (With ``smoothing=0`` each frame is labelled by itself.)

    It is one video's: its frames belong to each other, so make one for each video; they may share a
    :class:`~faceflax.FaceAnalyzer` and a detector.
    ``analyzer(frame)`` is ``analyzer.read(frame, analyzer.locate(frame))``. A pipeline may call :meth:`locate` in one
    thread and :meth:`read` in another, each in the frames' order, and leave out any frame on the way. Hand both the
    same :class:`~faceflax.faces.frame.Frame`, and its grey image is computed once.

    Args:
        analyzer: labels the faces; a new :class:`~faceflax.FaceAnalyzer` with the preset ``fast`` if not given.
        detector: finds them; :func:`~faceflax.faces.make_detector` for videos if not given.
        full_search_every: the whole frame is searched in one of this many frames; as
            :class:`~faceflax.faces.finding.FaceFinder` has it if not given.
        smoothing: what share of a face's average probabilities is kept from frame to frame, in [0, 1).
        tracker: numbers the faces; a new :class:`~faceflax.faces.tracking.Tracker` if not given.

    Raises:
        FaceflaxError: an argument out of its range.

    Example:
        >>> from faceflax.media.demo import video
        >>> analyzer = VideoAnalyzer()
        >>> [[face.track_id for face in analyzer(frame)] for frame, _ in zip(video(), range(3))]
        [[0], [0], [0]]
    """

    def __init__(
        self,
        analyzer: FaceAnalyzer | None = None,
        *,
        detector: Detector | None = None,
        full_search_every: int | None = None,
        smoothing: float = 0.9,
        tracker: Tracker | None = None,
    ) -> None:
        if not 0 <= smoothing < 1:
            raise FaceflaxError("smoothing", smoothing, "is not from 0 up to, but not including, 1")
        self.finder = FaceFinder(detector, full_search_every, tracker)
        self.smoothing = smoothing
        self.analyzer = FaceAnalyzer(preset="fast") if analyzer is None else analyzer
        self._averages: dict[int, _Average] = {}
        self._reads = 0
        self._locating, self._reading = threading.Lock(), threading.Lock()

    def reset(self) -> None:
        """Forgets all faces, for another video. Their numbers are not given again."""
        self.finder.reset()
        self._averages = {}

    def locate(self, frame: Image) -> list[Track]:
        """Finds the faces of the next frame.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.

        Raises:
            FaceflaxError: ``frame`` is not such an array, or another thread is in the midst of locating.
        """
        with _alone(self._locating):
            return self.finder(frame)

    def read(self, frame: Image, located: Sequence[Track]) -> list[Face]:
        """Labels the faces that :meth:`locate` found in ``frame``; one that is not seen in it keeps its labels.

        Raises:
            FaceflaxError: ``frame`` is not uint8 ``[height, width, 3]``, or another thread is in the midst of reading.
        """
        return self.read_batch([frame], [located])[0]

    def read_batch(self, frames: Sequence[Image], located: Sequence[Sequence[Track]]) -> list[list[Face]]:
        """Like :meth:`read`, for several frames, whose faces go through the networks together.

        Args:
            frames: consecutive frames, uint8 ``[height, width, 3]`` BGR each.
            located: what :meth:`locate` found in each.

        Raises:
            FaceflaxError: a frame is not such an array, or another thread is in the midst of reading.
        """
        with _alone(self._reading):
            return self._read_batch(frames, located)

    def _read_batch(self, frames: Sequence[Image], located: Sequence[Sequence[Track]]) -> list[list[Face]]:
        known, fresh = set(self._averages), []
        for tracks in located:
            fresh.append([track for track in tracks if track.seen or track.id not in known])
            known.update(track.id for track in tracks)
        labelled = self.analyzer.label_batch(frames, [[_detection(track) for track in tracks] for tracks in fresh])
        read = [
            dict(zip([track.id for track in tracks], faces, strict=True))
            for tracks, faces in zip(fresh, labelled, strict=True)
        ]
        return [self._average(*each) for each in zip(located, read, strict=True)]

    def _average(self, located: Sequence[Track], read: Mapping[int, Face]) -> list[Face]:
        """The faces of the next frame, of which those that the networks have ``read`` change their averages."""
        self._reads += 1
        averages = self._averages
        for number, face in read.items():
            probabilities = [face.emotion_probabilities, face.gender_probabilities]
            if face.task_probabilities is not None:
                probabilities.append(face.task_probabilities)
            averages.setdefault(number, _Average()).add(probabilities, self.smoothing)
        for track in located:
            averages[track.id].last = self._reads
        oldest = self._reads - self.finder.tracker.memory
        self._averages = {number: average for number, average in averages.items() if average.last >= oldest}
        faces = []
        for track in located:
            crops = read[track.id].crops if track.id in read else {}
            average = averages[track.id]
            made = self.analyzer.make_face(_detection(track), average.values, crops, track.id, average.labels)
            faces.append(made)
        return faces

    def __call__(self, frame: Image) -> list[Face]:
        """Returns the faces of the next frame, the one known longest first.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.

        Raises:
            FaceflaxError: ``frame`` is not such an array.
        """
        frame = as_frame(frame)
        return self.read(frame, self.locate(frame))


def _detection(track: Track) -> Detection:
    return Detection(np.array(track.box, np.float64), track.score, track.landmarks)


@contextmanager
def _alone(lock: threading.Lock) -> Iterator[None]:
    """Refuses what another thread is doing already."""
    if not lock.acquire(blocking=False):
        problem = "is in use by another thread, and it is one video's"
        raise FaceflaxError("VideoAnalyzer", None, problem, "make one for each video; FaceAnalyzer may be shared")
    try:
        yield
    finally:
        lock.release()


class _Average:
    """The mean of a face's probabilities: of all so far while they are few, exponential from then on.

    Its labels are the most probable ones, but the one shown stays until another leads it by :data:`LEAD`.
    """

    def __init__(self) -> None:
        self.values: list[Float32[np.ndarray, " classes"]] = []
        self.labels: list[int] = []
        self.count = 0
        self.last = 0

    def add(self, now: Sequence[Float32[np.ndarray, " classes"]], smoothing: float) -> None:
        self.count += 1
        rate = np.float32(max(1 - smoothing, 1 / self.count))
        self.values = [old + rate * (new - old) for old, new in zip(self.values or now, now, strict=True)]
        best = [int(values.argmax()) for values in self.values]
        lead = LEAD if smoothing else 0
        self.labels = [
            first if values[first] > values[shown] + lead else shown
            for values, first, shown in zip(self.values, best, self.labels or best, strict=True)
        ]
