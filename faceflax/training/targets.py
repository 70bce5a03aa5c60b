"""What a network is fitted to, and how far off it is: target distributions, class weights, the loss."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from faceflax.errors import FaceflaxError


def make_targets(
    labels: Int[np.ndarray, " n"],
    classes: int,
    *,
    smoothing: float = 0.0,
    soft: Float[np.ndarray, "n classes"] | None = None,
    soft_weight: float = 0.0,
) -> Float[np.ndarray, "n classes"]:
    """The distribution that each example is fitted to, float32; rows sum to 1.

    Args:
        labels: the hard labels.
        classes: how many classes there are.
        smoothing: share of a hard label that is spread evenly over all classes.
        soft: distributions to mix in, such as annotators' votes or a teacher's probabilities (Hinton, Vinyals and Dean,
            "Distilling the Knowledge in a Neural Network", 2015).
        soft_weight: their share.

    Example:
        >>> print(make_targets(np.array([1]), 2, soft=np.array([[0.5, 0.5]]), soft_weight=0.5))
        [[0.25 0.75]]
    """
    hard = np.eye(classes, dtype=np.float32)[labels] * (1 - smoothing) + smoothing / classes
    mixed = hard if soft is None else (1 - soft_weight) * hard + soft_weight * soft
    return mixed.astype(np.float32)


def read_soft_labels(file: Path, shape: tuple[int, int]) -> Float[np.ndarray, "n classes"]:
    """Reads ``--soft-labels``: an ``.npy`` file of one distribution an example, in the order of the training split.

    Args:
        file: the file, as ``experiments/tools/soft_labels.py`` writes it.
        shape: the number of training examples and of classes.

    Raises:
        FaceflaxError: no such file, not an array of that shape, or rows that are no distributions.
    """
    try:
        soft = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FaceflaxError(
            f"--soft-labels: cannot read {str(file)!r} as an .npy file ({error}); "
            "write one with: python -m experiments.tools.soft_labels"
        ) from None
    if not isinstance(soft, np.ndarray) or soft.shape != shape or soft.dtype != np.float32:
        found = f"{soft.dtype} {soft.shape}" if isinstance(soft, np.ndarray) else "an archive"
        raise FaceflaxError(
            f"--soft-labels: {str(file)!r} holds {found}, but the training split needs float32 {shape}; "
            "write it for this dataset"
        )
    wrong = ~(np.isfinite(soft).all(1) & (soft >= 0).all(1) & (np.abs(soft.sum(1) - 1) < 1e-3))
    if wrong.any():
        row = int(wrong.argmax())
        raise FaceflaxError(
            f"--soft-labels: row {row} of {str(file)!r} is {soft[row].tolist()}, not a distribution "
            f"(as are {wrong.sum()} rows in all); give numbers from 0 up that sum to 1"
        )
    return soft


def class_weights(labels: Int[np.ndarray, " n"], classes: int, beta: float) -> Float[np.ndarray, " classes"]:
    """Weights of the classes by the inverse of their effective number of examples, ``(1 - beta^n) / (1 - beta)``.

    Cui, Jia, Lin, Song and Belongie, "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019. They are
    scaled so that the mean weight of the examples is 1: the step size does not change with ``beta``.

    Args:
        labels: of the training split.
        classes: how many classes there are.
        beta: 0 weighs all examples alike, 1 by the inverse of their class's frequency.

    Example:
        >>> labels = np.array([0, 0, 0, 1])
        >>> print(class_weights(labels, 2, 0.0), class_weights(labels, 2, 1.0).round(2))
        [1. 1.] [0.67 2.  ]
    """
    counts = np.bincount(labels, minlength=classes)
    effective = counts.clip(1) if beta == 1 else (1 - beta ** counts.clip(1)) / (1 - beta)
    weights = 1 / effective
    return (weights * len(labels) / (weights * counts).sum()).astype(np.float32)


def cross_entropy(
    logits: Float[Array, "batch classes"],
    targets: Float[Array, "batch classes"],
    weights: Float[Array, " classes"],
    focal: float = 0.0,
) -> Float[Array, ""]:
    """The batch's mean of ``-sum_c weights[c] targets[c] (1 - p[c])**focal log p[c]``, with ``p = softmax(logits)``.

    At ``focal=0`` the weighted cross-entropy; above, examples that are right already count for less: Lin, Goyal,
    Girshick, He and Dollár, "Focal Loss for Dense Object Detection", ICCV 2017.

    Example:
        >>> logits, targets = jnp.log(jnp.array([[0.75, 0.25]])), jnp.array([[1.0, 0.0]])
        >>> print(f"{cross_entropy(logits, targets, jnp.ones(2), focal=2.0):.4f} {-0.25**2 * np.log(0.75):.4f}")
        0.0180 0.0180
    """
    log_p = jax.nn.log_softmax(logits)
    # A power's slope at 0 is infinite below exponent 1, so 1 - p stays above 0.
    unsure = -jnp.expm1(log_p.clip(max=-1e-6))
    return -(weights[None, :] * targets * unsure**focal * log_p).sum(-1).mean()
