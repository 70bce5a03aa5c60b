"""Examples as explanations: which training images made the network answer so, and which it sees alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from faceflax.errors import FaceflaxError, unknown
from interpret.attribution import answer_shapes, apply, at_least, checked_images
from interpret.compiling import compiled
from interpret.graph import Images, Model
from interpret.targets import checked_layer

DISTANCES = ("euclidean", "cosine")


def tracin(
    model: Model,
    checkpoints: Sequence[Any],
    train_images: Images,
    train_labels: Int[np.ndarray, " train"],
    images: Images,
    labels: Int[np.ndarray, " batch"],
    *,
    rates: Sequence[float] | None = None,
) -> Float[Array, "batch train"]:
    """TracIn: how much training on each example lowered the loss of each image, by checkpoints of the training.

    ``I(z, z') = sum over checkpoints of rate * grad L(z) . grad L(z')``, with the cross-entropy ``L`` and gradients by
    the parameters. Positive: a proponent, which taught the network that answer; negative: an opponent. Pruthi, Liu,
    Kale and Sundararajan, "Estimating Training Data Influence by Tracing Gradient Descent", NeurIPS 2020
    (arXiv:2002.08484). Misleads: examples with large losses, such as outliers and wrong labels, have large gradients
    and influence everything; and it is of plain gradient descent, whatever the optimiser was.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        checkpoints: variables at several times of the training. Of collections as Linen's, the gradient is by
            ``params``; of others by every array of floating point numbers.
        train_images: ``[train, height, width, channels]``, as the model takes them.
        train_labels: their classes.
        images: those that are explained.
        labels: their classes, true or perceived.
        rates: the learning rate at each checkpoint; 1 if not given.

    Returns:
        For each image, each training example's influence.

    Raises:
        FaceflaxError: no checkpoints, or rates or labels that do not fit.

    Example:
        >>> class Linear:
        ...     def apply(self, variables, images, train=False):
        ...         return images.mean((1, 2)) @ variables, {}
        >>> images, labels = jnp.array([1.0, -1.0]).reshape(2, 1, 1, 1), np.array([0, 0])
        >>> print(tracin(Linear(), [jnp.zeros((1, 2))], images, labels, images[:1], labels[:1]))
        [[ 0.5 -0.5]]
    """
    if not checkpoints:
        raise FaceflaxError("checkpoints", None, "hold no variables", "give those of one or more times of the training")
    rates = [1.0] * len(checkpoints) if rates is None else rates
    if len(rates) != len(checkpoints):
        raise FaceflaxError("rates", len(rates), f"{{}} do not fit {len(checkpoints)} checkpoints")
    pairs = [(checked_images(train_images), train_labels), (checked_images(images), labels)]
    for (given, classes), field in zip(pairs, ("train_labels", "labels"), strict=True):
        logits, _ = answer_shapes(model, checkpoints[0], given)
        if np.shape(classes) != (len(given),) or not np.issubdtype(np.asarray(classes).dtype, np.integer):
            raise FaceflaxError(
                field, np.shape(classes), f"shape {{}} is not one class for each of {len(given)} images"
            )
        if not ((np.asarray(classes) >= 0) & (np.asarray(classes) < logits.shape[1])).all():
            raise FaceflaxError(field, None, "are out of range", f"give 0 to {logits.shape[1] - 1}")
    total = jnp.zeros((len(images), len(train_images)))
    for rate, variables in zip(rates, checkpoints, strict=True):
        train, here = (_gradients(model, variables, *pair) for pair in pairs)
        total = total + rate * here @ train.T
    return total


@partial(compiled, static=("model",))
def _gradients(model: Model, variables: Any, images: Images, labels: Any) -> Float[Array, "batch parameters"]:
    """Each image's gradient of the loss by all parameters, one image at a time."""
    whole = isinstance(variables, Mapping) and "params" in variables
    learned, rest = (variables["params"], variables) if whole else (variables, None)

    def loss(learned: Any, image: Array, label: Array) -> Array:
        filled = {**rest, "params": learned} if rest is not None else learned
        logits, _ = model.apply(filled, image[None], train=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits[0].astype(jnp.float32), label)

    def one(pair: tuple[Array, Array]) -> Array:
        gradients = jax.grad(loss, allow_int=True)(learned, *pair)
        leaves = [leaf.ravel() for leaf in jax.tree.leaves(gradients) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return jnp.concatenate(leaves).astype(jnp.float32)

    return jax.lax.map(one, (images, jnp.asarray(labels)))


def nearest_activations(
    model: Model,
    variables: Any,
    images: Images,
    among: Images,
    *,
    layer: str,
    count: int = 5,
    distance: str = "euclidean",
) -> tuple[Int[np.ndarray, "batch count"], Float[np.ndarray, "batch count"]]:
    """The images of a set whose activations in a layer are nearest: what the network sees as alike.

    Misleads: near in a layer is not near for the decision, and in layers with places the same thing elsewhere is far.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: those that are explained.
        among: the set, such as the training images.
        layer: a name in ``features``.
        count: how many of each image.
        distance: ``euclidean``, or ``cosine``: one less the cosine of the angle.

    Returns:
        Indices into ``among``, nearest first, and the distances.

    Raises:
        FaceflaxError: unknown layer or distance, or a count beyond the set.

    Example:
        >>> class Net:
        ...     def apply(self, variables, images, train=False):
        ...         return images.mean((1, 2)), {"pixels": images}
        >>> among = jnp.array([0.0, 3.0, 1.0]).reshape(3, 1, 1, 1)
        >>> indices, distances = nearest_activations(Net(), {}, among[1:2] - 1, among, layer="pixels", count=2)
        >>> print(indices, distances)
        [[1 2]] [[1. 1.]]
    """
    if distance not in DISTANCES:
        raise unknown("distance", distance, DISTANCES)
    at_least("count", count, 1, len(among))

    def activations(given: Images) -> Float[np.ndarray, "n features"]:
        given = checked_images(given)
        checked_layer(layer, answer_shapes(model, variables, given)[1])
        rows = np.asarray(apply(model, variables, given)[1][layer], np.float64).reshape(len(given), -1)
        if distance == "cosine":
            length = np.linalg.norm(rows, axis=1, keepdims=True)
            rows = rows / np.where(length > 0, length, 1)
        return rows

    here, there = activations(images), activations(among)
    if distance == "cosine":
        distances = 1 - here @ there.T
    else:
        squares = (here**2).sum(1)[:, None] + (there**2).sum(1) - 2 * here @ there.T
        distances = np.sqrt(np.maximum(squares, 0))
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(distances, order, 1)
