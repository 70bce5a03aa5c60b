"""Runs the contenders of a case in turn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.cases import ROOT, Call, Case, Process
from faceflax.errors import FaceflaxError

TOLERANCE = 1e-3
"""Largest relative difference, in the Euclidean norm, between the numbers of contenders that do the same work."""


def cores(count: int) -> list[int]:
    """Returns ``count`` of the cores that this process may use, distinct physical ones first.

    Empty where the system cannot pin a process (it has no ``sched_setaffinity``).
    """
    if not hasattr(os, "sched_getaffinity"):
        return []

    def rank(core: int) -> int:
        siblings = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        first = siblings.read_text().replace("-", ",").split(",")[0] if siblings.exists() else core
        return int(int(first) != core)

    return sorted(sorted(os.sched_getaffinity(0)), key=rank)[:count]


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """While it lasts, processes that are started have ``threads`` cores: they inherit our own restriction."""
    chosen = cores(threads)
    if not chosen:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def environment(threads: int) -> dict[str, str]:
    """Returns the environment of a contender: on the CPU, with ``threads`` threads."""
    count = str(threads)  # PyTorch's and XLA's threads, where pinning does not tell them
    return os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": count, "NPROC": count}


class Worker:
    """A process that makes and times a module's calls; see :mod:`experiments.benchmarks.worker`."""

    def __init__(self, module: str, threads: int, row: str) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close)
        with pinned(threads):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "experiments.benchmarks.worker", module, str(threads), row],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                cwd=ROOT,
                env=environment(threads),
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for the answer.

        Raises:
            FaceflaxError: the work failed, or the process ended.
        """
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        try:
            print(json.dumps(request), file=requests, flush=True)
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            raise _ended(self._process.wait(), self._log.read())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise FaceflaxError("work", request.get("function", "a call"), f"{{}} failed with {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


class Workers:
    """The worker processes of a run, one for each module, number of threads and row, started when needed."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, int, str], Worker] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._running.values():
            worker.close()

    def get(self, module: str, threads: int, row: str) -> Worker:
        """Returns the module's worker for a row."""
        key = module, threads, row
        if key not in self._running:
            self._running[key] = Worker(*key)
        return self._running[key]


Rounds = dict[str, list[list[float]]]
"""For each contender what each of its turns gave, in the case's unit."""


def measure(case: Case, workers: Workers, cache: Path) -> Rounds:
    """Lets the contenders of a case run in turn.

    Args:
        case: what to measure.
        workers: the processes for its calls.
        cache: folder for what whole processes compile.

    Raises:
        FaceflaxError: a contender failed, or its numbers are not those of the first.
    """
    calls = {label: contender for label, contender in case.contenders.items() if isinstance(contender, Call)}
    processes = {label: contender for label, contender in case.contenders.items() if isinstance(contender, Process)}
    rounds: Rounds = {label: [] for label in case.contenders}
    asked = {label: workers.get(call.module, case.threads, case.row) for label, call in calls.items()}
    numbers = {}
    for label, call in calls.items():
        with _named(case, label):
            answer = asked[label].ask(prepare=label, function=call.function, arguments=dict(call.arguments))
            numbers[label] = np.asarray(answer["numbers"])
    check_numbers(case, numbers)
    if case.unit == "s":  # a first process is not counted: it reads files that the others find in memory, and compiles
        for label, process in processes.items():
            with _named(case, label):
                run_process(process, case.threads, cache)
    if case.unit == "frames":
        return {label: [[float(each[0])]] for label, each in numbers.items()}
    for _ in range(case.rounds):
        for label, worker in asked.items():
            with _named(case, label):
                rounds[label].append([1e3 * seconds for seconds in worker.ask(time=label)["seconds"]])
        for label, process in processes.items():
            with _named(case, label):
                seconds, mebibytes = run_process(process, case.threads, cache)
                rounds[label].append([mebibytes if case.unit == "MiB" else seconds])
    for worker in asked.values():
        worker.ask(forget=True)
    return rounds


@contextmanager
def _named(case: Case, label: str) -> Iterator[None]:
    try:
        yield
    except FaceflaxError as error:
        raise error.renamed(f"{case.name}: {label}") from None


def check_numbers(case: Case, numbers: Mapping[str, np.ndarray]) -> None:
    """Refuses contenders whose numbers are not those of the first.

    Raises:
        FaceflaxError: a shape, or the numbers by more than :data:`TOLERANCE`, differ.
    """
    first, *others = case.contenders
    for label in others:
        call = case.contenders[label]
        if not isinstance(call, Call) or not call.checked:
            continue
        ours, theirs = numbers[first], numbers[label]
        if ours.shape != theirs.shape:
            raise FaceflaxError(case.name, theirs.shape, f"{label} gives shape {{}}, {first} {ours.shape}")
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(ours)
        if not error <= TOLERANCE:  # NaN too
            problem = f"the numbers of {label} differ from those of {first} by {{}}, more than {TOLERANCE:g}"
            raise FaceflaxError(case.name, float(f"{error:.1e}"), problem, "do not compare their times")


def _ended(status: int, log: str) -> FaceflaxError:
    return FaceflaxError("process", status, f"ended with status {{}}: {log[-2000:]}")


_LAUNCHER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
running = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(running.pid, 0)
print(json.dumps([time.perf_counter() - start, usage.ru_maxrss, os.waitstatus_to_exitcode(status)]))
"""
"""A small process between us and the one that is measured: Linux counts a parent's memory as its child's."""


def run_process(process: Process, threads: int, cache: Path) -> tuple[float, float]:
    """Runs a fresh interpreter and returns its seconds and its peak memory in MiB.

    Raises:
        FaceflaxError: it failed.
    """
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryFile("w+") as log:
        folder = empty if process.empty_cache else str(cache)
        caches = {"JAX_COMPILATION_CACHE_DIR": folder, "FACEFLAX_CACHE_DIR": folder}
        threads = process.threads or threads
        with pinned(threads):
            launcher = subprocess.Popen(
                [sys.executable, "-c", _LAUNCHER, sys.executable, *process.arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=environment(threads) | caches,
                start_new_session=True,
            )
        try:
            answer, _ = launcher.communicate()
        except BaseException:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.communicate()
            raise
        seconds, memory, status = json.loads(answer)
        if status:
            log.seek(0)
            raise _ended(status, log.read())
    return seconds, memory / (2**20 if sys.platform == "darwin" else 2**10)
