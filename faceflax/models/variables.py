"""Initial variables of a network, and what its layers are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from faceflax.errors import FaceflaxError
from faceflax.models.architectures import MIN_IMAGE_SIZE


def init(
    model: nn.Module, key: jax.Array, image_size: int | None = None, channels: int | None = None
) -> dict[str, Any]:
    """Makes fresh variables: ``params``, and ``batch_stats``, which is empty for a network without BatchNorm.

    Compiles once for all equal networks and sizes.

    Args:
        model: the network.
        key: of the random numbers.
        image_size: side of the images in pixels; :func:`usual_image_size` if not given.
        channels: of the images; :func:`usual_channels` if not given.

    Raises:
        FaceflaxError: the network does not take images of that size.

    Example:
        >>> from faceflax import models
        >>> model = models.create("mini_xception", 7)
        >>> shapes = jax.eval_shape(lambda: init(model, jax.random.key(0)))
        >>> sum(array.size for array in jax.tree.leaves(shapes))
        58423
    """
    size = usual_image_size(model) if image_size is None else image_size
    if size < MIN_IMAGE_SIZE:
        raise FaceflaxError("image_size", size, "is too small", f"the networks take {MIN_IMAGE_SIZE} pixels or more")
    if size != getattr(model, "image_size", size):
        raise FaceflaxError("image_size", size, f"is not what {type(model).__name__} takes", f"give {model.image_size}")
    inside = isinstance(jnp.zeros(()), jax.core.Tracer)  # what is traced is compiled with all the rest, in its way
    make = _init if inside else _compiled_init
    return {"batch_stats": {}, **make(model, (1, size, size, channels or usual_channels(model)), key)}


def _init(model: nn.Module, shape: tuple[int, ...], key: jax.Array) -> Mapping[str, Any]:
    return model.init(key, jnp.zeros(shape))


# Of the module itself and not of its bound method, which is another function each time and would compile again. It runs
# once, so its code need not be fast: without optimisation it compiles in a seventh of the time.
_compiled_init = jax.jit(
    _init,
    static_argnums=(0, 1),
    compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)


def usual_image_size(model: nn.Module) -> int:
    """Returns the one size of images, in pixels a side, that a network takes, or 64 for one that takes any.

    Example:
        >>> from faceflax import models
        >>> usual_image_size(models.create("mini_xception", 7))
        64
    """
    return getattr(model, "image_size", 64)


def usual_channels(model: nn.Module) -> int:
    """Returns the channels of the images that a network takes: 3 for a detector, 1 for one that labels grey faces.

    Example:
        >>> from faceflax import models
        >>> usual_channels(models.create("mini_xception", 7)), usual_channels(models.create("face_detector", 1))
        (1, 3)
    """
    return getattr(model, "channels", 1)


def layer_names(model: nn.Module, image_size: int | None = None, channels: int | None = None) -> list[str]:
    """Returns the names in a model's ``features``, from input to output.

    Example:
        >>> from faceflax import models
        >>> layer_names(models.create("mini_xception", 7))
        ['stem1', 'stem2', 'block1', 'block2', 'block3', 'block4', 'last_conv']
    """
    names: list[str] = []
    size = usual_image_size(model) if image_size is None else image_size

    def trace(images: jax.Array) -> None:
        (_, features), _ = model.init_with_output(jax.random.key(0), images)
        names.extend(features)  # a traced dict comes back sorted; here it still has the network's order

    jax.eval_shape(trace, jax.ShapeDtypeStruct((1, size, size, channels or usual_channels(model)), jnp.float32))
    return names
