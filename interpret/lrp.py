"""Layer-wise relevance propagation: the score handed back from layer to layer, each sharing it out among its inputs.

Bach, Binder, Montavon, Klauschen, Müller and Samek, "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by
Layer-Wise Relevance Propagation", PLoS ONE 2015 (doi:10.1371/journal.pone.0130140).

The layers are found in what the model computes (:mod:`interpret.graph`), so that sums of branches, pooling, grouped
convolutions and a head of one's own need nothing said about them:

* A *layer* is ``z = scale * sum of terms + bias``. A convolution, a matrix product or a sum over an axis or a window
  begins one, and what multiplies or adds constants behind it belongs to it. That is how BatchNorm is folded. A sum of
  two branches is a layer of two terms, each with weight one.
* An elementwise nonlinearity hands back what it gets; a maximum gives all to the winner; what only moves values moves
  relevance back.
* A loop of known length (``scan``, ``fori_loop``) is written out, so that its rounds are layers like any others.
* Any other operation between the image and the score is an error that names it: products of activations, softmax,
  a loop that runs as long as a value says (``while``), a branch (``cond``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import Array

from faceflax.errors import FaceflaxError
from interpret.attribution import at_least, method
from interpret.graph import Graph, Images, Model, Operation, Slot, is_relu, read, trace
from interpret.targets import Target

_SUMS = {"reduce_sum", "reduce_window_sum"}
_PRODUCTS = {"conv_general_dilated", "dot_general"}
_NONLINEAR = {"tanh", "logistic", "erf", "max", "min", "clamp"}
_MOVES = {
    *("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "dynamic_slice", "gather", "rev"),
    *("concatenate", "pad", "copy", "convert_element_type", "reduce_precision", "stack", "split", "select_n"),
    *("reduce_window_max", "reduce_max", "name", "sharding_constraint"),
}
"""Linear in their operands with weights of zero and one, or, for a maximum, so at the winner."""


@method("epsilon")
def lrp_epsilon(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    epsilon: float = 1e-6,
) -> Images:
    """LRP-epsilon: each input of a layer gets relevance by its share in the layer's output.

    ``R_i = sum_j z_ij / (z_j + epsilon sign z_j) R_j`` with ``z_ij = x_i w_ij`` and ``z_j = sum_i z_ij + b_j``, layer
    by layer from the score to the image; BatchNorm is folded into ``w`` and ``b``. What biases contributed stays with
    them, so the map sums to the score where there are none. In a network of ReLUs, maxima and linear layers a small
    ``epsilon`` gives gradient times input (Ancona et al., ICLR 2018, arXiv:1711.06104). Bach et al., PLoS ONE 2015
    (doi:10.1371/journal.pone.0130140).

    Args:
        model: as in :func:`~interpret.gradients.gradient`; see :mod:`interpret.lrp` for the operations it may apply.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`~interpret.gradients.gradient`.
        epsilon: keeps quotients finite; larger values also quieten small, contradictory contributions.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.gradient`, or an operation that has no rule.
    """
    at_least("epsilon", epsilon, 0)

    def share(part: _Layer, inputs: list[Array], relevance: Array) -> list[Array]:
        z, back = jax.vjp(lambda *x: part.contributions(x), *inputs)
        z = z + part.bias
        gradients = back(_quotient(relevance, z + jnp.where(z < 0, -epsilon, epsilon)))
        return [x * g for x, g in zip(inputs, gradients, strict=True)]

    return _propagate(trace(model, variables, images, plain=True), target, share)


@method("alpha")
def lrp_alpha_beta(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    alpha: float = 2.0,
) -> Images:
    """LRP-alpha-beta: what speaks for a layer's output and what speaks against it are shared out apart.

    ``R_i = sum_j (alpha z_ij+ / z_j+ - beta z_ij- / z_j-) R_j`` with ``beta = alpha - 1``, where ``+`` and ``-`` are
    the positive and negative parts of the contributions ``x_i w_ij`` and of the bias; BatchNorm is folded into both.
    Where one side is empty the other gets all of ``R_j``, so that nothing is lost. Bach et al., PLoS ONE 2015
    (doi:10.1371/journal.pone.0130140).

    Args:
        model: as in :func:`lrp_epsilon`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`~interpret.gradients.gradient`.
        alpha: the weight of what speaks for, 1 or more; with 1 no relevance changes its sign on the way.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`lrp_epsilon`.
    """
    at_least("alpha", alpha, 1)

    def share(part: _Layer, inputs: list[Array], relevance: Array) -> list[Array]:
        signs = [jnp.maximum(x, 0) for x in inputs], [jnp.minimum(x, 0) for x in inputs]
        (up, down), back = jax.vjp(part.signed_contributions, *signs)
        up, down = up + jnp.maximum(part.bias, 0), down + jnp.minimum(part.bias, 0)
        to_up = jnp.where(down == 0, 1, alpha) * _quotient(relevance, up)
        to_down = jnp.where(up == 0, 1, 1 - alpha) * _quotient(relevance, down)
        positive, negative = back((to_up, to_down))
        return [above * p + below * n for above, below, p, n in zip(*signs, positive, negative, strict=True)]

    return _propagate(trace(model, variables, images, plain=True), target, share)


def _quotient(relevance: Array, z: Array) -> Array:
    """``relevance / z``, and 0 where there is nothing to divide by."""
    return jnp.where(z == 0, 0, relevance / jnp.where(z == 0, 1, z))


@dataclasses.dataclass(frozen=True)
class _Term:
    """``linear(x, kernel)``, linear in both; without a kernel its weights are ones."""

    source: Slot
    linear: Callable[[Array, Array], Array]
    kernel: Array


@dataclasses.dataclass(frozen=True)
class _Layer:
    """``z = scale * sum of terms + bias``."""

    terms: tuple[_Term, ...]
    scale: Array
    bias: Array

    def contributions(self, inputs: Iterable[Array]) -> Array:
        """``z`` without its bias."""
        return self.scale * sum(t.linear(x, t.kernel) for t, x in zip(self.terms, inputs, strict=True))

    def signed_contributions(self, positive: list[Array], negative: list[Array]) -> tuple[Array, Array]:
        """The sums of the contributions above and below zero, for the positive and negative parts of the inputs."""
        up, down = [], []
        for term, above, below in zip(self.terms, positive, negative, strict=True):
            plus, minus = jnp.maximum(term.kernel, 0), jnp.minimum(term.kernel, 0)
            up.append(term.linear(above, plus) + term.linear(below, minus))
            down.append(term.linear(above, minus) + term.linear(below, plus))
        flipped = self.scale < 0
        return (
            self.scale * jnp.where(flipped, sum(down), sum(up)),
            self.scale * jnp.where(flipped, sum(up), sum(down)),
        )


Share = Callable[[_Layer, list[Array], Array], list[Array]]
"""Shares out a layer's relevance among its inputs."""


@dataclasses.dataclass(frozen=True)
class _Step:
    """How relevance gets from the results of an operation back to its operands."""

    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    back: Callable[[list[Array]], list[Array]]


def _propagate(graph: Graph, target: Any, share: Share) -> Images:
    """Runs the model forwards, then relevance backwards to the images."""
    values, steps = _forwards(graph, share)
    start = graph.logits if target.layer is None else graph.features[target.layer]
    features = dict(zip(graph.features, read(values, graph.features.values()), strict=True))
    (logits,) = read(values, [graph.logits])

    def score(value: Array) -> Array:
        if target.layer is None:
            return target.of(value, features).sum()
        return target.of(logits, features | {target.layer: value}).sum()

    (value,) = read(values, [start])
    relevance = {start: value * jax.grad(score)(value)}
    for step in reversed(steps):
        if any(slot in relevance for slot in step.outputs):
            received = [relevance.pop(slot, jnp.zeros_like(values[slot])) for slot in step.outputs]
            for slot, amount in zip(step.inputs, step.back(received), strict=True):
                relevance[slot] = relevance[slot] + amount if slot in relevance else amount
    return relevance.get(graph.images, jnp.zeros_like(values[graph.images]))


def _forwards(graph: Graph, share: Share) -> tuple[dict[Slot, Array], list[_Step]]:
    """Returns all values, and the steps backwards in the order of computation.

    A result behind which a layer goes on has a step like any other; nothing asks for it unless something else reads the
    result as well.
    """
    values = dict(graph.values)
    steps: list[_Step] = []
    layers: dict[Slot, _Layer] = {}
    moving = {graph.images}  # what depends on the images

    for operation in graph.operations:
        operands = read(values, operation.inputs)
        values.update(zip(operation.outputs, operation(*operands), strict=True))
        places = [i for i, slot in enumerate(operation.inputs) if not isinstance(slot, Literal) and slot in moving]
        floating = [slot for slot in operation.outputs if jnp.issubdtype(values[slot].dtype, jnp.floating)]
        if not places or not floating:
            continue  # a constant, or a comparison: what it decides is taken as given
        moving.update(floating)
        slots = _slots(operation, places)
        layer = _layer_of(operation, operands, places, layers)
        if layer is not None:
            layers[operation.outputs[0]] = layer
            sources = tuple(term.source for term in layer.terms)
            steps.append(_Step(sources, operation.outputs, _sharing(share, layer, [values[s] for s in sources])))
        elif is_relu(operation) or (operation.name in _NONLINEAR and len(places) == 1):
            steps.append(_Step(slots, operation.outputs, lambda received: received))
        else:
            steps.append(_Step(slots, operation.outputs, _moving(operation, operands, places)))
    return values, steps


def _layer_of(
    operation: Operation, operands: list[Array], places: list[int], layers: dict[Slot, _Layer]
) -> _Layer | None:
    """The layer that an operation begins or goes on with, if any."""
    one, zero = jnp.ones(()), jnp.zeros(())
    slots = _slots(operation, places)
    if operation.name in ("add", "add_any", "sub") and len(places) == 2:
        signs = (one, -one if operation.name == "sub" else one)
        return _Layer(tuple(_Term(s, jnp.multiply, sign) for s, sign in zip(slots, signs, strict=True)), one, zero)
    if len(places) > 1:
        return None
    (place,), (slot,) = places, slots
    if operation.name in _SUMS:
        return _Layer((_Term(slot, lambda x, kernel: operation(x)[0] * kernel, one),), one, zero)
    if operation.name in _PRODUCTS:
        return _Layer((_Term(slot, _at(operation, place), operands[1 - place]),), one, zero)
    before = layers.get(slot) or _Layer((_Term(slot, jnp.multiply, one),), one, zero)
    match operation.name, place:
        case (("add" | "add_any"), _):
            return dataclasses.replace(before, bias=before.bias + operands[1 - place])
        case "sub", 0:
            return dataclasses.replace(before, bias=before.bias - operands[1])
        case "sub", 1:
            return dataclasses.replace(before, scale=-before.scale, bias=operands[0] - before.bias)
        case "neg", _:
            return dataclasses.replace(before, scale=-before.scale, bias=-before.bias)
        case "mul", _:
            factor = operands[1 - place]
            return dataclasses.replace(before, scale=before.scale * factor, bias=before.bias * factor)
        case "div", 0:
            return dataclasses.replace(before, scale=before.scale / operands[1], bias=before.bias / operands[1])
    return None


def _slots(operation: Operation, places: list[int]) -> tuple[Slot, ...]:
    return tuple(slot for slot in (operation.inputs[i] for i in places) if not isinstance(slot, Literal))


def _at(operation: Operation, place: int) -> Callable[[Array, Array], Array]:
    """A product as a function of what stands at ``place`` and of the other factor."""
    return lambda x, kernel: operation(*((x, kernel) if place == 0 else (kernel, x)))[0]


def _sharing(share: Share, layer: _Layer, inputs: list[Array]) -> Callable[[list[Array]], list[Array]]:
    return lambda received: share(layer, inputs, received[0])


def _moving(operation: Operation, operands: list[Array], places: list[int]) -> Callable[[list[Array]], list[Array]]:
    """The step back of an operation that moves values or picks the largest."""

    def back(received: list[Array]) -> list[Array]:
        if operation.name not in _MOVES:
            raise FaceflaxError(
                "model",
                operation.name,
                "its operation {} on activations has no rule of relevance propagation",
                "use another method, such as integrated_gradients",
            )

        def function(*moving: Array) -> list[Array]:
            filled = list(operands)
            for place, value in zip(places, moving, strict=True):
                filled[place] = value
            return operation(*filled)

        return list(jax.vjp(function, *(operands[i] for i in places))[1](received))

    return back
