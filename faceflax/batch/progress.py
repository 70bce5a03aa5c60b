"""How far an analysis is, and how long the rest will take."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

from tqdm import tqdm

COUNTERS = 6
"""How many numbers a :class:`Progress` counts with."""

_DONE, _TOTAL, _SECONDS = 0, 2, 4  # each of images, then of frames


class Progress:
    """Counts what was analysed, of how much, and how long it took: of images and of videos' frames, which differ.

    Args:
        counters: :data:`COUNTERS` zeros, which processes may share.
        lock: held while they change.
        shown: whether a terminal gets to see it.
    """

    def __init__(
        self, counters: Any = None, lock: AbstractContextManager[Any] | None = None, *, shown: bool = True
    ) -> None:
        self.shown = shown
        self._counters: Any = [0.0] * COUNTERS if counters is None else counters
        self._lock = threading.Lock() if lock is None else lock
        self._planned: dict[str, int] = {}
        self._seen = [0.0] * COUNTERS

    def plan(self, images: int, frames: int) -> None:
        """Adds to what there is to do."""
        self._add(_TOTAL, images)
        self._add(_TOTAL + 1, frames)

    def add(self, kind: Literal["image", "video"], count: int, seconds: float) -> None:
        """Counts images or frames that were done, and the time that they took."""
        moving = int(kind == "video")
        self._add(_DONE + moving, count)
        self._add(_SECONDS + moving, seconds)

    def opened(self, name: str, planned: int | None, expected: int | None) -> None:
        """Counts the frames of a video that could not be counted before it was opened.

        Args:
            name: the video's.
            planned: how many frames of it are counted already; None if it is not.
            expected: how many it announces, if it does.
        """
        if planned is None:
            planned = expected or 0
            self._add(_TOTAL + 1, planned)
        self._planned[name] = planned

    def ended(self, name: str, frames: int) -> None:
        """Puts the number of frames that a video really had in place of the one that it announced."""
        self._add(_TOTAL + 1, frames - self._planned.pop(name, frames))

    def mirror(self, other: Progress) -> None:
        """Takes over what another one has done, and by how much its total has changed.

        Args:
            other: counts from zero on.
        """
        with self._lock, other._lock:
            for place in range(COUNTERS):
                change = other._counters[place] - self._seen[place]
                self._counters[place] += change
                self._seen[place] += change

    @property
    def done(self) -> int:
        """How many images and frames were analysed."""
        return int(self._counters[_DONE] + self._counters[_DONE + 1])

    @property
    def total(self) -> int:
        """How many there are, as far as is known."""
        return max(self.done, int(self._counters[_TOTAL] + self._counters[_TOTAL + 1]))

    def left(self, workers: int = 1) -> float | None:
        """Returns how many seconds the rest takes at the rates so far; None before there are any.

        Example:
            >>> progress = Progress()
            >>> progress.plan(images=10, frames=100)
            >>> progress.add("image", 5, seconds=10.0)
            >>> progress.add("video", 50, seconds=1.0)
            >>> progress.left()
            11.0
        """
        rates = [self._counters[_SECONDS + i] / (self._counters[_DONE + i] or 1) for i in (0, 1)]
        known = [rate for rate in rates if rate > 0]
        if not known:
            return None
        rest = [max(0.0, self._counters[_TOTAL + i] - self._counters[_DONE + i]) for i in (0, 1)]
        return sum(count * (rate or max(known)) for count, rate in zip(rest, rates, strict=True)) / workers

    def _add(self, place: int, value: float) -> None:
        with self._lock:
            self._counters[place] += value


@contextmanager
def bar(progress: Progress, workers: int) -> Iterator[Callable[[], None]]:
    """Shows the progress on a line of the terminal; yields what draws it anew."""
    shape = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} frames [{elapsed}{postfix}]"
    with tqdm(total=max(progress.total, 1), bar_format=shape, disable=not progress.shown) as line:

        def show() -> None:
            left = progress.left(workers)
            if left is not None:
                line.set_postfix_str(f"{tqdm.format_interval(left)} left", refresh=False)
            line.total = max(progress.total, 1)
            line.update(progress.done - line.n)

        yield show
        show()


def counting(items: Sequence[Any], *, shown: bool = True) -> tqdm[Any]:
    """Returns the items, with a bar for the time that looking at each takes if that is long."""
    return tqdm(items, desc="counting frames", unit="video", delay=2, leave=False, disable=not shown)
