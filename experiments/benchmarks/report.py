"""What was measured, as a table and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.cases import OURS, Case
from experiments.benchmarks.measure import Rounds, cores

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "onnxruntime",
    "torch",
    "captum",
    "fer",
)

BUSY = 0.5
"""Processes running on average over the last minute, before we start ours, from which on times cannot be trusted."""


def machine() -> dict[str, Any]:
    """Describes the processor, the system, the versions of what is measured and what else is running."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "python": platform.python_version(),
        "packages": dict(_versions()),
        "load": os.getloadavg()[0],
    }


def processor() -> str:
    """Returns the processor's name, or its architecture where the system does not say."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def heading(header: dict[str, Any]) -> Iterator[str]:
    """Yields the lines above the table."""
    machine = header["machine"]
    yield f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"
    yield ", ".join(
        f"{name} {number}" for name, number in [("Python", machine["python"]), *machine["packages"].items()]
    )
    yield header["pinning"]
    if machine["load"] > BUSY:
        yield f"the machine is busy (load {machine['load']:.1f}): this table will say little, two threads the least"


def summary(values: Sequence[float]) -> dict[str, float]:
    """Returns the mean, the median and the 10th, 90th and 95th percentile.

    Example:
        >>> summary([3.0, 1.0, 2.0])
        {'mean': 2.0, 'median': 2.0, 'p10': 1.2, 'p90': 2.8, 'p95': 2.9}
    """
    names = {"median": 50, "p10": 10, "p90": 90, "p95": 95}
    numbers = [np.mean(values), *np.percentile(values, list(names.values()))]
    return {name: round(float(number), 6) for name, number in zip(["mean", *names], numbers, strict=True)}


def record(case: Case, rounds: Rounds) -> dict[str, Any]:
    """Returns a case's medians and faceflax's share of every other contender's time or memory.

    A share is the quotient of the medians of all timings; its percentiles are those of the rounds' quotients.
    """
    everything = {label: np.concatenate(turns).tolist() for label, turns in rounds.items()}
    first, *others = rounds
    ratios = {}
    for label in others if first == OURS else ():
        turns = [np.median(a) / np.median(b) for a, b in zip(rounds[first], rounds[label], strict=True)]
        quotient = np.median(everything[first]) / np.median(everything[label])
        ratios[label] = summary(turns) | {"median": round(float(quotient), 6)}
    return {
        "row": case.row,
        "name": case.name,
        "threads": case.threads,
        "cores": cores(case.threads),
        "unit": case.unit,
        "rounds": len(rounds[first]),
        "contenders": {label: summary(values) | {"timings": len(values)} for label, values in everything.items()},
        "ratios": ratios,
    }


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Yields a record's lines of the table."""
    threads = result["threads"]
    yield f"{result['name']}, {threads} thread{'s' if threads > 1 else ''}"
    what = {"MiB": "memory", "frames": "number"}.get(result["unit"], "time")
    for label, value in result["contenders"].items():
        median, p10, p90 = (_show(value[key]) for key in ("median", "p10", "p90"))
        line = f"    {label:28} {median:>6} {result['unit']:3} {f'({p10} to {p90})':18}"
        if label in result["ratios"]:
            ratio = result["ratios"][label]
            median, p10, p90 = (
                f"{ratio[key]:.{2 if ratio['median'] > 0.1 else 3}f}" for key in ("median", "p10", "p90")
            )
            line += f" {median} of {label}'s {what} ({p10} to {p90})"
        if result["row"] == "live" and result["unit"] == "ms":
            line += f"  95%: {_show(value['p95'])} ms; {1e3 / value['mean']:.0f} a second"
        yield line.rstrip()


def _show(value: float) -> str:
    """Three digits, two of them after the point at most."""
    return f"{value:.{max(0, min(2, 2 - int(np.log10(max(value, 1)))))}f}"
