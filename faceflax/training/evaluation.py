"""How well a network labels a split: accuracy, precision, recall, F1, and the confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from tqdm import tqdm

from faceflax.errors import FaceflaxError
from faceflax.preprocessing import normalize


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
    batch_size: int = 256,
    flip: bool = False,
) -> Float[np.ndarray, "n classes"]:
    """Computes the logits of many images, compiled once for one batch size.

    Args:
        model: the network.
        variables: its variables.
        images: uint8, not yet normalised.
        batch_size: images a call, at most.
        flip: average the logits of each image and of its mirror image.

    Raises:
        FaceflaxError: no images.
    """
    if len(images) == 0:
        raise FaceflaxError("images: there are none to evaluate; check the split")

    @jax.jit
    def logits_of(batch: UInt8[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        views = (batch, batch[:, :, ::-1]) if flip else (batch,)
        return sum(model.apply(variables, normalize(view), train=False)[0] for view in views) / len(views)

    batch_size = min(batch_size, len(images))
    batches = []
    with tqdm(total=len(images), unit=" images", leave=False, disable=None) as bar:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            padding = ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0))
            batches.append(np.asarray(logits_of(np.pad(batch, padding)))[: len(batch)])
            bar.update(len(batch))
    return np.concatenate(batches)


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
    predicted, classes = logits.argmax(-1), range(len(names))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0.0
    )
    confusion = confusion_matrix(labels, predicted, labels=classes, normalize="true")
    return Evaluation(tuple(names), float((predicted == labels).mean()), precision, recall, f1, support, confusion)


def fit_temperature(logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> float:
    """The temperature at which ``softmax(logits / temperature)`` has the lowest cross-entropy, in [0.05, 20].

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.

    Example:
        >>> logits = np.array([[4.0, 0.0]] * 4)
        >>> temperature = fit_temperature(logits, np.array([0, 0, 0, 1]))  # right three times of four: odds 3 to 1
        >>> print(f"{temperature:.2f} {4 / np.log(3):.2f}")
        3.64 3.64
    """
    logits = logits.astype(np.float64)
    right = logits[np.arange(len(labels)), labels]

    def cross_entropy(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float((logsumexp(logits * scale, axis=1) - right * scale).mean())

    return float(np.exp(minimize_scalar(cross_entropy, bounds=np.log([0.05, 20]), method="bounded").x))


def confusion_figure(evaluation: Evaluation, title: str) -> Figure:
    """Draws the confusion matrix, in percent of the images of each label (row); save it with ``figure.savefig``."""
    names, shares = evaluation.names, evaluation.confusion
    side = 1.8 + 0.62 * len(names)
    figure = Figure(figsize=(max(side, 4.2) + 0.6, max(side, 4.2)), layout="compressed")
    axes = figure.subplots()
    picture = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(shares.shape):
        colour = "white" if shares[row, column] > 0.65 else "black"
        axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), [f"{name} ({n:,})" for name, n in zip(names, evaluation.support, strict=True)])
    axes.set(xlabel="predicted", ylabel="label (images)")
    figure.suptitle(title, fontsize="medium")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(
        picture, ax=axes, shrink=0.8, format="{x:.0f}%", label="share of the label's images"
    ).outline.set_visible(False)
    return figure
