"""Does it help to give the emotion network the perceived gender?

Command: ``python -m experiments.paper --only chaining`` (nine trainings of 8 epochs, about 28 minutes).

The gender network's probability of "man" becomes a second channel of the image, even all over. Against it stand the
network without that channel, and one whose channel holds another face's gender, shuffled within each split. All are
trained alike, over several seeds.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from experiments.paper import intervals
from experiments.paper.record import Result, Table, above
from experiments.paper.study import Faces, Recipe, Study, right
from faceflax.evaluation import predict_logits

TITLE = "6. Gender chained into emotion"
CLAIM = "giving the predicted gender to the emotion network can improve its accuracy."
NEEDS = (("mini_xception", "gender"),)


@dataclass(frozen=True)
class Config:
    """The training and its seeds, two or more."""

    recipe: Recipe = field(default=Recipe())
    seeds: tuple[int, ...] = (0, 1, 2)


FULL = Config()
QUICK = Config(dataclasses.replace(FULL.recipe, epochs=1, batch_size=14), seeds=(0, 1))


def run(study: Study, config: Config) -> Result:
    """Trains with, without and with shuffled gender."""
    splits = {split: study.faces("emotion", split) for split in ("train", "test")}
    men = {split: _men(study, split) for split in splits}
    shuffled = {split: np.random.default_rng(0).permutation(values) for split, values in men.items()}
    ways = {
        "without gender": splits,
        "with predicted gender": {split: _with_channel(faces, men[split]) for split, faces in splits.items()},
        "with shuffled gender": {split: _with_channel(faces, shuffled[split]) for split, faces in splits.items()},
    }
    found: dict[str, list[np.ndarray]] = {way: [] for way in ways}
    for seed in config.seeds:
        recipe = dataclasses.replace(config.recipe, seed=seed, order=seed)
        for way, faces in ways.items():
            network = study.fit(recipe, faces["train"], label=f"{way}, seed {seed}")
            found[way].append(right(network, faces["test"]))
    correct = {way: np.array(values, np.float64) for way, values in found.items()}
    numbers = [intervals.over_seeds(way, values, "%") for way, values in correct.items()]
    predicted = correct["with predicted gender"]
    gains = {
        name: intervals.over_seeds(f"gain over {name}", predicted - correct[name])
        for name in ("without gender", "with shuffled gender")
    }
    return Result(
        verdicts=(
            above("Predicted gender raises emotion accuracy over none", gains["without gender"], 0),
            above("Predicted gender raises emotion accuracy over shuffled gender", gains["with shuffled gender"], 0),
        ),
        tables=(
            Table.of(f"Accuracy on {splits['test'].source}", numbers),
            Table.of("Paired differences", list(gains.values())),
        ),
        remarks=(
            f"Seeds {config.seeds} of {config.recipe.epochs} epochs each: short, so that accuracies are below the "
            f"shipped weights'. Gender comes from weights trained on {study.dataset_gender}.",
        ),
    )


def _men(study: Study, split: str) -> Float[np.ndarray, " n"]:
    """The predicted probability of "man" of each face."""
    network = study.network("mini_xception", "gender")
    faces = study.faces("emotion", split, network.weights.image_size)
    found = predict_logits(network.model, network.variables, faces.images).astype(np.float64)
    return softmax(found / network.weights.temperature, axis=1)[:, network.weights.labels.index("man")]


def _with_channel(faces: Faces, values: Float[np.ndarray, " n"]) -> Faces:
    plane = np.broadcast_to(np.rint(255 * values).astype(np.uint8)[:, None, None, None], faces.images.shape)
    return dataclasses.replace(faces, images=np.concatenate([faces.images, plane], axis=3))
