"""Stages that work at the same time: each in a thread of its own, with short queues between them."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")

READER_SECONDS = 3.0  # a camera's driver can hold its thread for long; whoever stops does not wait for it


class Ended(Exception):
    """No more items will come, or be taken."""


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class _Channel(Generic[T]):
    """A bounded queue between two threads.

    Args:
        capacity: how many items it holds.
        drop: when full, forget the oldest item instead of making the sender wait.
    """

    def __init__(self, capacity: int, drop: bool) -> None:
        self.dropped = 0
        self._items: deque[T | _Failure] = deque()
        self._capacity = capacity
        self._drop = drop
        self._ended = False  # nothing more comes; what is there can still be had
        self._cancelled = False  # nobody wants more
        self._changed = threading.Condition()

    def put(self, item: T | _Failure) -> None:
        """Adds an item; raises :class:`Ended` once cancelled."""
        with self._changed:
            if self._drop and len(self._items) >= self._capacity:
                self._items.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: len(self._items) < self._capacity or self._cancelled)
            if self._cancelled:
                raise Ended
            self._items.append(item)
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> T | _Failure | None:
        """Takes the oldest item, or None if there is none in time; raises :class:`Ended` when no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended or self._cancelled, timeout)
            if self._cancelled or (self._ended and not self._items):
                raise Ended
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def cancel(self) -> None:
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()


class Pipeline(Generic[T]):
    """Items on their way through stages; made by :func:`pipeline`."""

    def __init__(self, channels: Sequence[_Channel[T]]) -> None:
        self._channels = channels

    @property
    def dropped(self) -> int:
        """How many items were dropped so far."""
        return sum(channel.dropped for channel in self._channels)

    def get(self, timeout: float | None = None) -> T | None:
        """Takes the next item that has passed all stages, or None if there is none within ``timeout`` seconds.

        Raises:
            Ended: all items are through.
            BaseException: what a stage raised, once every item before that has been taken.
        """
        item = self._channels[-1].get(timeout)
        if isinstance(item, _Failure):
            raise item.error
        return item

    def __iter__(self) -> Iterator[T]:
        while True:
            try:
                item = self.get()
            except Ended:
                return
            assert item is not None  # without a timeout
            yield item


@contextmanager
def pipeline(
    items: Iterable[T], stages: Sequence[Callable[[T], T]], *, capacity: int = 2, drop: bool = False
) -> Iterator[Pipeline[T]]:
    """Sends each of ``items`` through ``stages``, in order, while the ones before it are still on their way.

    Every stage and the reading of ``items`` has a thread of its own, so that work which lets go of Python's lock
    (OpenCV, compiled programs, files) overlaps. At the end of the block everything stops: each stage finishes the item
    in its hands, the others are forgotten.

    Args:
        items: read in a thread, and closed there if it is a generator.
        stages: each takes an item and returns it, changed or not; called in the order of the items.
        capacity: how many items may wait before each stage.
        drop: where items wait already, forget the oldest of them rather than holding up who comes after. Items that
            have passed all stages are never dropped.

    Example:
        >>> with pipeline(range(5), [lambda x: x + 1, lambda x: 10 * x]) as through:
        ...     list(through)
        [10, 20, 30, 40, 50]
    """
    channels: list[_Channel[T]] = [*(_Channel(capacity, drop) for _ in stages), _Channel(capacity, drop=False)]

    def read() -> None:
        try:
            for item in items:
                channels[0].put(item)
        finally:
            if isinstance(items, Generator):
                items.close()

    def work(stage: Callable[[T], T], before: _Channel[T], after: _Channel[T]) -> None:
        while True:
            item = before.get()
            assert item is not None  # without a timeout
            after.put(item if isinstance(item, _Failure) else stage(item))

    def guarded(job: Callable[[], None], before: _Channel[T] | None, after: _Channel[T]) -> None:
        try:
            job()
        except Ended:
            pass
        except BaseException as error:
            with suppress(Ended):
                after.put(_Failure(error))
        finally:
            after.end()
            if before is not None:
                before.cancel()

    jobs: list[tuple[Callable[[], None], _Channel[T] | None, _Channel[T]]] = [(read, None, channels[0])]
    for stage, before, after in zip(stages, channels[:-1], channels[1:], strict=True):
        jobs.append((partial(work, stage, before, after), before, after))
    threads = [threading.Thread(target=guarded, args=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield Pipeline(channels)
    finally:
        for channel in channels:
            channel.cancel()
        for thread in threads[1:]:
            thread.join()
        threads[0].join(READER_SECONDS)


class Interrupt(threading.Event):
    """Set when the process was asked to end.

    Attributes:
        signal: which signal did it, the last one.
    """

    signal: int | None = None

    def handle(self, number: int, _: object) -> None:
        """What the signals call."""
        self.signal = number
        self.set()


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Turns Ctrl-C, a request to terminate and the terminal's end into an event for the time of the block.

    So nothing is cut off halfway.

    Outside the main thread, and where somebody else handles them already, they stay what they are.
    """
    asked = Interrupt()
    usual: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if hasattr(signal, "SIGHUP"):  # the terminal has gone; Windows has none
        usual[signal.SIGHUP] = signal.SIG_DFL
    here = threading.current_thread() is threading.main_thread()
    taken = [number for number, handler in usual.items() if here and signal.getsignal(number) == handler]
    for number in taken:
        signal.signal(number, asked.handle)
    try:
        yield asked
    finally:
        for number in taken:
            signal.signal(number, usual[number])
