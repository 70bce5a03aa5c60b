"""Networks made of random layers, and what they compute in plain XLA operators."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from faceflax.native import Layer
from interpret.rules import guided_relu

LAYOUT = ("NHWC", "HWIO", "NHWC")


def weights(rng, *shape):
    scale = 1 / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 0.3
    return rng.normal(0, scale, shape).astype(np.float32)


def convolution(rng, size, inputs, outputs, relu=True, padding="SAME"):
    return Layer("convolution", (weights(rng, size, size, inputs, outputs), weights(rng, outputs)), relu, padding)


def separable(rng, inputs, outputs, relu=True):
    kernels = weights(rng, 3, 3, 1, inputs), weights(rng, inputs, outputs), weights(rng, outputs)
    return Layer("separable", kernels, relu)


def shortcut(rng, inputs, outputs, kind="shortcut"):
    return Layer(kind, (weights(rng, inputs, outputs), weights(rng, outputs)))


def head(rng, inputs, classes, size=3):
    return Layer("head", (weights(rng, size, size, inputs, classes), weights(rng, classes)))


def smoothed(x):
    """Every second pixel of an image smoothed by a kernel of 3x3, its edge repeated outwards."""
    count = x.shape[-1]
    kernel = jnp.tile(jnp.outer(jnp.array([1, 2, 1]), jnp.array([1, 2, 1]))[..., None, None] / 16, (1, 1, 1, count))
    framed = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return lax.conv_general_dilated(
        framed, kernel.astype(x.dtype), (2, 2), "VALID", dimension_numbers=LAYOUT, feature_group_count=count
    )


def reference(layers, images, relu=jax.nn.relu):
    """Logits, by the definition of each layer and XLA's own operators."""
    x, add = images, None
    for layer in layers:
        w = [jnp.asarray(each, x.dtype) for each in layer.weights]
        match layer.kind:
            case "convolution" | "head":
                x = lax.conv_general_dilated(x, w[0], (1, 1), layer.padding, dimension_numbers=LAYOUT)
            case "separable":
                count = x.shape[-1]
                x = lax.conv_general_dilated(
                    x, w[0], (1, 1), "SAME", dimension_numbers=LAYOUT, feature_group_count=count
                )
                x = jnp.einsum("bhwi,io->bhwo", x, w[1])
            case "shortcut":
                add = jnp.einsum("bhwi,io->bhwo", x[:, ::2, ::2], w[0]) + w[1][None, None, None]
                continue
            case "max_pool":
                x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
                x, add = x if add is None else x + add, None
            case "blurred_shortcut":
                add = jnp.einsum("bhwi,io->bhwo", smoothed(x), w[0]) + w[1][None, None, None]
                continue
            case "blurred_max_pool":
                x = smoothed(lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"))
                x, add = x if add is None else x + add, None
            case "average_pool":
                odd = ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0))
                x = jnp.pad(x, odd).reshape(x.shape[0], -(-x.shape[1] // 2), 2, -(-x.shape[2] // 2), 2, -1).mean((2, 4))
        if w:
            x = x + w[-1][None, None, None]
        x = relu(x) if layer.relu else x
    return x.mean((1, 2))


def guided_reference(layers, images, targets):
    """Logits and guided backpropagation, by JAX's own differentiation."""

    def score(x):
        logits = reference(layers, x, guided_relu)
        chosen = jnp.where(targets < 0, logits.argmax(-1), targets)
        return logits[jnp.arange(len(targets)), chosen].sum(), logits

    maps, logits = jax.grad(score, has_aux=True)(images)
    return logits, maps
