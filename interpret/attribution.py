"""What all attribution methods share: how they are called, checked and compiled.

Every method is called as ``method(model, variables, images, target)`` and returns an array of the images' shape. It
works on any :class:`~interpret.graph.Model`: ``logits, features = model.apply(variables, images, train=False)``. It is
compiled on its first call for a model and a shape, and composes with ``jax.jit`` (``jax.jit(partial(guided_backprop,
model))``) and ``jax.vmap``. Mapped over targets alone, it computes the network's forward pass once for all of them::

    seven = jax.vmap(partial(guided_backprop, model, variables, images))(jnp.arange(7))  # [7, batch, h, w, c]

Arguments are checked by shape and type always, by value where the values are known, that is outside a transform.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError, InvalidRngError, ModifyScopeVariableError, ScopeParamShapeError
from jaxtyping import Array

from faceflax.errors import FaceflaxError, said
from interpret.compiling import compiled
from interpret.graph import Images, Model
from interpret.targets import Features, Logits, Target, Unbatched, as_score, batch_axes

Method = Callable[..., Any]
"""``method(model, variables, images, target=None, *, layer="last_conv")`` to an attribution of the images' shape."""

P = ParamSpec("P")
R = TypeVar("R")


def method(
    *options: str, prepare: Callable[[Images, dict[str, Any]], dict[str, Any]] | None = None, quick: bool = True
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes an attribution method of a function: checks what it is called with, and compiles it.

    The function gets floating point images, and as ``target`` a :class:`~interpret.targets.Score`.

    Args:
        *options: those of its arguments that the compiled program depends on, such as a number of steps.
        prepare: what makes other arguments, by name, of the images and those that it was called with; before it is
            compiled, so that it sees their values.
        quick: see :func:`~interpret.compiling.compiled`.

    Returns:
        A decorator of functions ``(model, variables, images, target, *, layer, ...)``.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        program: Callable[..., Any] = compiled(function, static=("model", "layer", *options), quick=quick)

        @functools.wraps(function)
        def checked(
            model: Model,
            variables: Any,
            images: Images,
            target: Target = None,
            *,
            layer: str = "last_conv",
            **arguments: Any,
        ) -> Any:
            images = checked_images(images)
            score = as_score(target, layer, *answer_shapes(model, variables, images))
            arguments = arguments if prepare is None else prepare(images, arguments)
            answer = program(model, variables, images, score, layer=layer, **arguments)
            if arguments.get("progress") is not None and not isinstance(images, jax.core.Tracer):
                jax.effects_barrier()  # what it reports has come before its answer
            return answer

        return checked  # type: ignore[return-value]

    return decorate


@functools.partial(jax.jit, static_argnames="model")
def apply(model: Model, variables: Any, images: Images) -> tuple[Logits, Features]:
    """Applies a model as it is."""
    return model.apply(variables, images, train=False)


def answer_shapes(model: Model, variables: Any, images: Any) -> tuple[Any, Any]:
    """Returns the shapes of a model's logits and features, the latter ``Unbatched`` where the batch is not first.

    Raises:
        FaceflaxError: the model cannot be used, or the images do not fit it.
    """
    try:
        hash(model)
    except TypeError as error:
        raise FaceflaxError(
            "model", None, f"{type(model).__name__} cannot be hashed ({said(error)})", "make its fields tuples"
        ) from None
    try:
        answer = apply.eval_shape(model, variables, images)
    except ScopeParamShapeError as error:
        raise FaceflaxError(
            "images", images.shape, f"shape {{}} does not fit the model's variables: {said(error)}"
        ) from error
    except (InvalidRngError, ModifyScopeVariableError) as error:
        raise FaceflaxError(
            "model",
            None,
            f"{type(model).__name__} is in training mode: it draws random numbers or changes its variables "
            f"({said(error)})",
            "evaluate it without dropout and by running statistics, such as from_linen(module, train=False)",
        ) from error
    except FaceflaxError:
        raise
    except (TypeError, ValueError, FlaxError) as error:
        raise FaceflaxError(
            "model",
            None,
            f"{type(model).__name__} cannot be applied as model.apply(variables, images, train=False) to images "
            f"of shape {images.shape} ({said(error)})",
            "see interpret.adapters",
        ) from error
    match answer:
        case (logits, dict() as features) if getattr(logits, "ndim", None) == 2:
            axes = batch_axes(lambda other: apply.eval_shape(model, variables, other)[1], images, features)
            return logits, {name: f if axes[name] == 0 else Unbatched(f.shape) for name, f in features.items()}
    raise FaceflaxError(
        "model",
        None,
        f"{type(model).__name__} does not return (logits [batch, classes], features by name)",
        "see interpret.adapters",
    )


def checked_images(images: Any) -> Images:
    """Returns images as an array, or raises what is wrong with them."""
    images = images if isinstance(images, jax.Array) else np.asarray(images)
    check_images(images)
    return jnp.asarray(images)


def check_images(images: jax.Array | np.ndarray) -> None:
    """Raises what is wrong with images; only values that are known are looked at."""
    if images.ndim != 4 or 0 in images.shape:
        raise FaceflaxError("images", images.shape, "shape {} is not [batch, height, width, channels]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise FaceflaxError("images", images.dtype, "is not floating point", "scale them with preprocessing.normalize")
    if not isinstance(images, jax.core.Tracer):
        bad = np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))
        if bad.size:
            raise FaceflaxError("images", bad[0], "image {} holds NaN or infinity")


def checked_maps(field: str, value: Any, *, dimensions: int | None = None) -> Array:
    """Returns maps as floating point numbers that can be summed, at least float32, or raises what is wrong with them.

    Args:
        field: what the caller calls them.
        value: numbers, with a batch first; only those that are known are looked at.
        dimensions: how many the array must have, if not any.
    """
    check_maps(field, value, dimensions=dimensions)
    maps = jnp.asarray(value)
    return maps.astype(jnp.promote_types(maps.dtype, jnp.float32))


def check_maps(field: str, value: Any, *, dimensions: int | None = None) -> None:
    """Raises what is wrong with maps; see :func:`checked_maps`."""
    maps = value if isinstance(value, jax.Array) else np.asarray(value)
    if maps.dtype != bool and (
        not jnp.issubdtype(maps.dtype, jnp.number) or jnp.issubdtype(maps.dtype, jnp.complexfloating)
    ):
        raise FaceflaxError(field, maps.dtype, "is no type of real numbers")
    if maps.ndim < 2 if dimensions is None else maps.ndim != dimensions:
        expected = ["batch", "height", "width", "channels"][:dimensions] if dimensions else ["batch", "..."]
        raise FaceflaxError(field, maps.shape, f"shape {{}} is not [{', '.join(expected)}]")
    if not isinstance(maps, jax.core.Tracer):
        bad = np.flatnonzero(~np.isfinite(np.asarray(maps, np.float64)).reshape(len(maps), -1).all(1))
        if bad.size:
            raise FaceflaxError(field, bad[0], "map {} holds NaN or infinity")


def checked_baseline(baseline: Any, images: Images) -> Images:
    """Returns what stands for nothing to see, of the images' shape, or raises."""
    ground = jnp.asarray(baseline, images.dtype)
    try:
        fits = np.broadcast_shapes(ground.shape, images.shape) == images.shape
    except ValueError:
        fits = False
    if not fits:
        raise FaceflaxError(
            "baseline",
            ground.shape,
            f"shape {{}} does not broadcast to the images' {images.shape}",
            "give one number or an image",
        )
    return jnp.broadcast_to(ground, images.shape)


def at_least(field: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raises if an argument, called ``field``, is out of its range."""
    try:
        inside = low <= value <= high
    except TypeError:
        raise FaceflaxError(field, None, f"{value!r} is not a number", "give one") from None
    if not inside:
        limits = f"{low} to {high}" if high < float("inf") else f"{low} or more"
        raise FaceflaxError(field, value, "is out of range", f"give {limits}")
