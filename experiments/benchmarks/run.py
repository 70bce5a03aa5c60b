"""The whole benchmark: all cases in turn, each printed as it is done."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.benchmarks import plot, report
from experiments.benchmarks.cases import GRAPHS, ONNX, REQUIRED, Process, Setting, cases, missing
from experiments.benchmarks.measure import Workers, cores, measure, run_process
from experiments.benchmarks.shared import CLASSES
from faceflax import files
from faceflax.errors import FaceflaxError


def run(
    rows: Sequence[str],
    repeats: int,
    onnx: Path | None = None,
    output: Path | None = None,
    picture: Path | None = None,
    video: Path | None = None,
) -> None:
    """Measures and prints; what is done by then is written even when it is interrupted.

    Args:
        rows: names of ``cases.ROWS``.
        repeats: rounds of calls; train steps and processes have fewer.
        onnx: graph to use for mini_xception instead of ours.
        output: JSON file to write.
        picture: plot of the ratios to write.
        video: video with one face, for whole frames, instead of the demo's.

    Raises:
        FaceflaxError: ``onnx`` is not a usable graph, or a contender failed or gives other numbers than faceflax.
    """
    absent = missing()
    no_onnx = [package for package in REQUIRED[ONNX] if package in absent]
    if onnx:
        if no_onnx:
            problem = f"{{}} needs {', '.join(no_onnx)}, not installed"
            raise FaceflaxError("onnx", onnx, problem, "run: pip install -e '.[benchmark]'")
        check_graph(onnx)
    threads = [count for count in (1, 2) if count <= (len(cores(2)) or os.cpu_count() or 1)]
    header = {"command": shlex.join(["python", *sys.argv]), "machine": report.machine(), "pinning": pinning(threads)}
    print(*report.heading(header), sep="\n")
    if absent:
        print(f"not installed: {', '.join(absent)}; to compare with all peers run: pip install -e '.[benchmark]'")
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, Workers() as workers:
        folder = Path(name)
        graphs = {arch: folder / f"{arch}.onnx" for arch in GRAPHS}
        if not no_onnx:
            for arch, file in graphs.items():
                run_process(Process(("-m", "experiments.benchmarks.peer_onnx", arch, str(file))), 1, folder)
        if onnx:
            graphs["mini_xception"] = onnx.resolve()
        media = folder / "files"
        if "files" in rows:
            media.mkdir()
            run_process(Process(("-m", "experiments.benchmarks.files", str(media), "30")), 1, folder)
        setting = Setting(repeats, tuple(threads), graphs, onnx is None, video, media)
        bar = tqdm(cases(rows, setting), unit="case", disable=None)
        try:
            for case in bar:
                bar.set_description(case.name)
                results.append(report.record(case, measure(case, workers, folder)))
                with bar.external_write_mode():
                    print(*report.lines(results[-1]), sep="\n", flush=True)
        finally:
            bar.close()
            if results and output:
                files.write(output, json.dumps(header | {"results": results}, indent=2) + "\n")
            if results and picture:
                plot.draw(results, picture)


def check_graph(file: Path) -> None:
    """Runs the user's graph once.

    Raises:
        FaceflaxError: it is missing, is no graph, or does not map ``[batch, 1, 64, 64]`` to ``[batch, 7]``.
    """
    if not file.is_file():
        raise FaceflaxError("onnx", file, "there is no file {}", "check the path")
    batch = 2
    arguments = {"file": str(file.resolve()), "batch": batch, "threads": 1}
    with Workers() as workers:
        try:
            answer = workers.get(".peer_onnx", 1, "forward").ask(prepare=ONNX, function="forward", arguments=arguments)
        except FaceflaxError as error:
            problem = f"ONNX Runtime cannot run {{}} on images [{batch}, 1, 64, 64] ({error})"
            raise FaceflaxError("onnx", file, problem, "give a graph that takes them") from None
    shape = np.shape(answer["numbers"])[1:]
    if shape != (batch, CLASSES):
        raise FaceflaxError("onnx", file, f"gives shape {shape}", f"give a graph with logits [batch, {CLASSES}]")


def pinning(threads: Sequence[int]) -> str:
    """Says on which cores the contenders run."""
    chosen = {count: cores(count) for count in threads}
    if not chosen[1]:
        return "not pinned: this system has no sched_setaffinity; threads are limited by the frameworks' settings alone"
    return "pinned: " + "; ".join(
        f"{count} thread{'s' if count > 1 else ''} on {', '.join(f'core {core}' for core in chosen[count])}"
        for count in threads
    )
