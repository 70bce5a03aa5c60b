"""Runs the layers that :mod:`~faceflax.inference.folding` makes of a network.

The list is what both engines run: :func:`evaluate` in plain JAX, and the C++ kernels as a :func:`network`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float

from faceflax import native
from faceflax.errors import FaceflaxError
from faceflax.inference import folding
from faceflax.inference.folding import Program
from faceflax.models.blocks import FASTEST, Operators, blurred, maxima
from faceflax.models.mini_xception import MiniXception, MiniXceptionAntialiased
from faceflax.models.sequential_cnn import SequentialCNN
from faceflax.models.vgg import VGG

ARCHITECTURES: dict[type[nn.Module], str] = {
    MiniXception: "mini_xception",
    MiniXceptionAntialiased: "mini_xception_antialiased",
    SequentialCNN: "sequential_cnn",
    VGG: "vgg",
}
"""What can be written as layers."""


def fold(model: nn.Module, variables: Mapping[str, Any]) -> Program | None:
    """Writes a network as layers, or returns None for one that is not of :data:`ARCHITECTURES` with their own ReLU.

    Raises:
        FaceflaxError: ``variables`` are not the network's.
    """
    arch = ARCHITECTURES.get(type(model))
    if arch is None or model.activation is not nn.relu:
        return None
    tensors = flatten_dict({name: variables.get(name, {}) for name in ("params", "batch_stats")}, sep="/")
    try:
        return folding.fold(arch, tensors, num_classes=model.num_classes)
    except FaceflaxError as error:
        raise error.renamed("variables") from None


def digest(program: Program) -> str:
    """A hash of all layers and weights."""
    total = hashlib.sha256()
    for layer in program:
        total.update(repr((layer.kind, layer.relu, layer.padding, [w.shape for w in layer.weights])).encode())
        for weights in layer.weights:
            total.update(np.ascontiguousarray(weights).tobytes())
    return total.hexdigest()


def evaluate(
    program: Program, images: Float[Array, "batch height width channels"], operators: Operators = FASTEST
) -> Float[Array, "batch classes"]:
    """Computes logits in plain JAX, of whatever type ``images`` has."""
    x, shortcut = images, jnp.zeros(())
    for layer in program:
        weights = [jnp.asarray(w, x.dtype) for w in layer.weights]
        bias = weights[-1][None, None, None] if weights else jnp.zeros(())
        match layer.kind:
            case "convolution":
                x = operators.conv(x, weights[0], 1, layer.padding) + bias
            case "separable":
                x = operators.depthwise_conv(x, weights[0]) @ weights[1] + bias
            case "shortcut":
                shortcut = x[:, ::2, ::2] @ weights[0] + bias
            case "blurred_shortcut":
                shortcut = blurred(x) @ weights[0] + bias
            case "blurred_max_pool":
                x = blurred(maxima(x)) + shortcut
            case "max_pool":
                x = operators.max_pool(x) + shortcut
            case "average_pool":
                x = nn.avg_pool(x, (2, 2), strides=(2, 2), padding="SAME")
            case "head":  # the mean over pixels first, being cheaper and as linear as the convolution
                height, width = x.shape[1:3]
                size = len(weights[0])
                framed = jnp.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
                taps = [framed[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
                kernel = weights[0].reshape(-1, weights[0].shape[-1])
                x = jnp.concatenate([tap.mean((1, 2)) for tap in taps], -1) @ kernel + weights[-1][None]
        if layer.relu:
            x = nn.relu(x)
    return x


def network(program: Program) -> native.Network | None:
    """The program in the C++ kernels, where they can be used and JAX would compute on the CPU; else None."""
    return native.Network(program) if native.available() and jax.default_backend() == "cpu" else None
