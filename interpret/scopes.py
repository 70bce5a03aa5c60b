"""The layers of a network that names them for JAX (``jax.named_scope``), as Haiku, Keras and Equinox do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal
from jaxtyping import Array

from interpret.graph import bind, closed

Path = tuple[str, ...]


def with_layers(function: Callable[..., Any], *arguments: Any) -> tuple[Any, dict[str, Array]]:
    """Calls a function of arrays, the last of which are images, and returns its answer and its layers.

    A layer is what is computed in a ``jax.named_scope``: the last floating point value in it that depends on the images
    and has a row for each of them. Of one that is entered more than once, which is told by what is computed in between,
    each time has a number and the last one the name as well. Functions inside loops and branches are not looked into,
    nor those with derivatives of their own.

    Args:
        function: takes the arguments.
        *arguments: pytrees of arrays; the last one the images.

    Example:
        >>> def network(images):
        ...     for factor in (2, 3):
        ...         with jax.named_scope("times"):
        ...             images = images * factor
        ...         images = images + 1
        ...     return images.sum(1)
        >>> answer, layers = with_layers(network, jnp.ones((4, 5)))
        >>> {name: float(layer.mean()) for name, layer in layers.items()}
        {'times/0': 2.0, 'times/1': 9.0, 'times': 9.0}
    """
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    leaves = jax.tree.leaves(arguments)
    recorded = _Recorded(leaves[-1].shape[0])
    moving = [False] * (len(leaves) - 1) + [True]
    results = recorded.run(traced, list(zip(leaves, moving, strict=True)), ())
    answer = jax.tree.unflatten(jax.tree.structure(shapes), [value for value, _ in results])
    return answer, recorded.layers()


@dataclasses.dataclass
class _Recorded:
    """Runs a function operation by operation and notes what each scope has computed.

    Attributes:
        batch: how many images there are.
        visits: for each scope, what was computed last each time that it was entered.
    """

    batch: int
    visits: dict[Path, list[Array | None]] = dataclasses.field(default_factory=dict)
    _inside: Path = ()

    def run(self, traced: ClosedJaxpr, operands: Sequence[tuple[Any, bool]], outer: Path) -> list[tuple[Any, bool]]:
        """Computes a function. Values go with whether they depend on the images."""
        jaxpr = traced.jaxpr
        values = dict(zip(jaxpr.constvars, ((constant, False) for constant in traced.consts), strict=True))
        values |= dict(zip(jaxpr.invars, operands, strict=True))

        def read(atoms: Sequence[Any]) -> list[tuple[Any, bool]]:
            return [(atom.val, False) if isinstance(atom, Literal) else values[atom] for atom in atoms]

        for equation in jaxpr.eqns:
            scope = outer + _scope(equation)
            self._enter(scope)
            given = read(equation.invars)
            inner = equation.params.get("jaxpr") if equation.primitive.name in ("jit", "closed_call") else None
            if inner is not None:
                results = self.run(closed(inner), given, scope)
            else:
                moving = any(moves for _, moves in given)
                results = [(value, moving) for value in bind(equation, [value for value, _ in given])]
            values.update(zip(equation.outvars, results, strict=True))
            for value, moves in results:
                if moves and jnp.ndim(value) > 1 and value.shape[0] == self.batch and _is_floating(value):
                    for depth in range(1, len(scope) + 1):
                        self.visits[scope[:depth]][-1] = value
        return read(jaxpr.outvars)

    def _enter(self, scope: Path) -> None:
        for depth in range(1, len(scope) + 1):
            if self._inside[:depth] != scope[:depth]:
                self.visits.setdefault(scope[:depth], []).append(None)
        self._inside = scope

    def layers(self) -> dict[str, Array]:
        """What the scopes have computed, by name."""
        found: dict[str, Array] = {}
        for scope, visits in self.visits.items():
            made = [value for value in visits if value is not None]
            name = "/".join(scope)
            if len(made) > 1:
                found |= {f"{name}/{number}": value for number, value in enumerate(made)}
            if made:
                found[name] = made[-1]
        return found


def _scope(equation: JaxprEqn) -> Path:
    """The named scopes that an equation stands in, without the transformations."""
    stack = equation.source_info.name_stack.stack
    return tuple(part for entry in stack if type(entry).__name__ == "Scope" for part in entry.name.split("/") if part)


def _is_floating(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.floating))
