"""Measures this machine: ``python scripts/benchmark.py``; prints a table and, with ``--output``, writes it as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from faceflax.commands import run, writable_file

if TYPE_CHECKING:
    import flax.linen as nn
    import jax


@dataclass(frozen=True)
class Options:
    """Time start-up, inference, training and detection, and measure training's peak memory, in one run.

    What is compared alternates, so that a machine whose speed drifts still gives a fair ratio. Medians are printed.
    """

    repeats: int = 30
    """Timings of each row in this process; process starts get a sixth of them."""
    output: Path | None = None
    """JSON file for the table."""


def main(options: Options) -> None:
    """Prints rows of (what, value, unit, note)."""
    if options.output:
        writable_file("--output", options.output)
    rows: list[tuple[str, float, str, str]] = []

    def add(what: str, value: float, unit: str, note: str = "") -> None:
        rows.append((what, value, unit, note))
        print(f"{what:52} {value:9.2f} {unit:4} {note}", flush=True)

    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    measure_starts(add, max(options.repeats // 6, 3))
    measure_inference(add, options.repeats)
    measure_pipeline(add, options.repeats)
    measure_training(add, options.repeats)
    if options.output:
        names = ("what", "value", "unit", "note")
        options.output.write_text(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2) + "\n")


Add = Callable[..., None]


def measure_starts(add: Add, repeats: int) -> None:
    """Whole processes: the import, every command's help, and the first answer of a fresh analyzer."""
    commands = {"import faceflax": ["-c", "import faceflax"]}
    scripts = Path(__file__).parent
    for script in sorted(scripts.glob("*.py")):
        commands[f"scripts/{script.name} --help"] = [str(script), "--help"]
    commands["python -m interpret.saliency --help"] = ["-m", "interpret.saliency", "--help"]
    for name, arguments in commands.items():
        bare, whole = alternate(repeats, partial(python, "-c", "pass"), partial(python, *arguments))
        add(name, whole, "s", f"of which {bare:.2f} s Python's own start")
    answer = "import faceflax; from faceflax.vision import demo; faceflax.FaceAnalyzer()(demo.photograph())"
    (seconds,) = alternate(3, partial(python, "-c", answer))
    add("FaceAnalyzer: process start to first answer", seconds, "s", "nothing cached")


def measure_inference(add: Add, repeats: int) -> None:
    """Both networks as ``faceflax.compile`` runs them; mini_xception against its plain Flax formulation too."""
    import jax
    import numpy as np

    import faceflax
    from faceflax import models

    for arch in models.list_models():
        networks = [models.create(arch, 7)] + ([plain_mini_xception(7)] if arch == "mini_xception" else [])
        predictors = []
        for model in networks:
            predict = faceflax.compile(model, models.init(model, jax.random.key(0), 48))
            predict.warm_up(48)
            predictors.append(predict)
        for batch in (1, 4, 16, 64):
            images = np.random.default_rng(0).uniform(-1, 1, (batch, 48, 48, 1)).astype(np.float32)
            times = alternate(repeats, *(partial(predict, images) for predict in predictors))
            note = f"{times[0] / times[-1]:.2f} of plain Flax's time" if len(times) > 1 else ""
            add(f"{arch} forward, 48x48, batch {batch}", 1e3 * times[0], "ms", note)


def plain_mini_xception(num_classes: int) -> nn.Module:
    """The network as one would first write it in Flax: grouped convolutions and ``nn.max_pool``."""
    import flax.linen as nn

    conv = partial(nn.Conv, use_bias=False)
    norm = partial(nn.BatchNorm, use_running_average=True)

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
            def separable(x: jax.Array, features: int) -> jax.Array:
                x = conv(x.shape[-1], (3, 3), feature_group_count=x.shape[-1])(x)
                return norm()(conv(features, (1, 1))(x))

            for _ in range(2):
                x = nn.relu(norm()(conv(8, (3, 3), padding="VALID")(x)))
            for features in (16, 32, 64, 128):
                main = separable(nn.relu(separable(x, features)), features)
                shortcut = norm()(conv(features, (1, 1), strides=2)(x))
                x = shortcut + nn.max_pool(main, (3, 3), (2, 2), padding="SAME")
            return nn.Conv(num_classes, (3, 3))(x).mean((1, 2)), {}

    return Plain()


def measure_pipeline(add: Add, repeats: int) -> None:
    """Frames of the demo's film, 640x360 with one face: the whole analyzer, and its detection alone."""
    from itertools import islice

    import faceflax
    from faceflax.vision import demo

    analyzer = faceflax.FaceAnalyzer()
    times = [alternate(1, partial(analyzer, f), partial(analyzer.detector, f)) for f in islice(demo.video(), repeats)]
    whole, detection = (statistics.median(each) for each in zip(*times, strict=True))
    add("FaceAnalyzer, 640x360, one face", 1e3 * whole, "ms", f"of which detection {detection / whole:.0%}")


def measure_training(add: Add, repeats: int) -> None:
    """A train step, and the peak memory of a process that trains on as many images as FER-2013 has."""
    for arch in ("mini_xception", "sequential_cnn"):
        code = TRAINING.format(arch=arch, repeats=max(repeats // 3, 5))
        milliseconds, gibibytes = map(float, python_output("-c", code).split())
        add(f"{arch} train step, 48x48, batch 64", milliseconds, "ms", f"{64e3 / milliseconds:.0f} images/s")
        add(f"{arch} training on 28,709 images, peak memory", gibibytes, "GiB")


TRAINING = """
import resource, statistics, time
import jax, numpy as np
from faceflax import models
from faceflax.data.augment import Augmentation
from faceflax.training.step import adam, create_state, make_eval_step, make_train_step
generator = np.random.default_rng(0)
images = jax.numpy.asarray(generator.integers(0, 256, (28709, 48, 48, 1), dtype=np.uint8))
labels = jax.numpy.asarray(generator.integers(0, 7, 28709, dtype=np.int32))
model, optimizer = models.create({arch!r}, 7), adam(0.01)
state = create_state(models.init(model, jax.random.key(0), 48), optimizer)
step = make_train_step(model, optimizer, Augmentation(), 0.1, jax.random.key(1))
seconds = []
for _ in range({repeats} + 1):
    start = time.perf_counter()
    state, metrics = step(state, images, labels, generator.integers(0, 28709, 64), np.float32(1e-3))
    jax.block_until_ready(metrics)
    seconds.append(time.perf_counter() - start)
make_eval_step(model)(state.variables, images[:3589], labels[:3589])
print(1e3 * statistics.median(seconds[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def alternate(repeats: int, *functions: Callable[[], object]) -> list[float]:
    """The median seconds of each function, called in turn; a first round is not counted."""
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats + 1):
        for function, times in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
    return [statistics.median(times[1:]) for times in seconds]


def python(*arguments: str) -> None:
    """Runs a fresh interpreter and waits for it."""
    python_output(*arguments)


def python_output(*arguments: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    run(main, Options)
