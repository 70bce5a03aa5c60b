"""How the programs of this package are compiled: by ``jax.jit``, but for a weakness of XLA on a CPU.

There, XLA computes a convolution well inside a loop only where images are laid out as ``[batch, height, width,
channels]`` and kernels as ``[height, width, inputs, outputs]``; others take many times as long, above all those of
networks that are written as PyTorch's, and every gradient by the images. So each convolution in a loop is given copies
that are laid out so. That changes how long a program takes, not what it computes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.errors import JaxRuntimeError
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from jaxtyping import Array

from interpret.graph import bind

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: dict[str, bool | str] = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
"""Of XLA on a CPU, where it knows them: with its other fusions, backward convolutions take twice as long."""
_LOOPS = ("scan", "while")
_CALLS = ("jit", "closed_call", "checkpoint", "remat2", "cond", *_LOOPS)
"""Operations that hold functions, which are looked into."""


def compiled(function: F, *, static: Sequence[str] = (), quick: bool = True) -> F:
    """``jax.jit`` of a function.

    Args:
        function: not yet compiled.
        static: those of its arguments that its program depends on.
        quick: compile it with options of XLA with which rounding may depend on the size of the batch.

    Example:
        >>> double = compiled(lambda x, times: x * 2**times, static=("times",))
        >>> print(double(jax.numpy.ones(2), times=3))
        [8. 8.]
    """

    @functools.wraps(function)
    def program(*arguments: Any, **named: Any) -> Any:
        if jax.default_backend() != "cpu":
            return function(*arguments, **named)
        closed, shapes = jax.make_jaxpr(lambda: function(*arguments, **named), return_shape=True)()
        return jax.tree.unflatten(jax.tree.structure(shapes), _Standard().run(closed, [], in_loop=False))

    nested = jax.jit(program, static_argnames=static)
    outermost = jax.jit(program, static_argnames=static, compiler_options=_OPTIONS) if quick else nested

    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        inside = any(isinstance(each, jax.core.Tracer) for each in jax.tree.leaves((arguments, named, jnp.zeros(()))))
        if inside or jax.default_backend() != "cpu" or not _known():
            return nested(*arguments, **named)
        return outermost(*arguments, **named)

    return run  # type: ignore[return-value]


@functools.cache
def _known() -> bool:
    """Whether this XLA knows the options."""
    try:
        jax.jit(lambda: jnp.zeros(()), compiler_options=_OPTIONS)()
    except JaxRuntimeError:
        return False
    return True


class _Standard:
    """Runs programs with the convolutions of their loops in the layout that is fast there."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, bool], tuple[Any, Any]] = {}

    def run(self, closed: ClosedJaxpr, operands: Sequence[Array], in_loop: bool) -> list[Array]:
        def replaced(equation: JaxprEqn) -> Callable[..., list[Array]] | None:
            name = equation.primitive.name
            if not _is_slow_equation(equation, in_loop):
                return None
            if name == "conv_general_dilated":
                return lambda *operands: [_standard_convolution(*operands, **equation.params)]
            inside = in_loop or name in _LOOPS
            params = {key: self._of(value, inside) for key, value in equation.params.items()}
            return lambda *operands: bind(equation, operands, params)

        return _run(closed, operands, replaced)

    def _of(self, value: Any, in_loop: bool) -> Any:
        """A parameter's functions, made anew where they are slow."""
        if isinstance(value, tuple | list) and any(isinstance(each, ClosedJaxpr) for each in value):
            return type(value)(self._of(each, in_loop) for each in value)
        if not isinstance(value, ClosedJaxpr | Jaxpr):
            return value
        closed = value if isinstance(value, ClosedJaxpr) else ClosedJaxpr(value, ())
        if not _is_slow(closed.jaxpr, in_loop):
            return value
        key = id(value), in_loop
        if key not in self._made:  # with the value itself, whose id nothing else has while it is kept
            shapes = [jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in closed.jaxpr.invars]
            new = jax.make_jaxpr(lambda *operands: self.run(closed, operands, in_loop))(*shapes)
            self._made[key] = value, new if isinstance(value, ClosedJaxpr) else new.jaxpr
        return self._made[key][1]


def _run(
    closed: ClosedJaxpr,
    operands: Sequence[Array],
    replace: Callable[[JaxprEqn], Callable[..., list[Array]] | None] = lambda equation: None,
) -> list[Array]:
    """Computes a program, with other functions in the place of some of its equations."""
    jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *operands], strict=True))

    def read(atoms: Sequence[Any]) -> list[Any]:
        return [atom.val if isinstance(atom, Literal) else values[atom] for atom in atoms]

    for equation in jaxpr.eqns:
        function = replace(equation)
        given = read(equation.invars)
        results = function(*given) if function is not None else bind(equation, given)
        values.update(zip(equation.outvars, results, strict=True))
    return read(jaxpr.outvars)


def _is_slow(jaxpr: Jaxpr, in_loop: bool) -> bool:
    return any(_is_slow_equation(equation, in_loop) for equation in jaxpr.eqns)


def _is_slow_equation(equation: JaxprEqn, in_loop: bool) -> bool:
    """Whether it is a convolution in a loop in another layout than the fast one, or holds one."""
    name = equation.primitive.name
    if name == "conv_general_dilated":
        numbers = equation.params["dimension_numbers"]
        return in_loop and (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec) != _layout(len(numbers.lhs_spec) - 2)
    if name not in _CALLS:
        return False
    leaves = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr))
    functions = [x.jaxpr if isinstance(x, ClosedJaxpr) else x for x in leaves if isinstance(x, ClosedJaxpr | Jaxpr)]
    return any(_is_slow(each, in_loop or name in _LOOPS) for each in functions)


def _layout(spatial: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Where batch and channels of the images, outputs and inputs of the kernel, and their spatial axes are."""
    images = 0, spatial + 1, *range(1, spatial + 1)
    return images, (spatial + 1, spatial, *range(spatial)), images


def _standard_convolution(x: Array, kernel: Array, *, dimension_numbers: Any, **params: Any) -> Array:
    """The convolution, on copies in the fast layout; the barriers keep XLA from making views of them again."""
    spatial = x.ndim - 2
    images, kernels, _ = _layout(spatial)

    def moved(array: Array, spec: Sequence[int], wanted: Sequence[int]) -> Array:
        order = [axis for _, axis in sorted(zip(wanted, spec, strict=True))]
        if order == sorted(order):
            return array
        return lax.optimization_barrier(array.transpose(order))

    x = moved(x, dimension_numbers.lhs_spec, images)
    kernel = moved(kernel, dimension_numbers.rhs_spec, kernels)
    params = {key: value for key, value in params.items() if key not in ("lhs_shape", "rhs_shape")}
    y = lax.conv_general_dilated_p.bind(
        x, kernel, dimension_numbers=lax.ConvDimensionNumbers(*_layout(spatial)), **params
    )
    if tuple(dimension_numbers.out_spec) == images:
        return y
    return moved(y, images, dimension_numbers.out_spec)
