"""Does a network learn better from the other task's weights than from random ones, with few labels and with many?

Command: ``python -m experiments.paper --only finetuning`` (about 45 minutes: see :mod:`experiments.paper`).

Emotion starts from the gender network's weights and gender from the emotion network's; the last layer always starts
afresh. Both starts see the same faces in the same order, with the same number of steps.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from experiments.paper import intervals
from experiments.paper.record import Number, Picture, Result, Table, above
from experiments.paper.study import Recipe, Study, Task, right

TITLE = "9. Fine-tuning from the other task"
CLAIM = "weights learned for one task are a better start for the other than random ones."
NEEDS = (("mini_xception", "emotion"), ("mini_xception", "gender"))
OTHER: dict[Task, Task] = {"emotion": "gender", "gender": "emotion"}


@dataclass(frozen=True)
class Config:
    """The training, its passes at each share of the labels, and the seeds, two or more."""

    recipe: Recipe = field(default=Recipe())
    epochs: tuple[tuple[float, int, int], ...] = ((0.01, 60, 60), (0.1, 30, 30), (1.0, 8, 6))
    """Share of the labels, and passes for emotion and for gender."""
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: tuple[Task, ...] = ("emotion", "gender")


FULL = Config()
QUICK = Config(
    dataclasses.replace(FULL.recipe, batch_size=14), ((0.1, 1, 1), (1.0, 1, 1)), seeds=(0, 1), tasks=("emotion",)
)


def run(study: Study, config: Config) -> Result:
    """Trains from both starts at every share of the labels."""
    verdicts, rows, curves = [], [], {}
    for task in config.tasks:
        train, test = study.faces(task, "train"), study.faces(task, "test")
        given = study.network("mini_xception", OTHER[task]).variables
        for share, *passes in config.epochs:
            epochs = passes[config.tasks.index(task)]
            correct: dict[str, list[np.ndarray]] = {"random start": [], f"{OTHER[task]} weights": []}
            for seed in config.seeds:
                recipe = dataclasses.replace(config.recipe, epochs=epochs, seed=seed, order=seed)
                count = max(2, round(share * len(train.images)))
                whole = np.arange(len(train.images))
                chosen = whole if share == 1 else np.sort(np.random.default_rng([seed, 2]).permutation(whole)[:count])
                for name, start in zip(correct, (None, given), strict=True):
                    label = f"{task} at {share:.0%} from {name}, seed {seed}"
                    network = study.fit(recipe, train, rows=chosen, start=start, label=label)
                    correct[name].append(right(network, test).astype(float))
            random, transferred = (np.array(values) for values in correct.values())
            numbers = [intervals.over_seeds(name, np.array(values), "%") for name, values in correct.items()]
            gain = intervals.over_seeds(f"gain at {share:.0%} of the labels", transferred - random)
            curves[task, share] = numbers
            steps = -(-count * epochs // config.recipe.batch_size)
            rows.append((task, f"{share:.0%}", f"{count:,}", f"{steps:,}", *map(str, numbers), str(gain)))
            verdicts.append(
                above(
                    f"{task.capitalize()} learns better from {OTHER[task]} weights at {share:.0%} of the labels",
                    gain,
                    0,
                )
            )
    return Result(
        verdicts=tuple(verdicts),
        tables=(
            Table(
                "Test accuracy",
                ("task", "labels", "faces", "steps", "random start", "the other task's weights", "gain"),
                tuple(rows),
            ),
        ),
        pictures=(Picture.of(_curves(curves, config), "Accuracy by share of the labels, from both starts"),),
        remarks=(
            f"Seeds {config.seeds}. Gender is of {study.dataset_gender}. The learning rate is the same for both starts "
            "and was not tuned for either.",
        ),
    )


def _curves(curves: dict[tuple[Task, float], list[Number]], config: Config) -> Figure:
    figure = Figure((4 * len(config.tasks), 3.2), layout="constrained")
    panels = figure.subplots(1, len(config.tasks), squeeze=False)[0]
    shares = [share for share, *_ in config.epochs]
    for axes, task in zip(panels, config.tasks, strict=True):
        for i, (name, colour) in enumerate((("random start", "#888888"), ("the other task's weights", "#2166ac"))):
            numbers = [curves[task, share][i] for share in shares]
            values = np.array([number.value for number in numbers])
            errors = np.abs(np.array([(n.low, n.high) for n in numbers]).T - values)
            axes.errorbar(shares, values, errors, color=colour, label=name, marker="o", capsize=3)
        axes.set(xscale="log", title=task, xlabel="share of the labels", ylabel="test accuracy")
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    return figure
