"""What a network is fitted to, and how far off it is: target distributions and the loss."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from faceflax.errors import FaceflaxError, said
from faceflax.files import check_file


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


_MAGIC = b"\x93NUMPY"


def read_soft_labels(file: Path, shape: tuple[int, int]) -> Float[np.ndarray, "n classes"]:
    """Reads soft labels: an ``.npy`` file of one distribution an example, in the order of the training split.

    Args:
        file: the file, as ``experiments/tools/soft_labels.py`` writes it.
        shape: the number of training examples and of classes.

    Raises:
        FaceflaxError: no such file, not an array of that shape, or rows that are no distributions.
    """
    remedy = "write one with: python -m experiments.tools.soft_labels"
    check_file("soft_labels", file, remedy=remedy)
    try:
        with open(file, "rb") as opened:
            if opened.read(len(_MAGIC)) != _MAGIC:
                raise ValueError("it is none")
        soft = np.load(file, mmap_mode="r", allow_pickle=False)  # not read before its shape is known to be right
    except Exception as error:  # a damaged file makes NumPy raise almost anything
        problem = f"cannot read {{}} as an .npy file ({said(error)})"
        raise FaceflaxError("soft_labels", file, problem, remedy) from None
    if soft.shape != shape or soft.dtype != np.float32:
        problem = f"holds {soft.dtype} {soft.shape}, but the training split needs float32 {shape}"
        raise FaceflaxError("soft_labels", file, problem, "write it for this dataset")
    soft = np.array(soft)
    wrong = ~(np.isfinite(soft).all(1) & (soft >= 0).all(1) & (np.abs(soft.sum(1) - 1) < 1e-3))
    if wrong.any():
        row = int(wrong.argmax())
        raise FaceflaxError(
            "soft_labels",
            file,
            f"row {row} of {{}} is {soft[row].tolist()}, not a distribution (as are {wrong.sum()} rows in all)",
            "give numbers from 0 up that sum to 1",
        )
    return soft


def cross_entropy(logits: Float[Array, "batch classes"], targets: Float[Array, "batch classes"]) -> Float[Array, ""]:
    """The batch's mean of ``-sum_c targets[c] log p[c]``, with ``p = softmax(logits)``.

    Example:
        >>> import jax.numpy as jnp
        >>> logits, targets = jnp.log(jnp.array([[0.75, 0.25]])), jnp.array([[1.0, 0.0]])
        >>> print(f"{cross_entropy(logits, targets):.4f} {-np.log(0.75):.4f}")
        0.2877 0.2877
    """
    return optax.losses.softmax_cross_entropy(logits, targets).mean()


def disagreement(logits: Float[Array, "views classes"]) -> Float[Array, ""]:
    """How much the predictions for two views of an image differ: the mean Jensen-Shannon divergence, in nats.

    It is 0 where they are equal and at most log 2. Hendrycks, Mu, Cubuk, Zoph, Gilmer and Lakshminarayanan, "AugMix: A
    Simple Data Processing Method to Improve Robustness and Uncertainty", ICLR 2020 (of three views).

    Args:
        logits: rows 0 and 1 are of one image, 2 and 3 of the next.

    Example:
        >>> import jax.numpy as jnp
        >>> same, other = jnp.log(jnp.array([[0.5, 0.5], [0.5, 0.5]])), jnp.array([[99.0, 0.0], [0.0, 99.0]])
        >>> print(f"{disagreement(same):.4f} {disagreement(other):.4f} {np.log(2):.4f}")
        0.0000 0.6931 0.6931
    """
    views = jax.nn.log_softmax(logits).reshape(-1, 2, logits.shape[1])
    middle = jnp.logaddexp(views[:, 0], views[:, 1]) - jnp.log(2.0)
    return (jnp.exp(views) * (views - middle[:, None])).sum((1, 2)).mean() / 2
