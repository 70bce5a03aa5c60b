"""FullGrad: the gradient of the image and of everything that adds a constant on the way."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import Array, Float

from interpret.attribution import apply, method
from interpret.graph import Graph, Images, Model, Operation, Slot, is_relu, trace
from interpret.targets import Target

_LINEAR = {
    *("neg", "reduce_sum", "reduce_window_sum", "cumsum", "reshape", "transpose", "squeeze", "expand_dims", "copy"),
    *(
        "broadcast_in_dim",
        "slice",
        "dynamic_slice",
        "gather",
        "rev",
        "convert_element_type",
        "reduce_precision",
        "split",
    ),
    *("reduce_window_max", "reduce_max", "name", "sharding_constraint", "optimization_barrier"),
}
"""Operations that add no constant, whatever they are applied to; a maximum is its winner."""


@method(quick=False)  # it adds up what cancels: two sizes of a batch would show their rounding
def full_grad(
    model: Model, variables: Any, images: Images, target: Target = None, *, layer: str = "last_conv"
) -> Images:
    """FullGrad: gradient times input, and the gradient times the bias of every layer, each drawn where it acts.

    ``A = p(x * d s / d x) + sum over layers, channels of p(b * d s / d b)``, where ``p`` takes magnitudes, scales each
    layer of an image to [0, 1] and enlarges it to the image. Bias is all that an operation adds to its linear part:
    ``b = y - (d y / d x) x``, biases, BatchNorm's shifts and what nonlinearities add alike. Before ``p`` these sum to
    the score exactly, for any network (:func:`full_gradients`). Biases without a place, of dense layers, are in that
    sum and not in the map. Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization",
    NeurIPS 2019 (arXiv:1905.00780). Misleads: ``p`` takes the signs and sizes away that made it complete; and deep
    layers, whose biases are many, paint blobs over fine detail.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`~interpret.gradients.gradient`.

    Returns:
        A map of the shape of ``images``, zero or positive, the same in every channel.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.gradient`.
    """
    fixed = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]
    batch = images.shape[0]

    def drawn(part: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width"]:
        size = jnp.abs(part)
        low, high = (f(size, (1, 2, 3), keepdims=True) for f in (jnp.min, jnp.max))
        size = (size - low) / jnp.where(high > low, high - low, 1)
        return jax.image.resize(size.sum(-1), images.shape[:3], "linear")

    parts = full_gradients(trace(model, variables, images, plain=True), fixed)
    maps = sum(drawn(part) for part in parts if part.ndim == 4 and part.shape[0] == batch)
    return jnp.broadcast_to(jnp.asarray(maps)[..., None], images.shape).astype(images.dtype)


def full_gradients(graph: Graph, target: Any) -> list[Array]:
    """The image's and every bias's gradient times itself: arrays with a batch first, that sum to each image's score.

    Args:
        graph: a traced model.
        target: a :class:`~interpret.targets.Score`, chosen for good.
    """
    values = graph.run()
    moving = {graph.images}
    biases: dict[Slot, Array] = {}
    for operation in graph.operations:
        places = [i for i, slot in enumerate(operation.inputs) if not isinstance(slot, Literal) and slot in moving]
        places = [i for i in places if jnp.issubdtype(values[operation.inputs[i]].dtype, jnp.floating)]  # type: ignore[index]
        if not places:
            continue
        outputs = [slot for slot in operation.outputs if jnp.issubdtype(values[slot].dtype, jnp.floating)]
        moving.update(outputs)
        if outputs and not _is_linear(operation, places):
            biases.update(zip(outputs, _added(operation, places, values), strict=True))

    def score(shifts: dict[Slot, Array]) -> Array:
        return target.of(*graph.answer(graph.run(shifts=shifts))).sum()

    gradients = jax.grad(score)({slot: jnp.zeros_like(values[slot]) for slot in (graph.images, *biases)})
    return [values[graph.images] * gradients[graph.images], *(b * gradients[slot] for slot, b in biases.items())]


def _is_linear(operation: Operation, places: list[int]) -> bool:
    """Whether it adds no constant; a sum of branches does not, one with a constant does."""
    if operation.name in ("add", "add_any", "sub"):
        return len(places) == 2
    if operation.name in ("conv_general_dilated", "dot_general", "mul"):
        return len(places) == 1
    return operation.name in _LINEAR or (operation.name == "div" and places == [0]) or is_relu(operation)


def _added(operation: Operation, places: list[int], values: Any) -> list[Array]:
    """What an operation's results are more than their linear part."""
    operands = [atom.val if isinstance(atom, Literal) else values[atom] for atom in operation.inputs]

    def of(*moving: Array) -> list[Array]:
        filled = list(operands)
        for place, value in zip(places, moving, strict=True):
            filled[place] = value
        return [y for y in operation(*filled) if jnp.issubdtype(y.dtype, jnp.floating)]

    at: list[Any] = [operands[i] for i in places]
    results, linear = jax.jvp(of, at, at)
    return [y - part for y, part in zip(results, linear, strict=True)]
