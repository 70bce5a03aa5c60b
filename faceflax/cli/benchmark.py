"""Measures how fast faceflax runs on this machine.

Each part runs in a process of its own, so that a process can be held to one core before JAX starts its threads, and so
that peak memory is that of the part alone.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from faceflax import files
from faceflax.errors import FaceflaxError

BATCHES = (1, 8, 32)
STARTS = 3
"""Processes whose start is timed, after one that fills the cache."""


@dataclass(frozen=True)
class Options:
    """Measure how fast faceflax runs here: networks, whole frames, a video, a start; about half a minute.

    Times are medians, with the 10th and 90th percentile. The comparison with other libraries is in the repository:
    clone it and run python scripts/benchmark.py.
    """

    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Also write the results to this file."""
    seconds: float = 0.3
    """How long each network is timed at each batch size."""


def main(options: Options) -> None:
    """Prints the parts as they are measured."""
    if not options.seconds > 0:
        raise FaceflaxError("seconds", options.seconds, "is not a time", "give more than 0")
    if options.json is not None:
        files.writable_file("json", options.json)

    import faceflax

    result: dict[str, Any] = {
        "faceflax": faceflax.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": len(_cores()) or os.cpu_count(),
    }
    print(f"faceflax {faceflax.__version__}, {result['system']}, {result['cores']} cores")
    starts = [_start() for _ in range(STARTS + 1)][1:]
    result["start"] = summary([start["seconds"] for start in starts])
    _show("process start to the first answer", result["start"])
    result["frames"] = _child("frames", 0)
    _show("FaceAnalyzer, a frame of 640x360", result["frames"]["analyzer"])
    _show("VideoAnalyzer, a frame of the video", result["frames"]["video"])
    print(f"  the video at {result['frames']['frames_per_second']:.0f} frames a second")
    if result["frames"]["peak_memory"]:
        print(f"peak memory of that process: {result['frames']['peak_memory'] / 2**20:.0f} MiB")
    result["forward"] = []
    for threads in _threads():
        print(f"\nforward passes, {'one core' if threads == 1 else 'all cores'}")
        rows = _child("networks", threads, options.seconds)
        for row in rows:
            _show(f"{row['weights']}, batch {row['batch']}", row)
        result["forward"] += rows
    if options.json is not None:
        files.write(options.json, json.dumps(result, indent=2) + "\n")
        print(f"\nwrote {options.json}")
    print("\nfor the comparison with other libraries, clone the repository and run: python scripts/benchmark.py")


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Returns median, 10th and 90th percentile of timings.

    Example:
        >>> summary([3.0, 1.0, 2.0])
        {'median': 2.0, 'p10': 1.2, 'p90': 2.8, 'count': 3}
    """
    import numpy as np

    low, middle, high = (float(value) for value in np.percentile(seconds, (10, 50, 90)))
    return {"median": middle, "p10": low, "p90": high, "count": len(seconds)}


def timed(call: Callable[[], Any], seconds: float, least: int = 3) -> list[float]:
    """Times calls one after the other for ``seconds``, at least ``least`` of them, after two that are not counted."""
    call()
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def start() -> dict[str, Any]:
    """The first answer of a new process."""
    import faceflax
    from faceflax.media import demo

    faces = faceflax.FaceAnalyzer(preset="fast")(demo.photograph())
    return {"faces": len(faces)}


def frames() -> dict[str, Any]:
    """Whole frames: a first search of one, and the demo's video."""
    import faceflax
    from faceflax.media import demo

    video = list(demo.video())
    analyzer = faceflax.FaceAnalyzer(preset="fast")
    found = timed(lambda: analyzer(video[0]), 2.0)
    tracker = faceflax.VideoAnalyzer(analyzer)
    tracker(video[0])
    times = []
    for frame in video:
        begin = time.perf_counter()
        tracker(frame)
        times.append(time.perf_counter() - begin)
    return {
        "analyzer": summary(found),
        "video": summary(times),
        "frames_per_second": len(times) / sum(times),
        "peak_memory": _peak_memory(),
    }


def networks(seconds: float) -> list[dict[str, Any]]:
    """The forward pass of every shipped network that labels faces."""
    import numpy as np

    import faceflax
    from faceflax.models import DETECTORS

    rows = []
    for name in faceflax.list_weights():
        info = faceflax.weights_info(name)
        if info.arch in DETECTORS:
            continue
        size = info.image_size
        model, variables = faceflax.load(name)
        predict = faceflax.compile(model, variables)
        for batch in BATCHES:
            images = np.random.default_rng(0).uniform(-1, 1, (batch, size, size, 1)).astype(np.float32)
            times = timed(functools.partial(predict, images), seconds)
            rows.append({"weights": name, "batch": batch, "cores": len(_cores()) or os.cpu_count(), **summary(times)})
    return rows


PARTS: dict[str, Callable[..., Any]] = {"start": start, "frames": frames, "networks": networks}


def _start() -> dict[str, Any]:
    begin = time.perf_counter()
    _child("start", 0)
    return {"seconds": time.perf_counter() - begin}


def _child(part: str, threads: int, *arguments: float) -> Any:
    """Measures a part in another process, held to so many cores, or to none of them in particular if 0."""
    pin = f"import os; os.sched_setaffinity(0, {_cores()[:threads]}); " if threads and _cores() else ""
    code = f"{pin}import json; from faceflax.cli import benchmark; "
    code += f"print(json.dumps(benchmark.PARTS[{part!r}](*{list(arguments)})))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise FaceflaxError(part, None, "could not be measured", "faceflax info says what is wrong here")
    return json.loads(done.stdout.splitlines()[-1])


def _cores() -> list[int]:
    """The cores that this process may use; empty where the system cannot hold a process to some."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _threads() -> list[int]:
    """How many cores the networks are measured on: one, where a process can be held to it, and all."""
    count = len(_cores())
    return [1, count] if count > 1 else [count]


def _peak_memory() -> int | None:
    """The most memory that this process has held, in bytes, where the system counts it."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _show(name: str, row: dict[str, Any]) -> None:
    median, low, high = (1000 * row[key] for key in ("median", "p10", "p90"))
    print(f"{name:<40} {median:9.2f} ms   ({low:.2f} to {high:.2f})", flush=True)
