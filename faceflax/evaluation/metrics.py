"""How well a network labels a split: accuracy with its interval, per class and group, and how sure it may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from scipy.stats import binom
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from tqdm import tqdm

from faceflax.errors import FaceflaxError
from faceflax.preprocessing import normalize


@dataclass(frozen=True)
class Share:
    """``right`` of ``count``; it prints as a percentage with its interval.

    Example:
        >>> print(Share(75, 100))
        75.00% [66.00%, 83.00%]
    """

    right: int
    count: int

    @classmethod
    def of(cls, right: Bool[np.ndarray, " n"]) -> Share:
        """Counts what is true."""
        return cls(int(right.sum()), right.size)

    @property
    def value(self) -> float:
        """The share, in [0, 1]; 0 of nothing is 0."""
        return self.right / max(self.count, 1)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% percentile bootstrap interval, in its limit of infinitely many resamples; nothing gives [0, 1].

        Resampling ``count`` outcomes of which ``right`` are 1, with replacement, gives a binomially distributed number
        of ones, whose quantiles need no random numbers. Efron and Tibshirani, "An Introduction to the Bootstrap", 1993.
        """
        if self.count == 0:
            return 0.0, 1.0
        low, high = binom.ppf([0.025, 0.975], self.count, self.value) / self.count
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.2%} [{low:.2%}, {high:.2%}]"


@dataclass(frozen=True)
class Calibration:
    """How often predictions are right, by how sure they are: bins of equal width over [0, 1].

    Attributes:
        confidence: mean probability of the predicted class in each bin; 0 where it is empty.
        accuracy: share of the bin's predictions that are right; 0 where it is empty.
        count: predictions in each bin.
    """

    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    count: Int[np.ndarray, " bins"]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean of |accuracy - confidence| over the predictions, by bin."""
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.count))


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


def calibrate(
    logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"], temperature: float = 1.0, bins: int = 15
) -> Calibration:
    """Compares how sure ``softmax(logits / temperature)`` is of its highest class with how often that class is right.

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.

    Example:
        >>> logits = np.log([[0.8, 0.2]] * 4)  # 80% sure, right three times of four
        >>> print(f"{calibrate(logits, np.array([0, 0, 0, 1])).error:.3f}")
        0.050
    """
    confidence = softmax(logits.astype(np.float64) / temperature, axis=1).max(1)
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(index, values, bins) / np.maximum(count, 1)

    return Calibration(mean(confidence), mean(logits.argmax(1) == labels), count)


def group_shares(
    right: Bool[np.ndarray, " n"], names: Sequence[str], members: Int[np.ndarray, " n"]
) -> dict[str, Share]:
    """Returns the share that is right in each group that has any example.

    Args:
        right: whether each example was labelled right.
        names: the groups.
        members: for each example, an index into ``names``.

    Example:
        >>> group_shares(np.array([True, False, True]), ["young", "old"], np.array([0, 0, 1]))
        {'young': Share(right=1, count=2), 'old': Share(right=1, count=1)}
    """
    right_counts, counts = np.bincount(members, right, len(names)), np.bincount(members, minlength=len(names))
    return {name: Share(int(k), int(n)) for name, k, n in zip(names, right_counts, counts, strict=True) if n}


def worst(groups: Mapping[str, Share]) -> tuple[str, float]:
    """Returns the group of the lowest share and how far it lies below that of all groups together.

    Example:
        >>> name, gap = worst({"young": Share(9, 10), "old": Share(7, 10)})
        >>> print(name, f"{gap:.2f}")
        old 0.10
    """
    everything = Share(sum(s.right for s in groups.values()), sum(s.count for s in groups.values()))
    name = min(groups, key=lambda name: groups[name].value)
    return name, everything.value - groups[name].value
