"""A model as a flat list of operations, so that one can be replaced, moved or run backwards by another rule.

A model is traced once with ``jax.make_jaxpr`` and its nested functions are opened up. What the list holds is what the
model computes, however it was written: a ReLU is found in a module, in a function or in a loop over layers, where hooks
on modules would miss it, and nothing of the model is patched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import Array, Float

from faceflax.errors import FaceflaxError
from interpret.targets import Features, Logits, checked_layer

Images = Float[Array, "batch height width channels"]
Slot = int
"""Where a value is kept while the list runs."""


class Model(Protocol):
    """What the methods ask of a model: to be hashable, and the (logits, features) contract.

    A Linen module that returns ``logits, features`` is one; :mod:`interpret.adapters` makes one of others.
    """

    def apply(self, variables: Any, images: Images, *, train: bool) -> Any:
        """Returns logits ``[batch, classes]`` and activations by name."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """One primitive of JAX, applied.

    Attributes:
        equation: the primitive and its parameters.
        inputs: for each operand, its slot or a literal.
        outputs: the slot of each result.
    """

    equation: JaxprEqn
    inputs: tuple[Slot | Literal, ...]
    outputs: tuple[Slot, ...]

    @property
    def name(self) -> str:
        """The primitive's."""
        return self.equation.primitive.name

    def __call__(self, *operands: Array) -> list[Array]:
        """Computes the results."""
        bound = self.equation.primitive.get_bind_params(self.equation.params)
        functions, parameters = bound if isinstance(bound, tuple) else ((), bound)  # a pair before JAX 0.10
        results = self.equation.primitive.bind(*functions, *operands, **parameters)
        return list(results) if self.equation.primitive.multiple_results else [results]


@dataclasses.dataclass(frozen=True)
class Graph:
    """A traced model.

    Attributes:
        operations: in the order of computation.
        values: the values known before any runs: variables, constants and images.
        images: the images' slot.
        logits: the logits' slot.
        features: each layer's slot, or its value if it does not depend on anything.
    """

    operations: tuple[Operation, ...]
    values: Mapping[Slot, Array]
    images: Slot
    logits: Slot | Literal
    features: Mapping[str, Slot | Literal]

    def run(
        self,
        replace: Callable[[Operation], Callable[..., list[Array]] | None] = lambda operation: None,
        shift: tuple[str, Array] | None = None,
    ) -> tuple[Logits, Features]:
        """Computes logits and features.

        Args:
            replace: for each operation, what takes its place, or None.
            shift: a layer, and what is added to its activations before anything reads them. The gradient by it is the
                gradient by the layer.
        """
        values = dict(self.values)
        shifts = {} if shift is None else {self.features[shift[0]]: shift[1]}
        for operation in self.operations:
            function = replace(operation) or operation
            for output, value in zip(operation.outputs, function(*read(values, operation.inputs)), strict=True):
                values[output] = value + shifts[output] if output in shifts else value
        (logits,) = read(values, [self.logits])
        return logits, dict(zip(self.features, read(values, self.features.values()), strict=True))


def read(values: Mapping[Slot, Array], atoms: Any) -> list[Array]:
    """Returns the values of slots and literals."""
    return [atom.val if isinstance(atom, Literal) else values[atom] for atom in atoms]


def trace(model: Model, variables: Any, images: Images, *, plain: bool = False) -> Graph:
    """Writes down what a model computes.

    Args:
        model: see :class:`Model`.
        variables: its variables.
        images: ``[batch, height, width, channels]``.
        plain: open functions with gradients of their own, too, and take the plain operators where there is a form for
            each platform. Slower, and nothing but JAX's own primitives.
    """
    arguments = (variables, images)
    closed, shapes = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False), return_shape=True)(*arguments)
    values: dict[Slot, Array] = {}
    operations: list[Operation] = []
    count = iter(range(1 << 62))

    def keep(value: Array) -> Slot:
        slot = next(count)
        values[slot] = value
        return slot

    def open_up(jaxpr: Jaxpr, constants: Any, inputs: Any) -> list[Slot | Literal]:
        """Appends the operations of ``jaxpr`` and returns its results' slots."""
        slots = dict(zip(jaxpr.constvars, map(keep, constants), strict=True)) | dict(
            zip(jaxpr.invars, inputs, strict=True)
        )

        def place(atoms: Any) -> tuple[Slot | Literal, ...]:
            return tuple(atom if isinstance(atom, Literal) else slots[atom] for atom in atoms)

        for equation in jaxpr.eqns:
            inner = _inside(equation, plain)
            if inner is not None:
                operands = place(equation.invars)[-len(inner.jaxpr.invars) :] if inner.jaxpr.invars else ()
                results = open_up(inner.jaxpr, inner.consts, operands)
            else:
                results = [next(count) for _ in equation.outvars]
                operations.append(Operation(equation, place(equation.invars), tuple(results)))  # type: ignore[arg-type]
            slots.update(zip(equation.outvars, results, strict=True))
        return list(place(jaxpr.outvars))

    inputs = [keep(leaf) for leaf in jax.tree.leaves(arguments)]
    outputs = open_up(closed.jaxpr, closed.consts, inputs)
    logits, features = jax.tree.unflatten(jax.tree.structure(shapes), outputs)
    return Graph(tuple(operations), values, inputs[-1], logits, features)


def is_relu(operation: Operation) -> bool:
    """Whether it is ``jax.nn.relu``, which ``flax.linen.relu`` and ``flax.nnx.relu`` are.

    ``jnp.maximum(x, 0)`` is none: normalisation layers clip variances with it.
    """
    return _is_relu(operation.equation)


def with_relu(model: Model, variables: Any, images: Images, rule: Callable[[Array], Array]) -> tuple[Logits, Features]:
    """Applies a model with ``rule`` in place of every ReLU.

    Raises:
        FaceflaxError: the model has no ReLU, or one where it cannot be replaced.
    """
    graph = trace(model, variables, images)
    found = any(map(is_relu, graph.operations))
    for operation in graph.operations:
        if not is_relu(operation) and any(map(_is_relu, _equations(operation.equation))):
            raise FaceflaxError(
                "model",
                None,
                f"{type(model).__name__} applies a ReLU inside {operation.name!r}, where it cannot be replaced",
                "write the loop or the custom gradient without it, or use gradient",
            )
    if not found:
        raise FaceflaxError(
            "model",
            None,
            f"{type(model).__name__} applies no ReLU that could be replaced",
            "this method is defined by ReLUs (jax.nn.relu), so use gradient",
        )
    return graph.run(lambda operation: (lambda x: [rule(x)]) if is_relu(operation) else None)


def with_shift(model: Model, variables: Any, images: Images, layer: str, shift: Array) -> tuple[Logits, Features]:
    """Applies a model with ``shift`` added to the activations of ``layer``.

    Raises:
        FaceflaxError: unknown layer.
    """
    graph = trace(model, variables, images)
    checked_layer(layer, graph.features)
    return graph.run(shift=(layer, shift))


def _inside(equation: JaxprEqn, plain: bool) -> ClosedJaxpr | None:
    """The function that an equation calls once, where it is to be opened up."""
    name, parameters = equation.primitive.name, equation.params
    if name in ("jit", "closed_call", "checkpoint", "remat2"):
        return _closed(parameters["jaxpr"] if "jaxpr" in parameters else parameters["call_jaxpr"])
    if plain and (name == "custom_vjp_call" or (name == "custom_jvp_call" and not _is_relu(equation))):
        return _closed(parameters["call_jaxpr"])
    if plain and name == "cond" and parameters.get("branches_platforms"):
        default = [platforms is None for platforms in parameters["branches_platforms"]]
        return _closed(parameters["branches"][default.index(True)])
    return None


def _closed(jaxpr: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def _is_relu(equation: JaxprEqn) -> bool:
    if equation.primitive.name != "custom_jvp_call":
        return False
    inner = [e for e in _equations(equation) if e.primitive.name != "jit"]
    return len(inner) == 1 and inner[0].primitive.name == "max" and _is_zero(inner[0].invars[1])


def _is_zero(atom: Any) -> bool:
    return isinstance(atom, Literal) and atom.val == 0


def _equations(equation: JaxprEqn) -> Iterator[JaxprEqn]:
    """All equations inside one."""
    for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)):
        if isinstance(inner, ClosedJaxpr | Jaxpr):
            for each in _closed(inner).jaxpr.eqns:
                yield each
                yield from _equations(each)
