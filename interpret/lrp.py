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
* Any other operation between the image and the score is an error that names it: a loop that runs as long as a value
  says (``while``), a branch (``cond``), and, for all but :func:`attn_lrp`, products of activations and softmax.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import Array

from faceflax.errors import FaceflaxError, unknown
from interpret.attribution import Method, at_least, method
from interpret.graph import Graph, Images, Model, Operation, Slot, is_relu, read, trace
from interpret.targets import Target

_SUMS = {"reduce_sum", "reduce_window_sum"}
_PRODUCTS = {"conv_general_dilated", "dot_general"}
_AFFINE = {"add", "add_any", "sub", "neg", "mul", "div"}
_NONLINEAR = {"tanh", "logistic", "erf", "max", "min", "clamp"}
_UNARY = {
    *("add", "add_any", "sub", "neg", "mul", "div", "tanh", "logistic", "erf", "erfc", "exp", "expm1", "log1p", "log"),
    *("square", "integer_pow", "pow", "max", "min", "clamp", "custom_jvp_call", "convert_element_type", "abs", "sign"),
}
"""Elementwise in their one operand that depends on the images."""
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
    return _propagate(trace(model, variables, images, plain=True), target, _by_epsilon(epsilon))


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
    Where one side is empty the other gets all of ``R_j``, so that nothing is lost; Zennit's rule weighs it by ``alpha``
    or drops it, and shares out sums of branches by their values instead. Bach et al., PLoS ONE 2015
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
    return _propagate(trace(model, variables, images, plain=True), target, _by_signs(alpha))


RULES = ("epsilon", "z_plus", "gamma", "flat", "w_squared")
"""The rules of :func:`lrp_composite`."""


@method("convolution", "dense", "first", "epsilon", "gamma")
def lrp_composite(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    convolution: str = "z_plus",
    dense: str = "epsilon",
    first: str | None = "flat",
    epsilon: float = 1e-6,
    gamma: float = 0.25,
) -> Images:
    """LRP with a rule for each kind of layer: a composite, as Zennit calls it. The default is epsilon-plus-flat.

    With ``z_ij = x_i w_ij`` and ``z_j = sum_i z_ij + b_j`` a layer's input ``i`` gets ``R_i = sum_j r_ij R_j``, where
    ``r_ij`` is

    * ``epsilon``: ``z_ij / (z_j + epsilon sign z_j)``;
    * ``z_plus``: ``z_ij+ / z_j+``, what speaks for it alone (:func:`lrp_alpha_beta` with ``alpha=1``); where nothing
      does, Zennit drops the relevance, and here it goes to what speaks against;
    * ``gamma``: ``(z_ij + gamma z_ij+) / (z_j + gamma z_j+)`` where ``z_j >= 0``, and with ``-`` for ``+`` elsewhere;
    * ``flat``: the same for all inputs that the output sees;
    * ``w_squared``: ``w_ij^2 / sum_i w_ij^2``.

    Pooling and sums of branches have the epsilon rule. Montavon, Binder, Lapuschkin, Samek and Müller, "Layer-Wise
    Relevance Propagation: An Overview", 2019 (doi:10.1007/978-3-030-28954-6_10); composites as in Anders et al.,
    "Software for Dataset-wide XAI", 2021 (arXiv:2106.13200). Misleads: with ``z_plus`` nearly everywhere the map hardly
    depends on the class (Sixt, Granz and Landgraf, ICML 2020, arXiv:1912.09818); ``flat`` blurs by construction.

    Args:
        model: as in :func:`lrp_epsilon`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`~interpret.gradients.gradient`.
        convolution: the rule of convolutions.
        dense: the rule of matrix products.
        first: the rule of those that see the image itself, or None for that of their kind.
        epsilon: as in :func:`lrp_epsilon`.
        gamma: how much more counts what speaks for the output.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`lrp_epsilon`, or an unknown rule.

    Example:
        >>> import flax.linen as nn
        >>> class Sum(nn.Module):
        ...     def __call__(self, images, train=False):
        ...         return images.reshape(images.shape[0], -1) @ jnp.array([[1.0], [3.0]]), {}
        >>> images = jnp.array([2.0, 1.0]).reshape(1, 1, 2, 1)
        >>> print(lrp_composite(Sum(), {}, images, 0, first="flat").ravel())
        [2.5 2.5]
        >>> print(lrp_composite(Sum(), {}, images, 0, first="w_squared").ravel())
        [0.5 4.5]
    """
    at_least("epsilon", epsilon, 0)
    at_least("gamma", gamma, 0)
    for field, rule in (("convolution", convolution), ("dense", dense), ("first", first)):
        if rule is not None and rule not in RULES:
            raise unknown(field, rule, RULES)
    shares: dict[str, Share] = {
        "epsilon": _by_epsilon(epsilon),
        "z_plus": _by_signs(1.0),
        "gamma": _by_gamma(gamma),
        "flat": _by_weights(jnp.ones_like),
        "w_squared": _by_weights(jnp.square),
    }
    kinds = {"convolution": convolution, "dense": dense, "sum": "epsilon"}

    def share(part: _Layer, inputs: list[Array], relevance: Array) -> list[Array]:
        rule = first if part.first and first is not None else kinds[part.kind]
        return shares[rule](part, inputs, relevance)

    return _propagate(trace(model, variables, images, plain=True), target, share)


def lrp_preset(name: str, **options: Any) -> Method:
    """Makes a composite with a name of its own.

    Args:
        name: of the method.
        **options: of :func:`lrp_composite`.

    Returns:
        A method; its own calls may change the options.
    """

    def preset(
        model: Model, variables: Any, images: Images, target: Target = None, *, layer: str = "last_conv", **given: Any
    ) -> Images:
        return lrp_composite(model, variables, images, target, layer=layer, **options | given)

    preset.__name__, preset.__doc__ = name, f":func:`lrp_composite` with {options}."
    return preset


@method("epsilon")
def attn_lrp(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    epsilon: float = 1e-6,
) -> Images:
    """AttnLRP: the epsilon rule, with rules for attention, normalisation layers and gates.

    Besides what :func:`lrp_epsilon` does:

    * a product of two activations, such as attention times values, ``O = A V``: each factor gets half, shared out by
      ``A_ij V_jk / O_ik``;
    * softmax ``s`` of ``x``: ``R_i = x_i (R_i - s_i sum_j R_j)``;
    * LayerNorm and its like: the deviation that is divided by gets nothing, and is a constant to the rest;
    * a function of one value, whatever it is written of (GELU, SiLU, GELU's own product): relevance passes as it is.

    Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers", ICML 2024
    (arXiv:2402.05602). Misleads: by the softmax rule it is not conserved, and what biases contributed stays with them.

    Args:
        model: as in :func:`~interpret.gradients.gradient`; of convolutions and ReLUs, too.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`~interpret.gradients.gradient`.
        epsilon: as in :func:`lrp_epsilon`.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`lrp_epsilon`.
    """
    at_least("epsilon", epsilon, 0)
    graph = trace(model, variables, images, plain=True)
    return _propagate(graph, target, _by_epsilon(epsilon), Gates(graph, epsilon))


def _by_epsilon(epsilon: Any) -> Share:
    def share(part: _Layer, inputs: list[Array], relevance: Array) -> list[Array]:
        z, back = jax.vjp(lambda *x: part.contributions(x), *inputs)
        gradients = back(_quotient(relevance, _stable(z + part.bias, epsilon)))
        return [x * g for x, g in zip(inputs, gradients, strict=True)]

    return share


def _by_signs(alpha: Any) -> Share:
    def share(part: _Layer, inputs: list[Array], relevance: Array) -> list[Array]:
        signs = _signs(inputs)
        (up, down), back = jax.vjp(part.signed_contributions, *signs)
        up, down = up + jnp.maximum(part.bias, 0), down + jnp.minimum(part.bias, 0)
        to_up = jnp.where(down == 0, 1, alpha) * _quotient(relevance, up)
        to_down = jnp.where(up == 0, 1, 1 - alpha) * _quotient(relevance, down)
        positive, negative = back((to_up, to_down))
        return [above * p + below * n for above, below, p, n in zip(*signs, positive, negative, strict=True)]

    return share


def _by_gamma(gamma: Any) -> Share:
    def share(part: _Layer, inputs: list[Array], relevance: Array) -> list[Array]:
        signs = _signs(inputs)
        (up, down), back = jax.vjp(part.signed_contributions, *signs)
        up, down = up + jnp.maximum(part.bias, 0), down + jnp.minimum(part.bias, 0)
        z = up + down
        quotient = _quotient(relevance, z + gamma * jnp.where(z < 0, down, up))
        to_up, to_down = (quotient * jnp.where(side, 1 + gamma, 1) for side in (z >= 0, z < 0))
        positive, negative = back((to_up, to_down))
        return [above * p + below * n for above, below, p, n in zip(*signs, positive, negative, strict=True)]

    return share


def _by_weights(of: Callable[[Array], Array]) -> Share:
    """Shares that a function of the weights makes, whatever the inputs are."""

    def share(part: _Layer, inputs: list[Array], relevance: Array) -> list[Array]:
        ((term,), (x,)) = part.terms, inputs
        z, back = jax.vjp(lambda x: term.linear(x, of(term.kernel)), jnp.ones_like(x))
        return list(back(_quotient(relevance, z)))

    return share


def _signs(inputs: list[Array]) -> tuple[list[Array], list[Array]]:
    return [jnp.maximum(x, 0) for x in inputs], [jnp.minimum(x, 0) for x in inputs]


def _stable(z: Array, epsilon: Any) -> Array:
    return z + jnp.where(z < 0, -epsilon, epsilon)


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
    """``z = scale * sum of terms + bias``; a ``convolution``, a ``dense`` one or a ``sum``, and whether of the
    images.
    """

    terms: tuple[_Term, ...]
    scale: Array
    bias: Array
    kind: str = "sum"
    first: bool = False

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


class Gates:
    """The rules of AttnLRP for operations on two activations.

    Args:
        graph: the traced model.
        epsilon: keeps quotients finite.
    """

    def __init__(self, graph: Graph, epsilon: Any) -> None:
        self._producers = graph.producers
        self._epsilon = epsilon
        self._of: dict[Slot, Slot] = {}  # an elementwise function's value, and the value that it is one of
        self._deviations: set[Slot] = set()

    def step(self, operation: Operation, places: list[int], values: Mapping[Slot, Array]) -> _Step | None:
        """The step back of an operation that has a rule here; asked in the order of computation."""
        slots, output = _slots(operation, places), operation.outputs[0]
        if operation.name in ("sqrt", "rsqrt") or (
            len(slots) == 1 and slots[0] in self._deviations and operation.name in _MOVES | _AFFINE
        ):
            self._deviations.add(output)
        if len(slots) == 1 and operation.name in _UNARY and values[output].shape == values[slots[0]].shape:
            self._of[output] = slots[0]
        if len(slots) != 2 or operation.name not in ("mul", "div", "dot_general", "add", "sub"):
            return None
        if (common := self._common(*slots)) is not None:
            self._of[output] = common
            layered = operation.name in ("add", "sub")
            return None if layered else _Step((common,), operation.outputs, lambda received: received)
        if operation.name == "div" and (softmax := self._softmax(operation)) is not None:
            return softmax(values)
        if operation.name in ("mul", "div") and slots[1] in self._deviations:
            return _Step(slots[:1], operation.outputs, lambda received: received)
        if operation.name == "mul" and slots[0] in self._deviations:
            return _Step(slots[1:], operation.outputs, lambda received: received)
        if operation.name in ("mul", "dot_general"):
            return self._product(operation, slots, values)
        return None

    def _common(self, first: Slot, second: Slot) -> Slot | None:
        """The nearest value that both are elementwise functions of."""
        chain = [first]
        while chain[-1] in self._of:
            chain.append(self._of[chain[-1]])
        while second not in chain and second in self._of:
            second = self._of[second]
        return second if second in chain else None

    def _product(self, operation: Operation, slots: tuple[Slot, ...], values: Mapping[Slot, Array]) -> _Step:
        factors = [values[slot] for slot in slots]

        def back(received: list[Array]) -> list[Array]:
            z, pull = jax.vjp(lambda *x: operation(*x)[0], *factors)
            gradients = pull(_quotient(received[0] / 2, _stable(z, self._epsilon)))
            return [x * g for x, g in zip(factors, gradients, strict=True)]

        return _Step(slots, operation.outputs, back)

    def _softmax(self, operation: Operation) -> Callable[[Mapping[Slot, Array]], _Step] | None:
        """The step of a division that ends a softmax."""
        above, below = (self._maker(slot) for slot in operation.inputs)
        if above is None or below is None or (above.name, below.name) != ("exp", "reduce_sum"):
            return None
        if below.inputs != above.outputs:
            return None
        before = self._maker(above.inputs[0])
        logits = above.inputs[0] if before is None or before.name != "sub" else before.inputs[0]
        axes = tuple(below.equation.params["axes"])
        if isinstance(logits, Literal):
            return None
        slot = logits

        def step(values: Mapping[Slot, Array]) -> _Step:
            x, s = values[slot], values[operation.outputs[0]]

            def back(received: list[Array]) -> list[Array]:
                left = received[0] - s * received[0].sum(axes, keepdims=True)
                return [jnp.where(s == 0, 0, jnp.where(s == 0, 0, x) * left)]  # what is masked may be minus infinity

            return _Step((slot,), operation.outputs, back)

        return step

    def _maker(self, atom: Slot | Literal) -> Operation | None:
        maker = None if isinstance(atom, Literal) else self._producers.get(atom)
        while maker is not None and maker.name in ("broadcast_in_dim", "reshape", "convert_element_type"):
            (source,) = maker.inputs[:1]
            maker = None if isinstance(source, Literal) else self._producers.get(source)
        return maker


def _propagate(graph: Graph, target: Any, share: Share, gates: Gates | None = None) -> Images:
    """Runs the model forwards, then relevance backwards to the images."""
    values, steps = _forwards(graph, share, gates)
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


def _forwards(graph: Graph, share: Share, gates: Gates | None) -> tuple[dict[Slot, Array], list[_Step]]:
    """Returns all values, and the steps backwards in the order of computation.

    A result behind which a layer goes on has a step like any other; nothing asks for it unless something else reads the
    result as well.
    """
    values = dict(graph.values)
    steps: list[_Step] = []
    layers: dict[Slot, _Layer] = {}
    moving = {graph.images}  # what depends on the images
    near = {graph.images}  # what is the images but for moves and constants

    for operation in graph.operations:
        operands = read(values, operation.inputs)
        values.update(zip(operation.outputs, operation(*operands), strict=True))
        places = [i for i, slot in enumerate(operation.inputs) if not isinstance(slot, Literal) and slot in moving]
        floating = [slot for slot in operation.outputs if jnp.issubdtype(values[slot].dtype, jnp.floating)]
        if not places or not floating:
            continue  # a constant, or a comparison: what it decides is taken as given
        moving.update(floating)
        slots = _slots(operation, places)
        if len(slots) == 1 and slots[0] in near and operation.name in _MOVES | _AFFINE:
            near.update(operation.outputs)
        gate = None if gates is None else gates.step(operation, places, values)
        layer = _layer_of(operation, operands, places, layers, near)
        if gate is not None:
            steps.append(gate)
        elif layer is not None:
            layers[operation.outputs[0]] = layer
            sources = tuple(term.source for term in layer.terms)
            steps.append(_Step(sources, operation.outputs, _sharing(share, layer, [values[s] for s in sources])))
        elif is_relu(operation) or (operation.name in _NONLINEAR and len(places) == 1):
            steps.append(_Step(slots, operation.outputs, lambda received: received))
        else:
            steps.append(_Step(slots, operation.outputs, _moving(operation, operands, places)))
    return values, steps


def _layer_of(
    operation: Operation, operands: list[Array], places: list[int], layers: dict[Slot, _Layer], near: set[Slot]
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
        term = _Term(slot, _at(operation, place), operands[1 - place])
        kind = "dense" if operation.name == "dot_general" else "convolution"
        return _Layer((term,), one, zero, kind, slot in near)
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
                "use attn_lrp for transformers, or another method, such as integrated_gradients",
            )

        def function(*moving: Array) -> list[Array]:
            filled = list(operands)
            for place, value in zip(places, moving, strict=True):
                filled[place] = value
            return operation(*filled)

        return list(jax.vjp(function, *(operands[i] for i in places))[1](received))

    return back
