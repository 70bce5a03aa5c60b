"""A network as StableHLO, from XLA's own operators alone: it runs wherever JAX, or another StableHLO runtime, does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
from jaxtyping import Array

from faceflax import pretrained
from faceflax.errors import FaceflaxError
from faceflax.inference import detector_in_jax, folding, program
from faceflax.inference.detector_folding import fold_detector
from faceflax.models.architectures import DETECTOR_CHANNELS
from faceflax.models.blocks import PORTABLE
from faceflax.preprocessing import normalize as scaled

PLATFORMS: tuple[str, ...] = ("cpu", "cuda", "tpu")
"""What an exported network is compiled for; none of them has to be at hand."""


def exported(
    weights: str | Path, *, normalize: bool = False, platforms: Sequence[str] = PLATFORMS, batch: int | None = None
) -> jax.export.Exported:
    """Exports a network's weights for other processes.

    The function takes images ``[batch, size, size, 1]``, of any batch and of the record's size, and returns logits
    ``[batch, classes]``; that of a face detector takes ``[batch, size, size, 3]``, blue first, and returns
    ``[batch, places, 15]``.

    Args:
        weights: one of ``faceflax.list_weights()``, or the path of a ``.safetensors`` file with its record.
        normalize: the images are uint8, 0 to 255; otherwise they are float32 in [-1, 1].
        platforms: of :data:`PLATFORMS`.
        batch: how many images it takes at a time; any number if not given.

    Raises:
        FaceflaxError: as :func:`faceflax.load` does, or weights of a network that has no folded form.

    Example:
        >>> import jax, numpy as np
        >>> content = exported("mini_xception-fer2013").serialize()
        >>> jax.export.deserialize(content).call(np.zeros((3, 48, 48, 1), np.float32)).shape
        (3, 7)
    """
    info = pretrained.weights_info(weights)
    channels, evaluate = _network(weights, info.arch)

    def logits(images: Array) -> Array:
        return evaluate(scaled(images) if normalize else images)

    (size,) = jax.export.symbolic_shape("batch") if batch is None else (batch,)
    kind = jnp.uint8 if normalize else jnp.float32
    images = jax.ShapeDtypeStruct((size, info.image_size, info.image_size, channels), kind)
    return jax.export.export(jax.jit(logits), platforms=list(platforms))(images)


def lowered(weights: str | Path, platform: str, *, normalize: bool = False) -> str:
    """Returns the network as StableHLO text for one of :data:`PLATFORMS`; see :func:`exported`."""
    return str(exported(weights, normalize=normalize, platforms=[platform]).mlir_module())


def _network(weights: str | Path, arch: str) -> tuple[int, Callable[[Array], Array]]:
    """How many channels its images have, and the network as a function of them."""
    if arch == "face_detector":
        places = fold_detector(pretrained.read(weights)[1])
        return DETECTOR_CHANNELS, lambda images: detector_in_jax.evaluate(places, images, PORTABLE)
    layers = folding.load(weights)[1]
    if layers is None:
        remedy = "choose weights of another network"
        raise FaceflaxError("weights", Path(weights), f"{{}} are of {arch}, which has no folded form", remedy)
    return 1, lambda images: program.evaluate(layers, images, PORTABLE)
