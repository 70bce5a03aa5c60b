"""Changed copies of images, evaluated some at a time: as many as fit into a budget of memory.

How much one copy needs is read off what is computed with it: the most that is alive at once, of the values that its
program makes. That holds for a network of any size, forwards or backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array

from faceflax.errors import FaceflaxError

BYTES_AT_ONCE = 2**28
"""What the values of all copies that are evaluated together may take, 256 MiB; one is evaluated whatever it takes."""

OPTIONS = ("internal_batch_size", "progress")
"""What every method that evaluates copies takes: how many images at once, and whom to tell how far it is."""

Progress = Callable[[int, int], None]
"""Called as ``progress(done, count)`` each time that some copies are done."""


def total(
    function: Callable[[Array], Any],
    count: int,
    batch: int,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Any:
    """Sums ``function(i)`` for ``i`` from 0 to ``count - 1``, some at a time so that memory stays bounded.

    Args:
        function: from an index to a pytree of arrays.
        count: how many indices.
        batch: how many images one call of the function evaluates.
        internal_batch_size: how many images are evaluated at a time, at least the ``batch`` of one call; as many as fit
            into :data:`BYTES_AT_ONCE` if not given.
        progress: is told how many of the calls are done.

    Returns:
        The sums, of half precision in float32.
    """
    program = _Program(function)
    together = program.together(count, batch, internal_batch_size)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, _summed(s)), program.shapes)

    def add(sums: Any, start: Array) -> tuple[Any, None]:
        indices = start + jnp.arange(together)
        values = jax.vmap(program)(indices)

        def masked(value: Array) -> Array:
            inside = (indices < count).reshape(-1, *[1] * (value.ndim - 1))
            return jnp.where(inside, value, jnp.zeros((), value.dtype)).sum(0, dtype=_summed(value))

        sums = jax.tree.map(lambda s, v: s + masked(v), sums, values)
        _tell(progress, jnp.minimum(start + together, count), count)
        return sums, None

    return jax.lax.scan(add, zeros, jnp.arange(0, count, together))[0]


def every(
    function: Callable[[Array], Any],
    count: int,
    batch: int,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Any:
    """Like :func:`total`, but returns each call's values, stacked along a new first axis."""
    program = _Program(function)
    together = program.together(count, batch, internal_batch_size)
    starts = jnp.arange(0, count, together)

    def some(start: Array) -> Any:
        values = jax.vmap(program)(jnp.minimum(start + jnp.arange(together), count - 1))
        _tell(progress, jnp.minimum(start + together, count), count)
        return values

    values = jax.lax.map(some, starts)
    return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:])[:count], values)


def peak_bytes(jaxpr: Jaxpr) -> int:
    """The most bytes that the values made by a program take at once, in the order in which it is written.

    Its inputs and constants are not counted. What a compiler merges takes less.

    Example:
        >>> jaxpr = jax.make_jaxpr(lambda x: jnp.sin(jnp.cos(x)).sum())(jnp.zeros(1000, jnp.float32)).jaxpr
        >>> peak_bytes(jaxpr)  # the cosine and its sine
        8000
    """
    last = {
        atom: i for i, equation in enumerate(jaxpr.eqns) for atom in equation.invars if not isinstance(atom, Literal)
    }
    kept = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    made: dict[Any, int] = {}
    alive = peak = 0
    for i, equation in enumerate(jaxpr.eqns):
        for atom in equation.outvars:
            made[atom] = _bytes(atom.aval)
            alive += made[atom]
        inside = max((peak_bytes(inner) for inner in _inner(equation.params)), default=0)
        peak = max(peak, alive, alive + inside - sum(_bytes(atom.aval) for atom in equation.outvars))
        atoms: tuple[Any, ...] = (*equation.invars, *equation.outvars)
        for atom in atoms:
            if not isinstance(atom, Literal) and last.get(atom, i) <= i and atom not in kept:
                alive -= made.pop(atom, 0)
    return peak


class _Program:
    """A function of an index, traced once: to be measured and to be run."""

    def __init__(self, function: Callable[[Array], Any]) -> None:
        self._closed, self.shapes = jax.make_jaxpr(function, return_shape=True)(jnp.zeros((), int))
        self._structure = jax.tree.structure(self.shapes)

    def __call__(self, index: Array) -> Any:
        return jax.tree.unflatten(self._structure, jaxpr_as_fun(self._closed)(index))

    def together(self, count: int, batch: int, internal_batch_size: int | None) -> int:
        """How many calls are evaluated together."""
        if internal_batch_size is None:
            most = BYTES_AT_ONCE // max(1, peak_bytes(self._closed.jaxpr))
        else:
            if internal_batch_size < 1:
                raise FaceflaxError("internal_batch_size", internal_batch_size, "is out of range", "give 1 or more")
            most = internal_batch_size // batch
        return even(count, most)


def even(count: int, most: int) -> int:
    """How many of ``count`` go together, ``most`` or a few less so that the last round is nearly as full.

    Example:
        >>> even(50, 32), even(50, 0)
        (25, 1)
    """
    most = min(count, max(1, most))
    return -(-count // -(-count // most))


def _tell(progress: Progress | None, done: Array, count: int) -> None:
    if progress is not None:
        jax.debug.callback(lambda done: progress(int(np.max(done)), count), done, ordered=False)


def _summed(value: Any) -> Any:
    return jnp.promote_types(value.dtype, jnp.float32)


def _bytes(aval: Any) -> int:
    dtype = getattr(aval, "dtype", None)
    return 0 if dtype is None else int(np.prod(aval.shape)) * getattr(dtype, "itemsize", 8)


def _inner(parameters: dict[str, Any]) -> Sequence[Jaxpr]:
    leaves = jax.tree.leaves(list(parameters.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr))
    return [x.jaxpr if isinstance(x, ClosedJaxpr) else x for x in leaves if isinstance(x, ClosedJaxpr | Jaxpr)]
