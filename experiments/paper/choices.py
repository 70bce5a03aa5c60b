"""Three choices of the study: weights chosen over orders of presentation, the squared error, faces aligned by the eyes.

Command: ``python -m experiments.paper --only choices`` (13 trainings of 8 epochs, three of them shared with
``chaining``, and eyes found in 36,000 faces: about 40 minutes).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from experiments.paper import eyes, intervals
from experiments.paper.record import Number, Result, Table, above
from experiments.paper.study import Faces, Recipe, Study, right

TITLE = "8. Orders of presentation, squared error, alignment"
CLAIM = (
    "weights chosen among several orders of presentation are better than those of one order; the squared error serves "
    "as loss; faces aligned by their eyes are classified better."
)
NEEDS = ()


@dataclass(frozen=True)
class Config:
    """The training, how many orders, and the seeds of the other comparisons, two or more."""

    recipe: Recipe = field(default=Recipe())
    orders: int = 5
    seeds: tuple[int, ...] = (0, 1, 2)


FULL = Config()
QUICK = Config(dataclasses.replace(FULL.recipe, epochs=1, batch_size=14), orders=2, seeds=(0, 1))


def run(study: Study, config: Config) -> Result:
    """Trains and compares."""
    splits = {split: study.faces("emotion", split) for split in ("train", "validation", "test")}
    recipe, test = config.recipe, splits["test"]

    validation, over_orders = [], []
    for order in range(config.orders):
        network = study.fit(dataclasses.replace(recipe, order=order), splits["train"], label=f"order {order}")
        validation.append(float(right(network, splits["validation"]).mean()))
        over_orders.append(right(network, test).astype(float))
    chosen = int(np.argmax(validation))
    gain = over_orders[chosen] - np.mean(over_orders, 0)
    orders = intervals.mean("chosen less the mean of all orders", gain, "points")
    rows = tuple(
        (f"{order}{' (chosen)' if order == chosen else ''}", f"{validation[order]:.2%}", f"{values.mean():.2%}")
        for order, values in enumerate(over_orders)
    )

    moved, found = _aligned(study, splits)
    correct: dict[str, list[np.ndarray]] = {"plain": [], "squared error": [], "aligned": []}
    for seed in config.seeds:
        plain = dataclasses.replace(recipe, seed=seed, order=seed)
        squared = dataclasses.replace(plain, loss="squared_error")
        runs = {
            "plain": (plain, splits),
            "squared error": (squared, splits),
            "aligned": (plain, moved),
        }
        for name, (how, faces) in runs.items():
            network = study.fit(how, faces["train"], label=f"{name}, seed {seed}")
            correct[name].append(right(network, faces["test"]).astype(float))
    values = {name: np.array(parts) for name, parts in correct.items()}
    numbers: list[Number] = [intervals.over_seeds(name, array, "%") for name, array in values.items()]
    loss = intervals.over_seeds("squared error less cross-entropy", values["squared error"] - values["plain"])
    alignment = intervals.over_seeds("aligned less not aligned", values["aligned"] - values["plain"])
    return Result(
        verdicts=(
            above("Choosing among orders on the validation split beats one order", orders, 0),
            above("The squared error is no worse than cross-entropy, by a margin of one point", loss, -0.01),
            above("Alignment by the eyes raises accuracy", alignment, 0),
        ),
        tables=(
            Table(
                f"Orders of presentation, one start (accuracy on {splits['validation'].source}, {test.source})",
                ("order", "validation", "test"),
                rows,
            ),
            Table.of(f"Accuracy on {test.source}", numbers),
            Table.of("Paired differences", [orders, loss, alignment]),
        ),
        remarks=(
            f"The interval of the orders is over images, given these {config.orders} trainings. Both eyes were found "
            f"in {found:.1%} of the test faces; the others were left as they are. Trainings of {recipe.epochs} epochs.",
        ),
    )


def _aligned(study: Study, splits: dict[str, Faces]) -> tuple[dict[str, Faces], float]:
    """The splits with eyes moved to where they usually are in the training split, and the share of test faces moved."""
    found = {split: eyes.find(study, splits[split].images) for split in ("train", "test")}
    place = np.median(found["train"][0], axis=0)
    moved = {
        split: dataclasses.replace(splits[split], images=eyes.align(splits[split].images, centres, seen, place))
        for split, (centres, seen) in found.items()
    }
    return moved, float(found["test"][1].mean())
