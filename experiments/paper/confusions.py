"""What mini-Xception confuses (figure 8.6): "sad" for "fear", "angry" for "disgust"?

Command: ``python -m experiments.paper --only confusions`` (under a minute).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from experiments.paper import intervals
from experiments.paper.record import Number, Picture, Result, Table, above
from experiments.paper.study import Study, Task
from faceflax.evaluation import evaluate, predict_logits
from faceflax.evaluation.report import confusion_figure

TITLE = "3. Confusions"
CLAIM = 'faces labelled "fear" are mistaken for "sad", and faces labelled "disgust" for "angry", more than for others.'
NEEDS = (("mini_xception", "emotion"), ("mini_xception", "gender"))
CONFUSIONS = (("fear", "sad"), ("disgust", "angry"))


@dataclass(frozen=True)
class Config:
    """Nothing is to be chosen."""


FULL = QUICK = Config()


def run(study: Study, config: Config) -> Result:
    """Predicts both test splits."""
    verdicts, pictures, rows = [], [], []
    tasks: tuple[Task, ...] = ("emotion", "gender")
    for task in tasks:
        network = study.network("mini_xception", task)
        faces = study.faces(task, "test", network.weights.image_size)
        found = predict_logits(network.model, network.variables, faces.images)
        evaluation = evaluate(found, faces.labels, faces.names)
        title = f"{network.weights.name} on {faces.source}"
        pictures.append(Picture.of(confusion_figure(evaluation, title), f"Normalised confusion matrix of {title}"))
        predicted = found.argmax(1)
        for label, name in enumerate(faces.names):
            counts = np.bincount(predicted[faces.labels == label], minlength=len(faces.names))
            wrong = np.delete(np.arange(len(faces.names)), label)
            first = int(wrong[counts[wrong].argmax()])
            shares = intervals.share("", predicted[faces.labels == label] == first, "faces of the label")
            rows.append((f"{task}: {name}", f"{counts.sum():,}", faces.names[first], str(shares)))
        if task == "emotion":
            for true, taken_for in CONFUSIONS:
                number = lead(faces.names, predicted, faces.labels, true, taken_for)
                verdicts.append(above(f'"{true}" is mistaken for "{taken_for}" more than for any other', number, 0))
    return Result(
        verdicts=tuple(verdicts),
        tables=(Table("Each label's most frequent mistake", ("label", "faces", "mistaken for", "share"), tuple(rows)),),
        pictures=tuple(pictures),
        remarks=(f"Gender is tested on {study.dataset_gender}; --dataset-gender imdb tests it as the study does.",),
    )


def lead(
    names: tuple[str, ...], predicted: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"], label: str, taken_for: str
) -> Number:
    """By how much a confusion is ahead of the label's next most frequent other one, as a share of the label's faces."""
    row, column = names.index(label), names.index(taken_for)
    others = [i for i in range(len(names)) if i not in (row, column)]
    counts = np.bincount(predicted[labels == row], minlength=len(names))

    def difference(shares: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, " n"]:
        return shares[:, column] - shares[:, others].max(1)

    return intervals.of_counts(f'"{taken_for}" over the next mistake', counts, difference, "points")
