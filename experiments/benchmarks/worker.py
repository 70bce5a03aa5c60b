"""The process that a contender's calls run in: ``python -m experiments.benchmarks.worker MODULE THREADS ROW``.

It reads a JSON request a line and answers each with a JSON line, until its input ends:

* ``{"prepare": label, "function": name, "arguments": {...}}`` builds the work and calls it three times, which compiles
  it; the answer has the ``numbers`` that these calls returned.
* ``{"time": label}`` pauses, then calls it for at least two blocks' time; the answer has the ``seconds`` of each call
  in the second.
* ``{"forget": true}`` lets go of all work.

What goes wrong is answered with ``{"error": message}``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from faceflax.training.memory import keep_freed_memory

BLOCK = 0.06
"""Seconds that a block lasts at least, and as long before it the same calls are made and not counted."""


def main(module: str, threads: int, row: str) -> None:
    """Answers requests until standard input ends."""
    if row == "train":
        keep_freed_memory()  # as scripts/train.py does; every contender has the same memory policy
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a framework prints must not get between the answers
    pause = 0.05 if threads > 1 else 0.005  # the time that others' threads spin; a single thread does not
    work: dict[str, Callable[[], np.ndarray]] = {}

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        match request:
            case {"prepare": label, "function": function, "arguments": arguments}:
                build = getattr(importlib.import_module(module, __package__), function)
                run = work[label] = build(**arguments)
                return {"numbers": [np.asarray(run()).tolist() for _ in range(3)]}
            case {"time": label}:
                time.sleep(pause)
                block(work[label])  # a core that has slept needs up to this long until it helps the first one
                return {"seconds": block(work[label])}
            case _:
                work.clear()
                return {}

    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # of whatever framework; the parent says whose it is
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers, flush=True)


def block(run: Callable[[], object]) -> list[float]:
    """Returns the seconds of each call, of as many calls as :data:`BLOCK` takes."""
    seconds: list[float] = []
    while sum(seconds) < BLOCK:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
