"""Attribution methods: pure functions from images to signed maps of what a network's response depends on.

Every method is called as ``method(model, variables, images, target)`` and returns an array of the images' shape. It
works on any Linen module with ``logits, features = model.apply(variables, images, train=False)``. It is compiled on its
first call for a model and a shape, and composes with ``jax.jit`` (``jax.jit(partial(guided_backprop, model))``) and
``jax.vmap``. Mapped over targets alone, it computes the network's forward pass once for all of them::

    seven = jax.vmap(partial(guided_backprop, model, variables, images))(jnp.arange(7))  # [7, batch, h, w, c]

Arguments are checked by shape and type always, by value where the values are known, that is outside a transform.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from jaxtyping import Array, Float, Int

from faceflax.errors import FaceflaxError, unknown
from interpret.rules import deconvnet_relu, guided_relu

Index = int | Int[Array, ""] | Int[Array, " batch"]
"""One index for all images, or an integer array with one for each."""

Images = Float[Array, "batch height width channels"]
Features = Mapping[str, Array]


@partial(jax.tree_util.register_dataclass, data_fields=["row", "column", "channel"], meta_fields=["layer"])
@dataclasses.dataclass(frozen=True)
class Neuron:
    """One neuron of a convolutional layer, as an attribution's target.

    A pytree, so that ``jax.vmap`` maps over its coordinates.

    Attributes:
        layer: a name in the model's ``features``; its activations are ``[batch, height, width, channels]``.
        row: from the top.
        column: from the left.
        channel: of the last axis.

    Example:
        >>> Neuron("last_conv", row=1, column=2, channel=3)
        Neuron(layer='last_conv', row=1, column=2, channel=3)
    """

    layer: str
    row: Index
    column: Index
    channel: Index


Target = Index | Neuron | None
"""A class (its logit), a :class:`Neuron`, or None: the highest activation of a layer."""


def gradient(
    model: nn.Module, variables: Mapping[str, Any], images: Images, target: Target = None, *, layer: str = "last_conv"
) -> Images:
    """The target's gradient with respect to the images.

    ``A = d s / d x``. Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks: Visualising Image
    Classification Models and Saliency Maps", 2014 (arXiv:1312.6034); their map is ``|A|``, here the sign is kept.

    Args:
        model: a module with ``logits, features = model.apply(variables, images, train=False)``.
        variables: its parameters and statistics.
        images: floating point ``[batch, height, width, channels]``, scaled as the model takes them.
        target: what is explained, for each image: a class (int or int array ``[batch]``), whose logit is meant; a
            :class:`Neuron`; or None for the highest activation of ``layer``, chosen image by image.
        layer: a name in ``features``; read when ``target`` is None.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: unknown layer, target out of range, or images of a wrong rank, type or channel count or with a
            value that is not finite.

    Example:
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, images, train=False):
        ...         last_conv = nn.Conv(7, (3, 3))(images)
        ...         return last_conv.mean((1, 2)), {"last_conv": last_conv}
        >>> images = jnp.zeros((2, 8, 8, 1))
        >>> variables = Net().init(jax.random.key(0), images)
        >>> gradient(Net(), variables, images, target=3).shape
        (2, 8, 8, 1)
    """
    images = _checked_images(images)
    try:
        logits, features = _apply.eval_shape(model, variables, images)
    except ScopeParamShapeError as error:
        raise FaceflaxError(f"images: shape {images.shape} does not fit the model's variables: {error}") from error
    target = _checked_target(target, layer, logits, features)
    return _gradient(model, variables, images, target, layer)


def guided_backprop(
    model: nn.Module, variables: Mapping[str, Any], images: Images, target: Target = None, *, layer: str = "last_conv"
) -> Images:
    """Guided backpropagation: :func:`gradient` with every ReLU replaced by :func:`interpret.rules.guided_relu`.

    Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR workshop 2015 (arXiv:1412.6806).
    It draws edges more than reasons: the map hardly changes when the network's upper layers are randomised (Adebayo et
    al., "Sanity Checks for Saliency Maps", NeurIPS 2018).

    Args:
        model: as in :func:`gradient`, and with a field ``activation`` that is all its ReLUs.
        variables: as in :func:`gradient`.
        images: as in :func:`gradient`.
        target: as in :func:`gradient`.
        layer: as in :func:`gradient`.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`gradient`, or the model's ReLUs cannot be replaced.
    """
    return gradient(_with_relu(model, guided_relu), variables, images, target, layer=layer)


def deconvnet(
    model: nn.Module, variables: Mapping[str, Any], images: Images, target: Target = None, *, layer: str = "last_conv"
) -> Images:
    """Deconvnet: :func:`gradient` with every ReLU replaced by :func:`interpret.rules.deconvnet_relu`.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014 (arXiv:1311.2901).

    Args:
        model: as in :func:`guided_backprop`.
        variables: as in :func:`gradient`.
        images: as in :func:`gradient`.
        target: as in :func:`gradient`.
        layer: as in :func:`gradient`.

    Returns:
        Signed attribution of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`guided_backprop`.
    """
    return gradient(_with_relu(model, deconvnet_relu), variables, images, target, layer=layer)


@partial(jax.jit, static_argnames="model")
def _apply(model: nn.Module, variables: Mapping[str, Any], images: Images) -> Any:
    return model.apply(variables, images, train=False)


@partial(jax.jit, static_argnames=("model", "layer"))
def _gradient(model: nn.Module, variables: Mapping[str, Any], images: Images, target: Target, layer: str) -> Images:
    def score(images: Images) -> Float[Array, ""]:
        logits, features = _apply(model, variables, images)
        return _scores(logits, features, target, layer).sum()  # images do not mix: this gradient holds each one's own

    return jax.grad(score)(images)


def _scores(logits: Array, features: Features, target: Target, layer: str) -> Float[Array, " batch"]:
    """The number that is explained, for each image."""
    each = jnp.arange(logits.shape[0])
    if isinstance(target, Neuron):
        return features[target.layer][each, target.row, target.column, target.channel]
    if target is not None:
        return logits[each, target]
    activations = features[layer].reshape(logits.shape[0], -1)
    return activations[each, activations.argmax(1)]  # not max(): it shares the gradient among equals


def _checked_images(images: Any) -> Images:
    images = images if isinstance(images, jax.Array) else np.asarray(images)
    if images.ndim != 4:
        raise FaceflaxError(f"images: shape {images.shape} is not [batch, height, width, channels]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise FaceflaxError(f"images: {images.dtype} is not floating point; scale them with preprocessing.normalize")
    if not isinstance(images, jax.core.Tracer):
        bad = np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))
        if bad.size:
            raise FaceflaxError(f"images: image {bad[0]} holds NaN or infinity")
    return jnp.asarray(images)


def _checked_target(target: Target, layer: str, logits: Any, features: Mapping[str, Any]) -> Target:
    """Returns the target with arrays for indices; ``logits`` and ``features`` need have no more than shapes."""
    batch, classes = logits.shape
    if not (target is None or isinstance(target, Neuron)):
        return _checked_index("target", target, classes, batch)
    name = layer if target is None else target.layer
    if name not in features:
        raise unknown("layer", name, features)
    if target is None:
        return None
    shape = features[name].shape
    if len(shape) != 4:
        raise FaceflaxError(f"target: {name!r} has shape {shape}; a Neuron needs [batch, height, width, channels]")
    indices = {
        axis: _checked_index(f"target.{axis}", getattr(target, axis), size, batch)
        for axis, size in zip(("row", "column", "channel"), shape[1:], strict=True)
    }
    return Neuron(name, **indices)


def _checked_index(argument: str, value: Any, size: int, batch: int) -> Array:
    index = value if isinstance(value, jax.Array) else np.asarray(value)
    if not jnp.issubdtype(index.dtype, jnp.integer) or index.shape not in ((), (batch,)):
        raise FaceflaxError(f"{argument}: {value!r} is neither an integer nor an array of {batch}, one for each image")
    if not isinstance(index, jax.core.Tracer):
        outside = index[(index < 0) | (index >= size)]
        if outside.size:
            raise FaceflaxError(f"{argument}: {outside[0]} is out of range; give 0 to {size - 1}")
    return jnp.asarray(index)


def _with_relu(model: nn.Module, relu: Any) -> nn.Module:
    """Replaces the model's ReLUs, if they can be reached and are ReLUs."""
    if "activation" not in {field.name for field in dataclasses.fields(model)}:
        raise FaceflaxError(
            f"model: {type(model).__name__} has no field 'activation', so its ReLUs cannot be replaced; "
            "add the field and apply it wherever the model applies a ReLU, or use gradient"
        )
    with jax.ensure_compile_time_eval():
        points = jnp.linspace(-2.0, 2.0, 9)
        if not jnp.array_equal(model.activation(points), jax.nn.relu(points)):
            raise FaceflaxError(f"model: its activation {model.activation!r} is not a ReLU; use gradient")
    return model.clone(activation=relu)
