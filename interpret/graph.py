"""A model as a flat list of operations, so that one can be replaced, moved or run backwards by another rule.

A model is traced once with ``jax.make_jaxpr`` and its nested functions are opened up. What the list holds is what the
model computes, however it was written: a ReLU is found in a module, in a function or in a loop over layers, where hooks
on modules would miss it, and nothing of the model is patched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun
from jaxtyping import Array, Float

from faceflax.errors import FaceflaxError
from interpret.targets import Features, Logits, checked_layer

Images = Float[Array, "batch height width channels"]
Slot = int
"""Where a value is kept while the list runs."""

Rule = Callable[[Array], Array]
"""A ReLU with another backward pass."""

UNROLLED = 4096
"""How many operations a loop of known length (``scan``) may become in the list; a longer one stays one operation."""

_VIEWS = {
    *("transpose", "reshape", "squeeze", "expand_dims", "broadcast_in_dim", "rev", "slice", "dynamic_slice", "split"),
    *("concatenate", "pad", "copy", "convert_element_type", "reduce_precision", "stack"),
    *("name", "sharding_constraint", "optimization_barrier", "stop_gradient"),
}
"""Operations whose results are their operands' values in other places or another precision."""


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

    @property
    def floating(self) -> tuple[Slot, ...]:
        """The slots of the operands that are floating point."""
        pairs = zip(self.inputs, self.equation.invars, strict=True)
        return tuple(slot for slot, at in pairs if not isinstance(slot, Literal) and _is_floating(at.aval))

    def __call__(self, *operands: Array) -> list[Array]:
        """Computes the results."""
        return bind(self.equation, operands)


def bind(equation: JaxprEqn, operands: Sequence[Array], parameters: Mapping[str, Any] | None = None) -> list[Array]:
    """Computes an equation's results, with other parameters if they are given."""
    bound = equation.primitive.get_bind_params(equation.params if parameters is None else parameters)
    functions, bound = bound if isinstance(bound, tuple) else ((), bound)  # a pair before JAX 0.10
    results = equation.primitive.bind(*functions, *operands, **bound)
    return list(results) if equation.primitive.multiple_results else [results]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a layer is on the way from the images to a score: in one value, or in several that it is a copy of.

    Attributes:
        sources: the shapes of the values on the way, by slot.
        views: what makes the layer of them, in order.
        layer: the layer's slot.
    """

    sources: Mapping[Slot, Any]
    views: tuple[Operation, ...]
    layer: Slot

    @property
    def unmoved(self) -> dict[Slot, Array]:
        """Shifts of nothing, to take the gradient by."""
        return {slot: jnp.zeros(shape.shape, shape.dtype) for slot, shape in self.sources.items()}

    def viewed(self, gradients: Mapping[Slot, Array], values: Mapping[Slot, Array]) -> Array:
        """The gradient by the layer, of those by its sources: each element has that of the value it is a copy of."""
        known = dict(gradients)

        def operand(atom: Slot | Literal) -> Array:
            if not isinstance(atom, Literal) and atom in known:
                return known[atom]
            (value,) = read(values, [atom])
            return jnp.zeros_like(value) if _is_floating(jnp.asarray(value)) else value  # what pads, or an index

        for view in self.views:
            known.update(zip(view.outputs, view(*map(operand, view.inputs)), strict=True))
        return known[self.layer]


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
        shifts: Mapping[Slot, Array] | None = None,
    ) -> dict[Slot, Array]:
        """Computes all values.

        Args:
            replace: for each operation, what takes its place, or None.
            shifts: what is added to values before anything reads them. The gradient by it is the gradient by the value.
        """
        shifts = shifts or {}
        values = {slot: value + shifts[slot] if slot in shifts else value for slot, value in self.values.items()}
        for operation in self.operations:
            function = replace(operation) or operation
            for output, value in zip(operation.outputs, function(*read(values, operation.inputs)), strict=True):
                values[output] = value + shifts[output] if output in shifts else value
        return values

    def of(self, images: Images) -> Graph:
        """The same list for other images of the same shape."""
        return dataclasses.replace(self, values={**self.values, self.images: images})

    def answer(self, values: Mapping[Slot, Array]) -> tuple[Logits, Features]:
        """The logits and features among the values of :meth:`run`."""
        (logits,) = read(values, [self.logits])
        return logits, dict(zip(self.features, read(values, self.features.values()), strict=True))

    @property
    def gives_probabilities(self) -> bool:
        """Whether the logits are none: the last that is done to them, but for moves, is a softmax or a sigmoid."""
        producers = self.producers

        def made_by(slot: Slot | Literal) -> Operation | None:
            maker = None if isinstance(slot, Literal) else producers.get(slot)
            while maker is not None and maker.name in _VIEWS and len(maker.floating) == 1:
                maker = producers.get(maker.floating[0])
            return maker

        last = made_by(self.logits)
        if last is None or last.name != "div":
            return last is not None and last.name == "logistic"
        above, below = map(made_by, last.inputs)
        if above is None or below is None or (above.name, below.name) != ("exp", "reduce_sum"):
            return False
        summed = made_by(below.inputs[0])
        return summed is not None and (summed.name, summed.inputs) == (above.name, above.inputs)

    @property
    def producers(self) -> dict[Slot, Operation]:
        """Which operation makes each value."""
        return {slot: operation for operation in self.operations for slot in operation.outputs}

    def place(self, layer: str, target: str | None) -> Place:
        """Finds a layer on the way to a score.

        A feature need not be on the way itself: it may be a copy of what is, such as its transpose, its cast to another
        precision, or tokens put on a grid. It is then traced back to the values that it copies.

        Args:
            layer: a name in the features.
            target: the name of the feature that the score reads, or None for the logits.

        Raises:
            FaceflaxError: unknown layer, or one that the score does not depend on.
        """
        checked_layer(layer, self.features)
        way = self._leading_to(self.logits if target is None else self.features[target])
        producers = self.producers
        place = self._placed(self.features[layer], way, producers)
        if place is not None:
            return place
        read_by = "logits" if target is None else f"target's layer {target!r}"
        on_the_way = [name for name, slot in self.features.items() if self._placed(slot, way, producers)]
        raise FaceflaxError(
            "layer",
            layer,
            f"{{}} does not lead to the {read_by}, nor is it a copy of what does",
            f"choose one of: {', '.join(on_the_way)}" if on_the_way else "return activations that lead there",
        )

    def _leading_to(self, end: Slot | Literal) -> set[Slot]:
        """The floating point values that one is computed of by operations which have gradients."""
        way = set() if isinstance(end, Literal) else {end}
        for operation in reversed(self.operations):
            if operation.name != "stop_gradient" and not way.isdisjoint(operation.outputs):
                way.update(operation.floating)
        return way

    def _placed(self, layer: Slot | Literal, way: set[Slot], producers: Mapping[Slot, Operation]) -> Place | None:
        sources: dict[Slot, Any] = {}
        views: dict[tuple[Slot, ...], Operation] = {}

        def follow(slot: Slot | Literal) -> bool:
            """Whether the value is on the way, or a copy of values that are."""
            if isinstance(slot, Literal):
                return False
            maker = producers.get(slot)
            if slot in way:
                sources[slot] = self.values[slot] if maker is None else _result(maker, slot)
                return True
            if maker is None or not _is_view(maker):
                return False
            if maker.outputs not in views:
                # A list's comprehension, not any(): all operands are followed. What pads has no gradient.
                if not any([follow(operand) for operand in maker.floating]):
                    return False
                views[maker.outputs] = maker  # behind those of its operands
            return True

        return Place(sources, tuple(views.values()), layer) if follow(layer) else None  # type: ignore[arg-type]


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
    opened = _Opened(plain)
    inputs = [opened.keep(leaf) for leaf in jax.tree.leaves(arguments)]
    outputs = opened.open_up(closed.jaxpr, closed.consts, inputs)
    logits, features = jax.tree.unflatten(jax.tree.structure(shapes), outputs)
    return Graph(tuple(opened.operations), opened.values, inputs[-1], logits, features)


class _Opened:
    """Operations in one list, whatever functions and loops of known length they were nested in."""

    def __init__(self, plain: bool) -> None:
        self.plain = plain
        self.values: dict[Slot, Array] = {}
        self.operations: list[Operation] = []
        self._count = iter(range(1 << 62))

    def slot(self) -> Slot:
        """A new one."""
        return next(self._count)

    def keep(self, value: Array) -> Slot:
        """Keeps a value that is known."""
        slot = self.slot()
        self.values[slot] = value
        return slot

    def open_up(self, jaxpr: Jaxpr, constants: Any, inputs: Any) -> list[Slot | Literal]:
        """Appends the operations of ``jaxpr`` and returns its results' slots."""
        slots = dict(zip(jaxpr.constvars, map(self.keep, constants), strict=True)) | dict(
            zip(jaxpr.invars, inputs, strict=True)
        )

        def place(atoms: Any) -> tuple[Slot | Literal, ...]:
            return tuple(atom if isinstance(atom, Literal) else slots[atom] for atom in atoms)

        for equation in jaxpr.eqns:
            inner = _inside(equation, self.plain)
            if inner is not None:
                operands = place(equation.invars)[-len(inner.jaxpr.invars) :] if inner.jaxpr.invars else ()
                results = self.open_up(inner.jaxpr, inner.consts, operands)
            else:
                results = [self.slot() for _ in equation.outvars]
                self.operations.append(Operation(equation, place(equation.invars), tuple(results)))  # type: ignore[arg-type]
            slots.update(zip(equation.outvars, results, strict=True))
        return list(place(jaxpr.outvars))


def is_relu(operation: Operation) -> bool:
    """Whether it is ``jax.nn.relu``, which ``flax.linen.relu`` and ``flax.nnx.relu`` are, in one piece."""
    return _is_relu(operation.equation)


def with_relu(model: Model, variables: Any, images: Images, rule: Rule) -> tuple[Logits, Features]:
    """Applies a model with ``rule`` in place of every ReLU, however it is written.

    A ReLU is ``jax.nn.relu``, ``relu6``, the larger of a value and zero (``jnp.maximum``, ``jnp.clip``,
    ``jax.lax.clamp``; what bounds it above stays), a value where it is positive and zero elsewhere (``jnp.where``), or
    times whether it is. The larger of zero and a variance (a difference, or a mean of squares) whose root is then taken
    is none: so normalisation layers keep rounding from making it negative.

    Raises:
        FaceflaxError: the model has no ReLU, or one where it cannot be replaced.
    """
    graph = trace(model, variables, images)
    written = relus(graph)
    for operation in graph.operations:
        if operation.outputs[0] not in written and _hides_relu(operation):
            raise FaceflaxError(
                "model",
                None,
                f"{type(model).__name__} applies a ReLU inside {operation.name!r}, where it cannot be replaced",
                "write the loop or the custom gradient without it, or use gradient",
            )
    if not written:
        raise FaceflaxError(
            "model",
            None,
            f"{type(model).__name__} applies no ReLU that could be replaced",
            "this method is defined by ReLUs (jax.nn.relu), so use gradient",
        )

    def replaced(operation: Operation) -> Callable[..., list[Array]] | None:
        relu = written.get(operation.outputs[0])
        return None if relu is None else lambda *operands: [relu(rule, *operands)]

    return graph.answer(graph.run(replaced))


def relus(graph: Graph) -> dict[Slot, Callable[..., Array]]:
    """Finds the ReLUs, however they are written: for the slot of each one's result, ``(rule, *operands)`` to it."""
    results = [graph.logits, *graph.features.values()]
    return _Writing(graph.operations, {graph.images}, {x for x in results if not isinstance(x, Literal)}).relus


class _Writing:
    """How the ReLUs of a list of operations are written.

    Args:
        operations: in the order of computation.
        entering: the slots of what the values depend on that are of interest, such as the images.
        results: the slots that are read when all has run.
    """

    def __init__(self, operations: Sequence[Operation], entering: set[Slot], results: set[Slot]) -> None:
        self._results = results
        self._producers = {slot: operation for operation in operations for slot in operation.outputs}
        self._readers: dict[Slot, list[Operation]] = {}
        self._moving, self._zeros = set(entering), set[Slot]()
        self.relus: dict[Slot, Callable[..., Array]] = {}
        """For the result of each, ``(rule, *operands)`` to what it becomes."""
        for operation in operations:
            slots = [slot for slot in operation.inputs if not isinstance(slot, Literal)]
            for slot in slots:
                self._readers.setdefault(slot, []).append(operation)
            if not self._moving.isdisjoint(slots):
                self._moving.update(operation.outputs)
            if operation.name in _VIEWS and len(operation.inputs) == 1 and self._is_zero(operation.inputs[0]):
                self._zeros.update(operation.outputs)
        for operation in operations:
            if operation.outputs and _is_floating(operation.equation.outvars[0].aval):
                relu = self._relu(operation)
                if relu is not None:
                    self.relus[operation.outputs[0]] = relu

    def _relu(self, operation: Operation) -> Callable[..., Array] | None:
        inputs = operation.inputs
        moving = [not isinstance(slot, Literal) and slot in self._moving for slot in inputs]
        zero = [self._is_zero(atom) for atom in inputs]
        match operation.name:
            case "custom_jvp_call" if moving[0] and _is_relu(operation.equation):
                return lambda rule, x: rule(x)
            case "custom_jvp_call" if moving[0] and _is_bounded_relu(operation.equation):
                highest = _inner(operation.equation)[1].invars[1].val  # type: ignore[union-attr]
                return lambda rule, x: jnp.minimum(rule(x), highest)
            case "max" if (moving[0] and zero[1]) or (moving[1] and zero[0]):
                at = moving.index(True)
                guards = self._is_spread(inputs[at]) and self._goes_into_root(operation.outputs[0])
                return None if guards else lambda rule, *operands: rule(operands[at])
            case "clamp" if moving[1] and zero[0]:
                return lambda rule, low, x, high: jnp.minimum(rule(x), high)
            case "select_n" if len(inputs) == 3:
                for at, other in ((1, 2), (2, 1)):
                    if moving[at] and zero[other] and self._is_where(inputs[0], inputs[at], positive=at == 2):
                        return lambda rule, *operands, at=at: rule(operands[at])
            case "mul" if all(moving):
                for at in (0, 1):
                    mask = self._producer(inputs[1 - at])
                    if mask is None or mask.name != "convert_element_type":
                        continue
                    if self._is_where(mask.inputs[0], inputs[at], positive=True):
                        return lambda rule, *operands, at=at: rule(operands[at])
        return None

    def _is_where(self, condition: Slot | Literal, value: Slot | Literal, *, positive: bool) -> bool:
        """Whether a condition holds where a value is positive; or, if not ``positive``, where it is negative."""
        comparison = self._producer(condition)
        if comparison is None or comparison.name not in ("gt", "ge", "lt", "le"):
            return False
        first, second = comparison.inputs
        above = comparison.name in ("gt", "ge")
        if first == value and self._is_zero(second):
            return above == positive
        return second == value and self._is_zero(first) and above != positive

    def _is_spread(self, atom: Slot | Literal) -> bool:
        """Whether a value is written as a variance is: as a difference, or as a mean of squares."""
        maker = self._maker(atom)
        while maker is not None and maker.name in ("div", "mul", "select_n"):  # by how many they are, if that is known
            moving = self._moving.intersection(slot for slot in maker.inputs if not isinstance(slot, Literal))
            if len(moving) != 1:
                return False
            maker = self._maker(moving.pop())
        if maker is None or maker.name != "reduce_sum":
            return maker is not None and maker.name == "sub" and self._moving.issuperset(maker.inputs)
        summed = self._maker(maker.inputs[0])
        return summed is not None and (
            summed.name == "square"
            or (summed.name == "integer_pow" and summed.equation.params["y"] == 2)
            or (summed.name == "mul" and summed.inputs[0] == summed.inputs[1])
        )

    def _maker(self, atom: Slot | Literal) -> Operation | None:
        """What computes a value, but for moves."""
        maker = self._producer(atom)
        while maker is not None and maker.name in _VIEWS and len(maker.floating) == 1:
            maker = self._producer(maker.floating[0])
        return maker

    def _goes_into_root(self, slot: Slot) -> bool:
        """Whether all that is done with a value, but for moves, sums and products, is to take its root."""
        return slot not in self._results and all(
            reader.name in ("sqrt", "rsqrt", "pow")
            or ((reader.name in _VIEWS or reader.name in ("add", "mul")) and self._goes_into_root(reader.outputs[0]))
            for reader in self._readers.get(slot, ())
        )

    def _producer(self, atom: Slot | Literal) -> Operation | None:
        return None if isinstance(atom, Literal) else self._producers.get(atom)

    def _is_zero(self, atom: Slot | Literal) -> bool:
        return _is_zero(atom) if isinstance(atom, Literal) else atom in self._zeros


def _hides_relu(operation: Operation) -> bool:
    """Whether a ReLU is applied in a function that an operation holds.

    Of functions with derivatives of their own, such as softplus, the pieces are none: only a whole ``jax.nn.relu`` is.
    """
    if operation.name == "custom_jvp_call":
        return any(map(_is_relu, _equations(operation.equation)))
    for jaxpr in _jaxprs(operation.equation):
        opened = _Opened(plain=False)
        inputs = [opened.slot() for _ in jaxpr.invars]
        results = opened.open_up(jaxpr, [None] * len(jaxpr.constvars), inputs)
        entering = {*inputs, *opened.values}
        written = _Writing(opened.operations, entering, {slot for slot in results if not isinstance(slot, Literal)})
        if written.relus or any(map(_hides_relu, opened.operations)):
            return True
    return False


def _inside(equation: JaxprEqn, plain: bool) -> ClosedJaxpr | None:
    """The function that an equation calls once, where it is to be opened up."""
    name, parameters = equation.primitive.name, equation.params
    if name in ("jit", "closed_call", "checkpoint", "remat2"):
        return closed(parameters["jaxpr"] if "jaxpr" in parameters else parameters["call_jaxpr"])
    if plain and (name == "custom_vjp_call" or (name == "custom_jvp_call" and not _is_relu(equation))):
        return closed(parameters["call_jaxpr"])
    if plain and name == "cond" and parameters.get("branches_platforms"):
        default = [platforms is None for platforms in parameters["branches_platforms"]]
        return closed(parameters["branches"][default.index(True)])
    if name == "scan" and _size(equation) <= UNROLLED:
        return _unrolled(equation)
    return None


def _size(equation: JaxprEqn) -> int:
    """How many operations an equation becomes, with all its rounds."""
    inside = sum(_size(each) for jaxpr in _jaxprs(equation) for each in jaxpr.eqns)
    return max(1, inside * equation.params["length"] if equation.primitive.name == "scan" else inside)


def _unrolled(equation: JaxprEqn) -> ClosedJaxpr:
    """A ``scan`` written out, round after round."""
    parameters = equation.params
    body = jaxpr_as_fun(closed(parameters["jaxpr"]))
    fixed, carried = parameters["num_consts"], parameters["num_carry"]
    rounds = range(parameters["length"])

    def written_out(*operands: Array) -> list[Array]:
        constants, state, rows = operands[:fixed], operands[fixed : fixed + carried], operands[fixed + carried :]
        given: dict[int, Sequence[Array]] = {}
        for i in reversed(rounds) if parameters["reverse"] else rounds:
            one = (jax.lax.index_in_dim(row, i, keepdims=False) for row in rows)
            results = body(*constants, *state, *one)
            state, given[i] = tuple(results[:carried]), results[carried:]
        if not rounds:
            return [*state, *map(_zeros, equation.outvars[carried:])]
        return [*state, *(jnp.stack(column) for column in zip(*(given[i] for i in rounds), strict=True))]

    return jax.make_jaxpr(written_out)(*map(_shape, equation.invars))


def closed(jaxpr: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    """The function with its constants, of which a bare one has none."""
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def _is_relu(equation: JaxprEqn) -> bool:
    if equation.primitive.name != "custom_jvp_call":
        return False
    inner = _inner(equation)
    return len(inner) == 1 and inner[0].primitive.name == "max" and _is_zero(inner[0].invars[1])


def _is_bounded_relu(equation: JaxprEqn) -> bool:
    """Whether it is a ``custom_jvp`` function like ``jax.nn.relu6``: the smaller of a ReLU and a constant."""
    inner = _inner(equation)
    return (
        [each.primitive.name for each in inner] == ["max", "min"]
        and _is_zero(inner[0].invars[1])
        and isinstance(inner[1].invars[1], Literal)
    )


def _inner(equation: JaxprEqn) -> list[JaxprEqn]:
    return [each for each in _equations(equation) if each.primitive.name != "jit"]


def _shape(atom: Any) -> Any:
    return jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype)


def _zeros(atom: Any) -> Array:
    return jnp.zeros(atom.aval.shape, atom.aval.dtype)


def _is_floating(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


def _is_view(operation: Operation) -> bool:
    """Whether all of its results' values are its operands'; a broadcast that repeats them has more."""
    sizes = [
        sum(getattr(v.aval, "size", 0) for v in atoms)
        for atoms in (operation.equation.invars, operation.equation.outvars)
    ]
    return operation.name in _VIEWS and (operation.name != "broadcast_in_dim" or sizes[0] == sizes[1])


def _result(operation: Operation, slot: Slot) -> Any:
    return operation.equation.outvars[operation.outputs.index(slot)].aval


def _is_zero(atom: Any) -> bool:
    return isinstance(atom, Literal) and np.ndim(atom.val) == 0 and atom.val == 0


def _equations(equation: JaxprEqn) -> Iterator[JaxprEqn]:
    """All equations inside one."""
    for jaxpr in _jaxprs(equation):
        for each in jaxpr.eqns:
            yield each
            yield from _equations(each)


def _jaxprs(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """The functions among an equation's parameters."""
    for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)):
        if isinstance(inner, ClosedJaxpr | Jaxpr):
            yield closed(inner).jaxpr
