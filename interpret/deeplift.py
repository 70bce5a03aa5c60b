"""DeepLIFT: differences from a baseline, handed back through each operation as a ratio of differences.

The network is run on the baseline as well, and in the list of its operations (:mod:`interpret.graph`) every nonlinear
one is replaced by a linear one with the same result and with DeepLIFT's multipliers for slopes. What is handed back is
then an ordinary gradient, and differences are shared out without remainder:

* a function of one value: ``(y - y0) / (x - x0)``, the rescale rule; its derivative where both are equal;
* a product of activations (attention, a gate): half of the difference by each factor, the other at its mean;
* a choice (``where``) by a comparison: as such a product, of the cases and of the comparison, which jumps;
* a maximum: all to the winner, as in Captum: the baseline's where the maximum falls, the image's where it rises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import Array

from faceflax.errors import FaceflaxError
from interpret.attribution import apply, checked_baseline, method
from interpret.copies import OPTIONS, Progress, total
from interpret.graph import Graph, Images, Model, Operation, Slot, read, relus, trace
from interpret.paths import checked_baselines
from interpret.targets import Target

CLOSE = 1e-6
"""How small a difference is divided by; below, the derivative stands for the ratio."""

_LINEAR = {
    *("add", "add_any", "sub", "neg", "reduce_sum", "reduce_window_sum", "cumsum", "real"),
    *("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "dynamic_slice", "gather", "rev"),
    *("concatenate", "pad", "copy", "convert_element_type", "reduce_precision", "stack", "split", "select_n", "tile"),
    *("name", "sharding_constraint", "optimization_barrier", "dynamic_update_slice"),
}
_BILINEAR = {"mul", "dot_general", "conv_general_dilated"}
_ELEMENTWISE = {
    *(
        "exp",
        "exp2",
        "expm1",
        "log",
        "log1p",
        "tanh",
        "logistic",
        "erf",
        "erfc",
        "erf_inv",
        "sin",
        "cos",
        "tan",
        "asinh",
    ),
    *("sqrt", "rsqrt", "cbrt", "square", "integer_pow", "pow", "abs", "max", "min", "clamp", "custom_jvp_call", "rem"),
    *("atan", "sinh", "cosh", "lgamma", "digamma"),
}
_COMPARISONS = {"gt", "ge", "lt", "le"}
_MAXIMA = {"reduce_window_max", "reduce_max", "max"}


@method()
def deep_lift(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    baseline: float | Images = 0.0,
) -> Images:
    """DeepLIFT with the rescale rule: what each pixel's difference from a baseline does to the score's.

    ``A = (x - b) m``, with ``m`` the product, by the chain rule, of each operation's ``difference of its result /
    difference of its operand``. It is complete: ``sum A = s(x) - s(b)``, for any network whose operations have a rule,
    attention and LayerNorm included. Shrikumar, Greenside and Kundaje, "Learning Important Features Through Propagating
    Activation Differences", ICML 2017 (arXiv:1704.02685); see :mod:`interpret.deeplift` for products and maxima.
    Misleads: like integrated gradients it says nothing of what equals the baseline, and two networks that compute the
    same in different ways may get different maps.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`; the highest activation is that of the images.
        layer: as in :func:`~interpret.gradients.gradient`.
        baseline: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.gradient`, a baseline that does not fit the images, or an
            operation that has no rule.

    Example:
        >>> import flax.linen as nn
        >>> class Net(nn.Module):
        ...     def __call__(self, images, train=False):
        ...         return nn.relu(images.sum((1, 2)) - 1), {}
        >>> images = jnp.array([1.0, 3.0]).reshape(1, 1, 2, 1)
        >>> print(deep_lift(Net(), {}, images, 0).ravel())  # 3 of the sum's 4 pass the threshold
        [0.75 2.25]
    """
    start = checked_baseline(baseline, images)
    target = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]
    return _attributed(trace(model, variables, images, plain=True), images, start, target)


@method(*OPTIONS)
def deep_lift_shap(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    baselines: Images | None = None,
    internal_batch_size: int | None = None,
    progress: Progress | None = None,
) -> Images:
    """DeepLIFT-SHAP: :func:`deep_lift` averaged over baselines.

    ``A = mean over n of deep_lift from b_n``; its sum is ``s(x)`` less the baselines' mean score. Lundberg and Lee, "A
    Unified Approach to Interpreting Model Predictions", NeurIPS 2017 (arXiv:1705.07874). Misleads: it approximates
    Shapley values, and is none where features act together.

    Args:
        model: as in :func:`deep_lift`.
        variables: as in :func:`deep_lift`.
        images: as in :func:`deep_lift`.
        target: as in :func:`deep_lift`.
        layer: as in :func:`deep_lift`.
        baselines: as in :func:`~interpret.paths.expected_gradients`.
        internal_batch_size: as in :func:`~interpret.gradients.integrated_gradients`.
        progress: as in :func:`~interpret.gradients.integrated_gradients`.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`deep_lift`, or baselines of another shape.
    """
    grounds = checked_baselines(baselines, images)
    target = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]
    graph = trace(model, variables, images, plain=True)

    def one(i: Array) -> Images:
        return _attributed(graph, images, jnp.broadcast_to(grounds[i], images.shape), target)

    return total(one, len(grounds), images.shape[0], internal_batch_size, progress) / len(grounds)


def _attributed(graph: Graph, images: Images, start: Images, target: Any) -> Images:
    at_start = graph.of(start).run()

    def score(x: Images) -> Array:
        there = graph.of(x)
        return target.of(*there.answer(_run(there, at_start))).sum()

    return (images - start) * jax.grad(score)(images)


def _run(graph: Graph, at_start: Mapping[Slot, Array]) -> dict[Slot, Array]:
    """Computes all values, each by an operation that is linear in what depends on the images."""
    written = relus(graph)
    values = dict(graph.values)
    moving = {graph.images}  # what depends on the images, whatever its type
    comparisons: dict[Slot, Operation] = {}
    for operation in graph.operations:
        here, there = read(values, operation.inputs), read(at_start, operation.inputs)
        places = [i for i, slot in enumerate(operation.inputs) if not isinstance(slot, Literal) and slot in moving]
        if places:
            moving.update(operation.outputs)
        if operation.name in _COMPARISONS and places:
            comparisons[operation.outputs[0]] = operation
        relu = written.get(operation.outputs[0])
        results = read(at_start, operation.outputs)
        if not places or not any(jnp.issubdtype(result.dtype, jnp.floating) for result in results):
            made = operation(*map(jax.lax.stop_gradient, here))
        elif relu is not None:
            function = partial(relu, jax.nn.relu)
            made = [_rescaled(function, [i for i in places if _floats(here[i])], here, there, results[0])]
        elif operation.name == "select_n" and 0 in places:
            made = [_selected(operation, comparisons, values, at_start)]
        elif all(_floats(here[i]) for i in places):
            made = _linear(operation, places, here, there, results)
        else:
            raise _without_rule(operation)
        values.update(zip(operation.outputs, made, strict=True))
    return values


def _linear(
    operation: Operation, places: list[int], here: list[Array], there: list[Array], results: list[Array]
) -> list[Array]:
    name = operation.name
    if name == "stop_gradient":
        return here  # differences do not stop
    if name in _LINEAR or (name in _BILINEAR and len(places) == 1) or (name == "div" and places == [0]):
        return operation(*here)
    if name in _BILINEAR:
        return _multiplied(operation, places, here, there)
    if name == "div":
        return [_divided(places, here, there)]
    if name in _ELEMENTWISE and len(places) == 1:
        return [_rescaled(lambda *o: operation(*o)[0], places, here, there, results[0])]
    if name in _MAXIMA:
        return [_largest(operation, places, here, there, results[0])]
    raise _without_rule(operation)


def _without_rule(operation: Operation) -> FaceflaxError:
    return FaceflaxError(
        "model",
        operation.name,
        "its operation {} on activations has no rule of DeepLIFT",
        "use another method, such as integrated_gradients",
    )


def _floats(value: Array) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


def _rescaled(function: Callable[..., Array], places: list[int], here: Any, there: list[Array], result: Array) -> Array:
    """A function of one value as a line through the baseline's result and the image's."""
    place = places[0]  # of x * (x > 0) both are places, of one value
    x, x0 = here[place], there[place]

    def of(x: Array) -> Array:
        return function(*(x if i == place else operand for i, operand in enumerate(here)))

    fixed = jax.lax.stop_gradient(x)
    y, slope = jax.jvp(of, (fixed,), (jnp.ones_like(fixed),))
    far = jnp.abs(fixed - x0) > CLOSE
    ratio = jnp.where(far, (y - result) / jnp.where(far, fixed - x0, 1), slope)
    return y + jax.lax.stop_gradient(ratio) * (x - fixed)


def _multiplied(operation: Operation, places: list[int], here: list[Array], there: list[Array]) -> list[Array]:
    """A product: each factor's difference times the other's mean."""
    fixed = [jax.lax.stop_gradient(x) for x in here]
    means = [(x + x0) / 2 for x, x0 in zip(fixed, there, strict=True)]
    (result,) = operation(*fixed)
    for place in places:
        (part,) = operation(*(here[i] - fixed[i] if i == place else means[i] for i in range(len(here))))
        result = result + part
    return [result]


def _divided(places: list[int], here: list[Array], there: list[Array]) -> Array:
    """A quotient, as the product of the numerator and the denominator's inverse."""
    (a, b), (a0, b0) = map(jax.lax.stop_gradient, here), there
    result = a / b
    if 0 in places:
        result = result + (here[0] - a) * (1 / b + 1 / b0) / 2
    return result - (here[1] - b) * (a + a0) / 2 / (b * b0)


def _selected(
    operation: Operation,
    comparisons: Mapping[Slot, Operation],
    values: Mapping[Slot, Array],
    at_start: Mapping[Slot, Array],
) -> Array:
    """A choice by a comparison: as the product of the cases and of what is compared, a function that jumps."""
    condition = operation.inputs[0]
    comparison = None if isinstance(condition, Literal) else comparisons.get(condition)
    if comparison is None or len(operation.inputs) != 3:
        raise _without_rule(operation)
    here, there = read(values, operation.inputs), read(at_start, operation.inputs)
    fixed = [jax.lax.stop_gradient(x) for x in here]
    (result,) = operation(*fixed)
    for case in (1, 2):
        weight = ((here[0] == (case == 2)).astype(result.dtype) + (there[0] == (case == 2))) / 2
        result = result + weight * (here[case] - fixed[case])
    (left, right), (left0, right0) = read(values, comparison.inputs), read(at_start, comparison.inputs)
    difference = left - right
    moved = jax.lax.stop_gradient(difference) - (left0 - right0)
    jump = fixed[0].astype(result.dtype) - there[0].astype(result.dtype)
    slope = jnp.where(jump == 0, 0, jump / jnp.where(moved == 0, 1, moved))
    gap = (fixed[2] + there[2] - fixed[1] - there[1]) / 2
    return result + gap * slope * (difference - jax.lax.stop_gradient(difference))


def _largest(operation: Operation, places: list[int], here: list[Array], there: list[Array], result: Array) -> Array:
    """A maximum: its difference goes to its winner for the image where it rises, for the baseline where it falls."""
    fixed = [jax.lax.stop_gradient(x) for x in here]

    def of(at: list[Array]) -> Callable[..., Array]:
        def function(*moved: Array) -> Array:
            operands = list(at)
            for place, value in zip(places, moved, strict=True):
                operands[place] = value
            return operation(*operands)[0]

        return function

    shares = []
    for place in places:
        difference = fixed[place] - there[place]
        safe = jnp.where(difference == 0, 1, difference)
        shares.append(jnp.where(difference == 0, 0, (here[place] - fixed[place]) / safe))
    (y,) = operation(*fixed)
    upper = jnp.maximum(y, result)
    _, risen = jax.jvp(of(fixed), [fixed[i] for i in places], shares)
    _, fallen = jax.jvp(of(there), [there[i] for i in places], shares)
    return y + (upper - result) * risen + (y - upper) * fallen
