"""Several processes analyse inputs for one table, whose rows come in the order of the inputs all the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from faceflax.batch.analysis import Analyzers, Reading, results_of
from faceflax.batch.inputs import Input, Record
from faceflax.batch.progress import COUNTERS, Progress
from faceflax.errors import FaceflaxError, said
from faceflax.media.table import encoder
from faceflax.opencv import cv2

_AHEAD = 3  # tasks a worker has waiting, so that none is idle while an earlier one's rows are due

_Outcome = tuple[Path, list[Record], bool]


class _Worker:
    """What a worker process knows; one for the process."""

    def __init__(
        self,
        make: Callable[[], Analyzers],
        reading: Reading,
        suffix: str,
        folder: Path,
        counters: Any,
        stop: Any,
        threads: int,
    ) -> None:
        for name in ("SIGINT", "SIGHUP"):  # the terminal sends them to all; the first process decides
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        threading.Thread(target=_follow_parent, daemon=True).start()
        cv2.setNumThreads(threads)
        self._make = make
        self._reading = reading
        self._encode = encoder(suffix)
        self._folder = folder
        self._progress = Progress(counters, counters.get_lock())
        self._stop = stop
        self._analyzers: Analyzers | None = None

    def run(self, number: int, task: Sequence[Input]) -> _Outcome:
        if self._analyzers is None:
            self._analyzers = self._make()
        records: list[Record] = []
        path = self._folder / f"{number}"
        results = results_of([task], self._analyzers, self._reading, self._progress)
        with path.open("w", encoding="utf-8", newline="") as file, closing(results):
            for rows, ended in results:
                if self._stop.is_set():
                    return path, records, False
                file.write(self._encode(rows))
                records += ended
        return path, records, True


_worker: _Worker | None = None


def _start(*arguments: Any) -> None:
    global _worker
    _worker = _Worker(*arguments)


def _run(number: int, task: Sequence[Input]) -> _Outcome:
    assert _worker is not None
    return _worker.run(number, task)


def _follow_parent() -> None:
    """Ends this process when the one that started it has gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def analyze_in_workers(
    tasks: Sequence[Sequence[Input]],
    make: Callable[[], Analyzers],
    reading: Reading,
    workers: int,
    suffix: str,
    folder: Path,
    take: Callable[[Path, list[Record]], None],
    stop: Callable[[], bool],
    progress: Progress,
    show: Callable[[], None],
) -> bool:
    """Analyses tasks in several processes; False if it was stopped.

    Args:
        tasks: from :func:`~faceflax.batch.analysis.tasks_of`.
        make: makes the analyzers, in each worker; it and what it returns must not depend on the others.
        reading: how inputs are read.
        workers: how many processes.
        suffix: the format of the rows: ``.csv`` or ``.jsonl``.
        folder: for the rows of tasks whose turn has not come; removed at the end.
        take: gets the file with a task's rows, and its records, in the order of the tasks; it removes the file.
        stop: asked again and again whether to stop.
        progress: is told how far it is.
        show: called again and again.

    Raises:
        FaceflaxError: a worker ended by itself, for lack of memory perhaps; or what ``make`` raises.
    """
    spawn = multiprocessing.get_context("spawn")
    counters = spawn.Array("d", COUNTERS)
    stopping = spawn.Event()
    shared = Progress(counters, counters.get_lock())
    threads = max(1, len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0]) // workers)
    folder.mkdir()
    waiting: deque[Future[_Outcome]] = deque()
    arguments = (make, reading, suffix, folder, counters, stopping, threads)
    try:
        with _threads(threads), ProcessPoolExecutor(workers, spawn, _start, arguments) as pool:
            try:
                following = iter(enumerate(tasks))
                while True:
                    while len(waiting) < _AHEAD * workers and (task := next(following, None)) is not None:
                        waiting.append(pool.submit(_run, *task))
                    if not waiting:
                        return True
                    while not waiting[0].done():
                        if stop():
                            return False
                        _wait(waiting[0])
                        progress.mirror(shared)
                        show()
                    path, records, whole = waiting.popleft().result()
                    if not whole:
                        return False
                    take(path, records)
                    progress.mirror(shared)
            finally:
                stopping.set()
                pool.shutdown(cancel_futures=True)
    except OSError as error:
        problem = f"cannot write into {{}} ({said(error)})"
        raise FaceflaxError(suffix[1:], folder, problem, "make room; the same command goes on from here") from None
    except BrokenProcessPool:
        remedy = "is there enough memory? take fewer; the same command goes on from here"
        raise FaceflaxError("workers", workers, "one of {} processes ended by itself", remedy) from None
    finally:
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()


def _wait(future: Future[_Outcome]) -> None:
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    done.wait(0.1)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Limits the kernels' threads in processes that are started in the block, unless the user has done so."""
    name = "FACEFLAX_THREADS"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(count)
    try:
        yield
    finally:
        del os.environ[name]
