"""The live loop: frames in, faces found, images and rows out, all at the same time.

Capture, detection, the networks, drawing and writing each have a thread (:mod:`faceflax.pipeline`); the window
has the caller's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from faceflax.faces.face import Face
from faceflax.faces.frame import Frame, Image
from faceflax.faces.video import TwoStageAnalyzer
from faceflax.media import outputs
from faceflax.media.drawing import Overlay, draw_faces
from faceflax.media.sources import Source
from faceflax.media.window import Keys, Screen, screen
from faceflax.pipeline import Ended, interrupts, pipeline

_RECENT = 1000  # frames that latency is computed of
_LOG_SECONDS = 60.0

_log = logging.getLogger("faceflax")


@dataclass
class Summary:
    """What a run saw.

    Attributes:
        frames: how many frames were analysed.
        frames_with_face: in how many of them a face was found.
        dropped: how many of a camera's frames were dropped because a stage was busy.
        seconds: from the start to the end.
        latency: median time from a frame's arrival to its result, in seconds, over the last thousand frames.
        latency_95: the 95th percentile of the same.
    """

    frames: int = 0
    frames_with_face: int = 0
    dropped: int = 0
    seconds: float = 0.0
    latency: float = 0.0
    latency_95: float = 0.0


@dataclass
class _Item:
    """A frame on its way."""

    frame: Frame
    arrived: float
    located: Any = None
    faces: Sequence[Face] = ()
    drawn: Image | None = None


class _Statistics:
    """Counts and times of finished frames; :meth:`add` is called in another thread than the rest."""

    def __init__(self) -> None:
        self.frames = self.frames_with_face = 0
        self._start = time.perf_counter()
        self._results: deque[tuple[float, float]] = deque(maxlen=_RECENT)  # when, and how long after the arrival

    def add(self, item: _Item) -> None:
        now = time.perf_counter()
        self.frames += 1
        self.frames_with_face += bool(item.faces)
        self._results.append((now, now - item.arrived))

    def recent(self) -> tuple[float, float]:
        """Frames per second and the median latency in seconds, over the last frames."""
        times, latencies = np.array(list(self._results)[-30:]).T
        return (len(times) - 1) / max(times[-1] - times[0], 1e-9), float(np.median(latencies))

    def summary(self, dropped: int) -> Summary:
        latencies = [latency for _, latency in self._results] or [0.0]
        middle, high = (float(value) for value in np.percentile(latencies, [50, 95]))
        seconds = time.perf_counter() - self._start
        return Summary(self.frames, self.frames_with_face, dropped, seconds, middle, high)


def run(
    source: Source,
    analyzer: TwoStageAnalyzer | Callable[[Image], Sequence[Face]],
    *,
    overlay: Overlay = draw_faces,
    output: Path | None = None,
    csv: Path | None = None,
    jsonl: Path | None = None,
    window: bool = False,
    keys: Keys | None = None,
    snapshots: Path = Path(),
    max_frames: int | None = None,
    progress: bool = True,
) -> Summary:
    """Analyses the frames of ``source`` until they end, the window is closed, or Ctrl-C.

    A camera's frames are dropped where a stage cannot keep up, so that what is shown is never old; a file's never are.
    Results are written under a temporary name beside their place and take their own name at the end, after Ctrl-C too;
    after an error they do so unless an older file is there, which then stays (:func:`faceflax.files.recording`). A
    frame's rows and its annotated image are both written or neither. A video keeps the source's clock: a frame is shown
    until the next one's time, so that a slow camera does not make a fast video.

    In the window, p or space pauses (nothing is analysed or written then), s saves what is shown, q quits.

    Args:
        source: from :func:`faceflax.media.sources.open_source`; closed at the end.
        analyzer: finds the faces of a frame, such as ``faceflax.FaceAnalyzer()``; one in two stages, such as
            ``faceflax.VideoAnalyzer()``, works on two frames at the same time.
        overlay: draws what was found: ``(frame, faces) -> image``, a new one; called in other threads.
        output: where annotated images go, as :func:`faceflax.media.outputs.check_output` says; None writes none.
        csv: the table (.csv), with :data:`faceflax.media.table.COLUMNS`; None writes none.
        jsonl: the same (.jsonl) as a JSON object a face, one per line; None writes none.
        window: show the frames. Call :func:`faceflax.media.window.check_window` first.
        keys: more keys of the window, such as one that switches the overlay.
        snapshots: the folder for images saved with s.
        max_frames: stop after this many frames.
        progress: show a bar on the terminal.

    Raises:
        FaceflaxError: the source holds no frame, or an output cannot be encoded or written. What a stage raises ends
            the run at once, once everything written is closed.
        KeyboardInterrupt: Ctrl-C, once everything written is closed.
    """
    locate, read = _halves(analyzer)
    camera, shown = source.kind == "camera", output is not None or window
    statistics = _Statistics()
    with interrupts() as interrupted, ExitStack() as stack:
        write_faces = [
            stack.enter_context(outputs.rows(file, source.kind)) for file in (csv, jsonl) if file is not None
        ]
        write_image = None if output is None else stack.enter_context(outputs.annotated(source, output))

        def find(item: _Item) -> _Item:
            item.located = locate(item.frame)
            return item

        def label(item: _Item) -> _Item:
            item.faces = read(item.frame, item.located)
            return item

        def draw(item: _Item) -> _Item:
            item.drawn = overlay(item.frame, item.faces)
            return item

        def record(item: _Item) -> _Item:
            if statistics.frames == max_frames:
                raise Ended
            for write in write_faces:
                write(item.frame, item.faces)
            if write_image is not None and item.drawn is not None:
                write_image(item.frame, item.drawn)
            statistics.add(item)
            return item

        stages = [find, label, *([draw] if shown else []), record]
        view = stack.enter_context(screen(source.kind, overlay, keys or {}, snapshots)) if window else None
        stack.enter_context(logging_redirect_tqdm())
        advance = stack.enter_context(_progress(source, max_frames, progress))
        capacity = 1 if camera else 2
        through = stack.enter_context(pipeline(_arrivals(source), stages, capacity=capacity, drop=camera))
        with suppress(Ended):
            while not interrupted.is_set():
                item = through.get(timeout=0.05)
                if item is not None:
                    advance(statistics, through.dropped)
                if view is not None and not _show(view, item, statistics, interrupted):
                    break
    if interrupted.is_set():
        raise KeyboardInterrupt
    return statistics.summary(through.dropped)


def _arrivals(source: Source) -> Iterator[_Item]:
    with closing(source.frames) as frames:
        for frame in frames:
            yield _Item(frame, time.perf_counter())


def _show(view: Screen, item: _Item | None, statistics: _Statistics, stop: threading.Event) -> bool:
    if item is None or item.drawn is None:
        return view.idle()
    fps, latency = statistics.recent()
    return view.show(item.frame, item.faces, item.drawn, f"{fps:.0f} fps   {1000 * latency:.0f} ms", stop)


def _halves(
    analyzer: TwoStageAnalyzer | Callable[[Image], Sequence[Face]],
) -> tuple[Callable[[Frame], Any], Callable[[Frame, Any], Sequence[Face]]]:
    if isinstance(analyzer, TwoStageAnalyzer):
        staged = analyzer
        return staged.locate, lambda frame, located: staged.read_batch([frame], [located])[0]
    return analyzer, lambda frame, faces: faces


@contextmanager
def _progress(source: Source, max_frames: int | None, shown: bool) -> Iterator[Callable[[_Statistics, int], None]]:
    """Yields what shows the statistics on the progress bar, and logs them once a minute."""
    total = source.count if max_frames is None else min(max_frames, source.count or max_frames)
    logged = time.monotonic()
    with tqdm(total=total, unit="frame", disable=not shown or source.kind == "image") as bar:

        def show(statistics: _Statistics, dropped: int) -> None:
            nonlocal logged
            fps, latency = statistics.recent()
            lost = f", {dropped} dropped" if source.kind == "camera" else ""
            bar.set_postfix_str(f"{1000 * latency:.0f} ms{lost}", refresh=False)
            bar.update(statistics.frames - bar.n)
            if time.monotonic() >= logged + _LOG_SECONDS:
                logged = time.monotonic()
                _log.info("%d frames, %.1f a second, latency %.0f ms%s", statistics.frames, fps, 1000 * latency, lost)

        yield show
