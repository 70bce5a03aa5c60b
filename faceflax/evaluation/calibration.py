"""How far predicted probabilities agree with how often they are right, and the temperature that makes them agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Calibration:
    """How often predictions are right, by their confidence: bins of equal width over [0, 1].

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
        """Expected calibration error: the mean of ``|accuracy - confidence|`` over the predictions, by bin."""
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.count))


def fit_temperature(
    logits: Float[np.ndarray, "n classes"],
    labels: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"] | None = None,
) -> float:
    """The temperature at which ``softmax(logits / temperature)`` has the lowest cross-entropy, in [0.05, 20].

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.

    Args:
        logits: of the images.
        labels: what is right.
        weights: how much each image counts; all the same if not given.

    Example:
        >>> logits = np.array([[4.0, 0.0]] * 4)
        >>> temperature = fit_temperature(logits, np.array([0, 0, 0, 1]))  # right three times of four: odds 3 to 1
        >>> print(f"{temperature:.2f} {4 / np.log(3):.2f}")
        3.64 3.64
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    logits = logits.astype(np.float64)
    right = logits[np.arange(len(labels)), labels]

    def cross_entropy(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.average(logsumexp(logits * scale, axis=1) - right * scale, weights=weights))

    return float(np.exp(minimize_scalar(cross_entropy, bounds=np.log([0.05, 20]), method="bounded").x))


def sure_from(
    logits: Float[np.ndarray, "n classes"],
    labels: Int[np.ndarray, " n"],
    temperature: float,
    accuracy: float,
    weights: Float[np.ndarray, " n"] | None = None,
) -> dict[str, float]:
    """The lowest probability at which a label is sure: those with at least as high a one are right often enough.

    El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 2010.

    Args:
        logits: of the images.
        labels: what is right.
        temperature: of the softmax.
        accuracy: the least share of sure labels that is right, in [0, 1].
        weights: how much each image counts; all the same if not given.

    Returns:
        ``confidence``, the probability, or 1 where no labels are right so often; ``accuracy``, the share of the labels
        with at least this probability that is right; ``coverage``, their share of all.

    Example:
        >>> logits = np.log([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
        >>> found = sure_from(logits, np.array([0, 0, 1, 0]), temperature=1.0, accuracy=0.75)
        >>> print({name: round(float(value), 2) for name, value in found.items()})
        {'confidence': 0.6, 'accuracy': 0.75, 'coverage': 1.0}
    """
    from scipy.special import softmax

    confidence = softmax(logits.astype(np.float64) / temperature, axis=1).max(1)
    count = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(-confidence, kind="stable")
    seen = count[order].cumsum()
    right = ((logits.argmax(1) == labels) * count)[order].cumsum() / seen
    # Of equal probabilities all are sure or none is.
    ends = np.append(np.diff(confidence[order]) < 0, True)
    enough = np.flatnonzero(ends & (right >= accuracy))
    if not len(enough):
        return {"confidence": 1.0, "accuracy": 0.0, "coverage": 0.0}
    last = enough[-1]
    return {
        "confidence": float(confidence[order][last]),
        "accuracy": float(right[last]),
        "coverage": float(seen[last] / seen[-1]),
    }


def calibrate(
    logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"], temperature: float = 1.0, bins: int = 15
) -> Calibration:
    """Compares the highest probability of ``softmax(logits / temperature)`` with how often its class is right.

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.

    Example:
        >>> logits = np.log([[0.8, 0.2]] * 4)  # confidence 80%, right three times of four
        >>> print(f"{calibrate(logits, np.array([0, 0, 0, 1])).error:.3f}")
        0.050
    """
    from scipy.special import softmax

    confidence = softmax(logits.astype(np.float64) / temperature, axis=1).max(1)
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(index, values, bins) / np.maximum(count, 1)

    return Calibration(mean(confidence), mean(logits.argmax(1) == labels), count)
