"""How large, accurate and fast the two networks are, beside Tang's, with which the study compares its speed.

Command: ``python -m experiments.paper --only sizes`` (one training of tang_cnn, about 10 minutes on two quiet cores).

Speed is compared twice: each network as ``faceflax.compile`` runs it, which for all but tang_cnn is one call of the
library's own kernels, and each as it stands, under ``jax.jit``. They are timed in turn, a block each, on one image.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.paper import intervals
from experiments.paper.record import Number, Result, Table, above, below, equal
from experiments.paper.study import Recipe, Study, right
from faceflax import compile, pretrained
from faceflax.evaluation import predict_logits
from faceflax.preprocessing import normalize

TITLE = "1. Size, accuracy and speed"
CLAIM = (
    "the sequential network has 642,935 parameters and mini-Xception 58,423; both label 66% of FER-2013's faces right; "
    "mini-Xception's file takes 855 kB; it is 1.5 times as fast as Tang's network, which won the FER-2013 contest."
)
NEEDS = (("mini_xception", "emotion"), ("sequential_cnn", "emotion"))
STATED = {"mini_xception": 58_423, "sequential_cnn": 642_935}


@dataclass(frozen=True)
class Config:
    """How Tang's network is trained, and how long the networks are timed."""

    recipe: Recipe = field(
        default=Recipe(arch="tang_cnn", epochs=12, loss="squared_hinge", learning_rate=5e-4, batch_size=64)
    )
    rounds: int = 30
    block: float = 0.05
    """Seconds of a block."""


FULL = Config()
QUICK = Config(dataclasses.replace(FULL.recipe, epochs=1, batch_size=14), rounds=3, block=0.005)


def run(study: Study, config: Config) -> Result:
    """Counts, evaluates and times."""
    tang, variables = study.fit(config.recipe, study.faces("emotion", "train"), label="tang_cnn")
    test = study.faces("emotion", "test")
    networks = {"tang_cnn": (tang, variables, 48, right((tang, variables), test))}
    numbers, rows, kilobytes = [], [], {}
    for arch in STATED:
        network = study.network(arch, "emotion")
        size = network.weights.image_size
        faces = study.faces("emotion", "test", size)
        networks[arch] = network.model, network.variables, size, right((network.model, network.variables), faces)
        flipped = predict_logits(network.model, network.variables, faces.images, flip=True).argmax(1) == faces.labels
        numbers.append(intervals.share(f"{arch}, flip averaged", flipped))
        kilobytes[arch] = _file_size(network.path) / 1000
    verdicts = []
    calls: dict[str, dict[str, Callable[[], Any]]] = {"compiled": {}, "as it stands": {}}
    for arch, (model, weights, size, correct) in networks.items():
        count = sum(leaf.size for leaf in jax.tree.leaves(weights))
        accuracy = intervals.share(f"{arch} accuracy", correct)
        rows.append((arch, f"{count:,}", f"{4 * count / 1000:,.0f} kB", f"{size}x{size}", str(accuracy)))
        if arch in STATED:
            verdicts.append(
                equal(f"{arch} has {STATED[arch]:,} parameters", Number.exact("parameters", count), STATED[arch])
            )
            verdicts.append(above(f"{arch} labels 66% right", accuracy, 0.655))
        image = normalize(study.faces("emotion", "test", size).images[:1])
        calls["compiled"][arch] = partial(compile(model, weights), image)
        calls["as it stands"][arch] = partial(_apply, jax.jit(model.apply), weights, jnp.asarray(image))
    file = Number.exact("size", kilobytes["mini_xception"], "kB")
    verdicts.append(below("mini_xception's file takes at most 855 kB", file, 855.5))
    for way, functions in calls.items():
        times = _in_turn(functions, config.rounds, config.block)
        numbers += [intervals.mean(f"{arch}, one image, {way}", t, "ms", "rounds") for arch, t in times.items()]
        for arch in STATED:
            ratio = times["tang_cnn"] / times[arch]
            number = intervals.mean(f"tang_cnn's time over {arch}'s, {way}", ratio, "x", "rounds")
            numbers.append(number)
            if arch == "mini_xception":
                verdicts.append(above(f"mini_xception is 1.5 times as fast as Tang's network, {way}", number, 1.5))
    recipe = config.recipe
    return Result(
        verdicts=tuple(verdicts),
        tables=(
            Table(
                f"Networks on {test.source}, single crop",
                ("network", "parameters", "as float32", "images", "accuracy"),
                tuple(rows),
            ),
            Table.of("Times, ratios and flip-averaged accuracy", numbers),
        ),
        remarks=(
            "66% is printed without a decimal, so it is taken as more than 65.5%.",
            f"tang_cnn was trained for {recipe.epochs} epochs (Adam, {recipe.learning_rate:g}, squared hinge): a "
            "modest schedule that was not tuned, and not what won the contest.",
            "The study's 1.5 is of a whole pipeline on another machine; here it is of the networks alone.",
        ),
    )


def _apply(apply: Callable[..., Any], variables: Any, images: jax.Array) -> None:
    jax.block_until_ready(apply(variables, images)[0])


def _file_size(path: Path | str) -> int:
    file = Path(path)
    if not file.suffix:
        file = Path(pretrained.__file__).parent / "weights" / f"{path}.safetensors"
    return file.stat().st_size


def _in_turn(functions: dict[str, Callable[[], Any]], rounds: int, block: float) -> dict[str, np.ndarray]:
    """Milliseconds a call of each function: the median of a block, for each round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            taken: list[float] = []
            while sum(taken) < block:
                start = time.perf_counter()
                function()
                taken.append(time.perf_counter() - start)
            times[name].append(1000 * float(np.median(taken)))
    return {name: np.array(values) for name, values in times.items()}
