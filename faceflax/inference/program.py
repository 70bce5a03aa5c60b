"""Runs the layers that :mod:`~faceflax.inference.folding` makes of a network.

The list is what both engines run: :func:`evaluate` in plain JAX, and the C++ kernels through :func:`encode`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Int

from faceflax import native
from faceflax.errors import FaceflaxError
from faceflax.inference import folding
from faceflax.inference.folding import Program
from faceflax.models.blocks import conv, depthwise_conv, max_pool
from faceflax.models.mini_xception import MiniXception
from faceflax.models.sequential_cnn import SequentialCNN

_CODES = {"convolution": 0, "separable": 1, "shortcut": 2, "max_pool": 3, "average_pool": 4, "head": 5}  # as kernels.cc


def fold(model: nn.Module, variables: Mapping[str, Any]) -> Program | None:
    """Writes a network as layers, or returns None for one that is not of the two architectures with their own ReLU.

    Raises:
        FaceflaxError: ``variables`` are not the network's.
    """
    arch = {MiniXception: "mini_xception", SequentialCNN: "sequential_cnn"}.get(type(model))
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


def evaluate(program: Program, images: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
    """Computes logits in plain JAX, of whatever type ``images`` has."""
    x, shortcut = images, jnp.zeros(())
    for layer in program:
        weights = [jnp.asarray(w, x.dtype) for w in layer.weights]
        bias = weights[-1][None, None, None] if weights else jnp.zeros(())
        match layer.kind:
            case "convolution":
                x = conv(x, weights[0], 1, layer.padding) + bias
            case "separable":
                x = depthwise_conv(x, weights[0]) @ weights[1] + bias
            case "shortcut":
                shortcut = x[:, ::2, ::2] @ weights[0] + bias
            case "max_pool":
                x = max_pool(x) + shortcut
            case "average_pool":
                x = nn.avg_pool(x, (2, 2), strides=(2, 2), padding="SAME")
            case "head":  # the mean over pixels first, being cheaper and as linear as the convolution
                height, width = x.shape[1:3]
                framed = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
                means = [framed[:, i : i + height, j : j + width].mean((1, 2)) for i in range(3) for j in range(3)]
                kernel = weights[0].reshape(-1, weights[0].shape[-1])
                x = jnp.concatenate(means, -1) @ kernel + weights[-1][None]
        if layer.relu:
            x = nn.relu(x)
    return x


def encode(program: Program, size: tuple[int, int]) -> tuple[list[int], list[np.ndarray]]:
    """Writes a program as the C++ kernels read it: each layer's code and numbers, and the weights in packed order.

    Args:
        program: the layers.
        size: height and width of the images.
    """
    numbers, arrays = [], []
    width = size[1]
    for layer in program:
        numbers.append(_CODES[layer.kind])
        weights = list(layer.weights)
        match layer.kind:
            case "convolution":
                kernel, bias = weights
                side = kernel.shape[0]
                low = 0 if layer.padding == "VALID" else side // 2
                width += 2 * low - side + 1
                pixels = native.pixels_folded(kernel.shape[-1], width)
                kernel = native.fold(kernel, pixels)
                weights = [native.panels(kernel), np.tile(bias, pixels)]
                numbers += [side, kernel.shape[1], pixels, low, kernel.shape[-1], int(layer.relu)]
            case "separable":
                weights[1] = native.panels(weights[1])
                numbers += [weights[2].size, int(layer.relu)]
            case "shortcut":
                weights[0] = native.panels(weights[0])
                numbers.append(weights[1].size)
            case "max_pool" | "average_pool":
                width = -(-width // 2)
            case "head":
                weights[0] = weights[0].reshape(-1, weights[0].shape[-1]).T
        arrays += [np.ascontiguousarray(w) for w in weights]
    return numbers, arrays


def logits(
    programs: Sequence[Program], images: Sequence[Float[Array, "batch height width channels"]]
) -> list[Float[Array, "batch classes"]]:
    """Evaluates several networks, each on its own images, in the fastest way the platform has."""

    def plain(*images: Array) -> list[Array]:
        return [evaluate(program, x) for program, x in zip(programs, images, strict=True)]

    def kernels(*images: Array) -> list[Array]:
        encoded = [encode(program, (x.shape[1], x.shape[2])) for program, x in zip(programs, images, strict=True)]
        return list(native.networks(encoded, images))

    cpu = kernels if native.available() else plain
    return jax.lax.platform_dependent(*images, cpu=cpu, default=plain)


def explains(program: Program) -> bool:
    """Whether the C++ kernels can run a program backwards: where they are there and take images of its channels."""
    channels = program[0].weights[0].shape[2]
    return native.available() and (channels in (1, 8, 16) or channels % 32 == 0)


def guided(
    program: Program, images: Float[Array, "batch height width channels"], targets: Int[Array, " batch"]
) -> tuple[Float[Array, "batch classes"], Float[Array, "batch height width channels"]]:
    """Logits, and guided backpropagation of a class of each image, in the C++ kernels; ask :func:`explains` first.

    Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR workshop 2015.

    Args:
        program: the layers.
        images: float32, on a CPU.
        targets: int32; -1 is the class with the highest logit.
    """
    size = images.shape[1], images.shape[2]
    return native.guided(encode(program, size), _backward(program, size), images, targets)


def _backward(program: Program, size: tuple[int, int]) -> list[np.ndarray]:
    """The weights of the way back, layer by layer, as the C++ kernels read them."""
    arrays = []
    width = size[1]
    for layer in program:
        match layer.kind:
            case "convolution":
                kernel = layer.weights[0]
                turned = kernel[::-1, ::-1].swapaxes(2, 3)
                inputs = kernel.shape[2]
                # Eight pixels of a grey image make a vector, whatever its width: the kernel drops what is too much.
                pixels = 8 if inputs == 1 else native.pixels_folded(inputs, width)
                arrays.append(native.panels(native.fold(turned, pixels)))
                width -= 0 if layer.padding == "SAME" else kernel.shape[1] - 1
            case "separable":
                arrays += [layer.weights[0][::-1, ::-1], native.panels(layer.weights[1].T)]
            case "shortcut":
                arrays.append(native.panels(layer.weights[0].T))
            case "max_pool" | "average_pool":
                width = -(-width // 2)
    return [np.ascontiguousarray(a) for a in arrays]
