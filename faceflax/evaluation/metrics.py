"""How well a network classifies a split: its logits, accuracy, and precision, recall and confusion per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from faceflax.errors import FaceflaxError
from faceflax.preprocessing import normalize

if TYPE_CHECKING:
    import flax.linen as nn

IMAGES_TOGETHER = 1024
"""Images that are float32 at a time: a whole split would take gigabytes."""


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found; every share is in [0, 1], every array in the order of ``names``.

    Attributes:
        names: the classes.
        accuracy: share of images labelled right.
        precision: of the images given a class, the share that is of it; 0 where none was.
        recall: of the images of a class, the share given it; 0 where there are none.
        f1: harmonic mean of precision and recall; 0 where both are.
        support: how many images there are of each class.
        confusion: share of the images of a class (row) that were given a class (column); rows sum to 1.
    """

    names: tuple[str, ...]
    accuracy: float
    precision: Float[np.ndarray, " classes"]
    recall: Float[np.ndarray, " classes"]
    f1: Float[np.ndarray, " classes"]
    support: Int[np.ndarray, " classes"]
    confusion: Float[np.ndarray, "classes classes"]

    def table(self) -> str:
        """Returns precision, recall, F1 and support of each class and their unweighted means, as aligned text."""
        columns = (self.precision, self.recall, self.f1)
        rows = [(name, *(c[i] for c in columns), self.support[i]) for i, name in enumerate(self.names)]
        rows.append(("mean", *(c.mean() for c in columns), self.support.sum()))
        width = max(len(row[0]) for row in rows)
        lines = [f"{'':{width}}  precision  recall     F1  images"]
        lines += [f"{name:{width}}  {p:9.1%}  {r:6.1%}  {f:5.1%}  {n:6d}" for name, p, r, f, n in rows]
        return "\n".join(lines)


def predict_logits(
    model: nn.Module,
    variables: dict[str, Any],
    images: UInt8[np.ndarray, "n height width channels"],
    *,
    flip: bool = False,
) -> Float[np.ndarray, "n classes"]:
    """Computes the logits of many images on the fastest path (:func:`faceflax.inference.compile`).

    Args:
        model: the network.
        variables: its variables.
        images: uint8, not yet normalised.
        flip: average the logits of each image and of its mirror image.

    Raises:
        FaceflaxError: no images.
    """
    from tqdm import tqdm

    from faceflax.inference import compile

    if len(images) == 0:
        raise FaceflaxError("images", images.shape, "shape {} holds none to evaluate", "check the split")
    predict = compile(model, variables)
    parts = []
    with tqdm(total=len(images), unit=" images", leave=False, disable=None) as bar:
        for start in range(0, len(images), IMAGES_TOGETHER):
            part = images[start : start + IMAGES_TOGETHER]
            views = (part, part[:, :, ::-1]) if flip else (part,)
            parts.append(np.mean([predict(normalize(view)) for view in views], axis=0))
            bar.update(len(part))
    return np.concatenate(parts)


def evaluate(logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"], names: Sequence[str]) -> Evaluation:
    """Compares the highest logit of each image with its label.

    Args:
        logits: of at least one image.
        labels: indices into ``names``.
        names: the classes, in the order of the logits.

    Example:
        >>> found = evaluate(np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]]), np.array([0, 1, 1]), ["woman", "man"])
        >>> print(f"{found.accuracy:.3f}", found.confusion.tolist())
        0.667 [[1.0, 0.0], [0.5, 0.5]]
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted, classes = logits.argmax(-1), range(len(names))
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0.0)
    support = np.bincount(labels, minlength=len(names))  # scikit-learn's are floats where no image is right
    confusion = confusion_matrix(labels, predicted, labels=classes, normalize="true")
    return Evaluation(tuple(names), float((predicted == labels).mean()), precision, recall, f1, support, confusion)
