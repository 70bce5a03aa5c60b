"""The networks, by name.

Contract: ``logits, features = model.apply(variables, images, train=False)`` with float32 images
``[batch, height, width, channels]`` in [-1, 1]; ``features`` maps layer names to activations; the field ``activation``
is every nonlinearity of the network.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from faceflax.errors import FaceflaxError, unknown
from faceflax.models.mini_xception import MiniXception
from faceflax.models.sequential_cnn import SequentialCNN

_MODELS: dict[str, type[nn.Module]] = {"mini_xception": MiniXception, "sequential_cnn": SequentialCNN}

MIN_IMAGE_SIZE = 32


def list_models() -> list[str]:
    """Returns the names that :func:`create` takes.

    Example:
        >>> list_models()
        ['mini_xception', 'sequential_cnn']
    """
    return sorted(_MODELS)


def create(name: str, num_classes: int, **fields: Any) -> nn.Module:
    """Builds a network by name; its parameters come from :func:`init` or ``faceflax.load``.

    Args:
        name: one of :func:`list_models`.
        num_classes: how many logits, at least 1.
        **fields: other fields of the network, such as ``activation``.

    Raises:
        FaceflaxError: unknown name, or fewer than one class.

    Example:
        >>> create("mini_xception", 7).num_classes
        7
    """
    if name not in _MODELS:
        raise unknown("name", name, list_models())
    if num_classes < 1:
        raise FaceflaxError(f"num_classes: {num_classes} is not a number of classes; give 1 or more")
    return _MODELS[name](num_classes=num_classes, **fields)


def init(model: nn.Module, key: jax.Array, image_size: int = 64, channels: int = 1) -> dict[str, Any]:
    """Draws fresh variables (``params`` and ``batch_stats``) for images of ``image_size`` pixels a side.

    Raises:
        FaceflaxError: ``image_size`` under 32.
    """
    if image_size < MIN_IMAGE_SIZE:
        raise FaceflaxError(f"image_size: {image_size} is too small; the networks take {MIN_IMAGE_SIZE} pixels or more")
    return jax.jit(model.init)(key, jnp.zeros((1, image_size, image_size, channels)))


def layer_names(model: nn.Module, image_size: int = 64, channels: int = 1) -> list[str]:
    """Returns the names in a model's ``features``, from input to output."""
    names: list[str] = []

    def trace(images: jax.Array) -> None:
        (_, features), _ = model.init_with_output(jax.random.key(0), images)
        names.extend(features)  # a traced dict comes back sorted; here it still has the network's order

    jax.eval_shape(trace, jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32))
    return names
