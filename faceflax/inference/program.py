"""A trained network as a short list of layers: BatchNorm folded into the weights before it, nothing left but inference.

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
from jaxtyping import Array, Float

from faceflax import native
from faceflax.models.blocks import EPSILON, conv, depthwise_conv, max_pool
from faceflax.models.mini_xception import MiniXception
from faceflax.models.sequential_cnn import STAGES, SequentialCNN
from faceflax.native import Layer

Program = tuple[Layer, ...]


def fold(model: nn.Module, variables: Mapping[str, Any]) -> Program | None:
    """Writes a network as layers, or returns None for one that is not of the two architectures with their own ReLU."""
    makers = {MiniXception: _mini_xception, SequentialCNN: _sequential_cnn}
    if type(model) not in makers or getattr(model, "activation", None) is not nn.relu:
        return None
    arrays = jax.tree.map(lambda a: np.asarray(a, np.float64), dict(variables))
    layers = makers[type(model)](arrays["params"], arrays["batch_stats"])
    return tuple(
        Layer(layer.kind, tuple(w.astype(np.float32) for w in layer.weights), layer.relu, layer.padding)
        for layer in layers
    )


def digest(program: Program) -> str:
    """A hash of all layers and weights."""
    total = hashlib.sha256()
    for layer in program:
        total.update(repr((layer.kind, layer.relu, layer.padding, [w.shape for w in layer.weights])).encode())
        for weights in layer.weights:
            total.update(np.ascontiguousarray(weights).tobytes())
    return total.hexdigest()


def _affine(params: Mapping[str, Any], stats: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """BatchNorm with running statistics as factor and offset."""
    factor = params[name]["scale"] / np.sqrt(stats[name]["var"] + EPSILON)
    return factor, params[name]["bias"] - stats[name]["mean"] * factor


def _mini_xception(params: Mapping[str, Any], stats: Mapping[str, Any]) -> list[Layer]:
    layers = []
    for name in ("stem1", "stem2"):
        factor, offset = _affine(params, stats, f"{name}_bn")
        layers.append(Layer("convolution", (params[name]["kernel"] * factor, offset), relu=True, padding="VALID"))
    for block in ("block1", "block2", "block3", "block4"):
        p, s = params[block], stats[block]
        factor, offset = _affine(p, s, "shortcut_bn")
        layers.append(Layer("shortcut", (p["shortcut"]["kernel"][0, 0] * factor, offset)))
        for half, relu in (("1", True), ("2", False)):
            factor, offset = _affine(p, s, f"bn{half}")
            separable = p[f"conv{half}"]
            layers.append(
                Layer("separable", (separable["depthwise"], separable["pointwise"] * factor, offset), relu=relu)
            )
        layers.append(Layer("max_pool"))
    return [*layers, Layer("head", (params["last_conv"]["kernel"], params["last_conv"]["bias"]))]


def _sequential_cnn(params: Mapping[str, Any], stats: Mapping[str, Any]) -> list[Layer]:
    def convolution(name: str, relu: bool) -> Layer:
        factor, offset = _affine(params, stats, f"{name}_bn")
        return Layer("convolution", (params[name]["kernel"] * factor, params[name]["bias"] * factor + offset), relu)

    layers = []
    for stage in range(1, len(STAGES) + 1):
        layers += [convolution(f"stage{stage}a", False), convolution(f"stage{stage}b", True), Layer("average_pool")]
    head = Layer("head", (params["last_conv"]["kernel"], params["last_conv"]["bias"]))
    return [*layers, convolution("stage5a", False), head]


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


def network(program: Program) -> native.Network | None:
    """The program in the C++ kernels, where they can be used and JAX would compute on the CPU; else None."""
    return native.Network(program) if native.available() and jax.default_backend() == "cpu" else None
