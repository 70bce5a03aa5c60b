"""The ratios as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.cases import PEERS


def draw(results: Sequence[dict[str, Any]], file: Path) -> None:
    """Draws faceflax's share of each peer's time or memory, one line a case; what has no peer is left out.

    Args:
        results: records of :func:`experiments.benchmarks.report.record`.
        file: where to write; its suffix says the format.
    """
    from matplotlib.figure import Figure

    compared = [
        result for result in results if result["unit"] != "frames" and set(PEERS).intersection(result["ratios"])
    ]
    figure = Figure(figsize=(9, 1.6 + 0.27 * len(compared)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(1, color="black", linewidth=1.2)
    for peer, marker in zip(PEERS, "os^DvPX", strict=True):
        points = [(i, result["ratios"][peer]) for i, result in enumerate(compared) if peer in result["ratios"]]
        if points:
            rows, ratios = zip(*points, strict=True)
            middle = [ratio["median"] for ratio in ratios]
            spread = [[max(m - r["p10"], 0) for m, r in zip(middle, ratios, strict=True)]]
            spread += [[max(r["p90"] - m, 0) for m, r in zip(middle, ratios, strict=True)]]
            axes.errorbar(middle, rows, xerr=spread, fmt=marker, markersize=5, elinewidth=1, label=peer)
    starts = [i for i in range(1, len(compared)) if compared[i]["row"] != compared[i - 1]["row"]]
    for start in starts:
        axes.axhline(start - 0.5, color="0.7", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(compared)), [_label(result) for result in compared], fontsize=8)
    axes.set_ylim(len(compared) - 0.5, -0.5)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    figure.supxlabel("faceflax's share of the peer's time or memory (left of 1: faceflax needs less)", fontsize=9)
    figure.legend(loc="outside upper center", ncols=len(PEERS), frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)


def _label(result: dict[str, Any]) -> str:
    threads = result["threads"]
    return f"{result['name']}, {threads} thread{'s' if threads > 1 else ''}"
