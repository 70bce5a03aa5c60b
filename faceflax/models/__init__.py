"""The networks, by name.

Contract: ``logits, features = model.apply(variables, images, train=False)`` with float32 images
``[batch, height, width, channels]`` in [-1, 1]; ``features`` maps layer names to activations; the field ``activation``
is every nonlinearity of the network. Images may have any size from :data:`MIN_IMAGE_SIZE` up, unless the network has an
``image_size``, which is then the only one.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from faceflax.errors import FaceflaxError, unknown
from faceflax.models.mini_xception import MiniXception
from faceflax.models.sequential_cnn import SequentialCNN
from faceflax.models.tang_cnn import TangCNN
from faceflax.models.variants import MiniXceptionAntialiased, MiniXceptionSE
from faceflax.models.vgg import VGG

_MODELS: dict[str, type[nn.Module]] = {
    "mini_xception": MiniXception,
    "mini_xception_antialiased": MiniXceptionAntialiased,
    "mini_xception_se": MiniXceptionSE,
    "sequential_cnn": SequentialCNN,
    "tang_cnn": TangCNN,
    "vgg": VGG,
}

MIN_IMAGE_SIZE = 32


def list_models() -> list[str]:
    """Returns the names that :func:`create` takes.

    Example:
        >>> list_models()
        ['mini_xception', 'mini_xception_antialiased', 'mini_xception_se', 'sequential_cnn', 'tang_cnn', 'vgg']
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


def init(model: nn.Module, key: jax.Array, image_size: int | None = None, channels: int = 1) -> dict[str, Any]:
    """Draws fresh variables: ``params``, and ``batch_stats``, which is empty for a network without BatchNorm.

    Args:
        model: the network.
        key: of the random numbers.
        image_size: side of the images in pixels; :func:`usual_image_size` if not given.
        channels: of the images.

    Raises:
        FaceflaxError: the network does not take images of that size.
    """
    size = usual_image_size(model) if image_size is None else image_size
    if size < MIN_IMAGE_SIZE:
        raise FaceflaxError(f"image_size: {size} is too small; the networks take {MIN_IMAGE_SIZE} pixels or more")
    if size != getattr(model, "image_size", size):
        raise FaceflaxError(f"image_size: {size} is not what {type(model).__name__} takes; give {model.image_size}")
    return {"batch_stats": {}} | jax.jit(model.init)(key, jnp.zeros((1, size, size, channels)))


def usual_image_size(model: nn.Module) -> int:
    """Returns the one size of images, in pixels a side, that a network takes, or 64 for one that takes any.

    Example:
        >>> usual_image_size(create("tang_cnn", 7)), usual_image_size(create("mini_xception", 7))
        (48, 64)
    """
    return getattr(model, "image_size", 64)


def layer_names(model: nn.Module, image_size: int | None = None, channels: int = 1) -> list[str]:
    """Returns the names in a model's ``features``, from input to output."""
    names: list[str] = []
    size = usual_image_size(model) if image_size is None else image_size

    def trace(images: jax.Array) -> None:
        (_, features), _ = model.init_with_output(jax.random.key(0), images)
        names.extend(features)  # a traced dict comes back sorted; here it still has the network's order

    jax.eval_shape(trace, jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32))
    return names
