"""Distilling others into a network while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from faceflax import pretrained
from faceflax.errors import FaceflaxError
from faceflax.training.config import Precision
from faceflax.training.step import activations, products

Teacher = Callable[[Float[Array, "batch size size channels"]], Float[Array, "batch classes"]]


def teacher(weights: Sequence[str], names: Sequence[str], precision: Precision = "float32") -> Teacher:
    """Builds ``teach(images) -> probabilities``, the mean of calibrated networks' predictions.

    Unlike soft labels made beforehand, they are predictions for the very images that the student is trained on, moved,
    mixed and erased as they are: Beyer, Zhai, Royer, Markeeva, Anil and Kolesnikov, "Knowledge distillation: A good
    teacher is patient and consistent", CVPR 2022.

    Args:
        weights: shipped names or ``.safetensors`` files. A network sees the images resized to its own size.
        names: of the student's classes.
        precision: of the forward passes.

    Returns:
        A function of float32 images in [-1, 1] that can be traced; its rows sum to 1.

    Raises:
        FaceflaxError: weights that cannot be loaded, or that have other classes or channels.

    Example:
        >>> from faceflax.labels import EMOTIONS
        >>> teach = teacher(["mini_xception-fer2013", "sequential_cnn-fer2013"], EMOTIONS)
        >>> print(teach(jnp.zeros((2, 48, 48, 1))).sum(1).round(3))
        [1. 1.]
    """
    networks = []
    for name in weights:
        try:
            loaded = pretrained.load(name)
        except FaceflaxError as error:
            raise error.renamed("teachers") from None
        info = loaded.info
        if info.labels != tuple(names):
            raise FaceflaxError(
                "teachers",
                name,
                f"has the classes {', '.join(info.labels)}, not {', '.join(names)}",
                "name weights with the dataset's classes",
            )
        networks.append((loaded.model, loaded.variables, info))
    dtype = activations(precision)

    def teach(images: Float[Array, "batch size size channels"]) -> Float[Array, "batch classes"]:
        predictions = []
        for model, variables, info in networks:
            shape = (len(images), info.image_size, info.image_size, images.shape[3])
            seen = jax.image.resize(images, shape, "linear")
            arrays = {**variables, "params": jax.tree.map(lambda p: p.astype(dtype), variables["params"])}
            with products(precision):
                logits, _ = model.apply(arrays, seen.astype(dtype))
            predictions.append(jax.nn.softmax(logits.astype(jnp.float32) / info.temperature))
        return sum(predictions[1:], predictions[0]) / len(predictions)

    return teach
