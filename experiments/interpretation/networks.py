"""Small networks as people write them, in every framework on JAX that :func:`interpret.wrap` takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

IMAGES = jax.random.uniform(jax.random.key(1), (2, 8, 12, 3), minval=-1.0)
"""Two images, neither square nor grey."""

QUICK: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 3},
    "expected_gradients": {"samples": 3},
    "guided_integrated_gradients": {"steps": 3},
    "blur_integrated_gradients": {"steps": 3},
    "occlusion": {"patch": 4},
    "rise": {"masks": 8, "cells": 2},
    "shapley_sampling": {"permutations": 2},
    "kernel_shap": {"samples": 64},
    "lime": {"samples": 40},
    "sobol": {"designs": 4, "cells": 2},
    "hsic": {"masks": 16, "cells": 2},
    "extremal_perturbation": {"steps": 5, "cells": 4},
}
"""The methods with less work than by default."""


class Residual(nn.Module):
    """Two convolutions with BatchNorm and a shortcut."""

    width: int
    strides: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps ``[batch, height, width, channels]`` to ``[batch, height / strides, width / strides, self.width]``."""
        norm = partial(nn.BatchNorm, use_running_average=not train)
        y = nn.relu(norm()(nn.Conv(self.width, (3, 3), self.strides, use_bias=False)(x)))
        y = norm()(nn.Conv(self.width, (3, 3), use_bias=False)(y))
        return nn.relu(y + norm()(nn.Conv(self.width, (1, 1), self.strides, use_bias=False)(x)))


class ResNet(nn.Module):
    """A stem and two residual blocks."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps images to logits ``[batch, 3]``."""
        x = nn.relu(nn.Conv(4, (3, 3), name="stem")(x))
        x = Residual(4, 1, name="block1")(x, train)
        x = Residual(6, 2, name="block2")(x, train)
        return nn.Dense(3)(x.mean((1, 2)))


class NnxResidual(nnx.Module):
    """The same with GroupNorm, in NNX."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.convs = nnx.List([nnx.Conv(width, width, (3, 3), rngs=rngs) for _ in range(2)])
        self.norms = nnx.List([nnx.GroupNorm(width, num_groups=2, rngs=rngs) for _ in range(2)])

    def __call__(self, x: Array) -> Array:
        """Keeps the shape."""
        y = nnx.relu(self.norms[0](self.convs[0](x)))
        return nnx.relu(x + self.norms[1](self.convs[1](y)))


class NnxResNet(nnx.Module):
    """A stem, a block and dropout."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.block2 = NnxResidual(4, rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Maps images to logits ``[batch, 3]``."""
        return self.head(self.dropout(self.block2(self.stem(x)).mean((1, 2))))


class ConvNext(nn.Module):
    """A depthwise convolution, LayerNorm, GELU, a scale of its own, a shortcut."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps images to logits ``[batch, 3]``."""
        x = nn.Conv(4, (2, 2), 2, padding="VALID", name="stem")(x)
        y = nn.LayerNorm()(nn.Conv(4, (5, 5), feature_group_count=4, name="depthwise")(x))
        y = nn.Dense(4)(nn.gelu(nn.Dense(8)(y)))
        x = nn.Sequential([lambda y: y], name="block2")(x + self.param("scale", nn.initializers.ones, (1, 1, 1, 4)) * y)
        return nn.Dense(3)(nn.LayerNorm()(x.mean((1, 2))))


class ViT(nn.Module):
    """Patches of 4x4, a class token, positions, two blocks of attention."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps images to logits ``[batch, 3]``."""
        x = nn.Conv(8, (4, 4), 4, padding="VALID", name="patches")(x).reshape(x.shape[0], -1, 8)
        token = self.param("token", nn.initializers.normal(), (1, 1, 8))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, 8)), x], 1)
        x = x + self.param("positions", nn.initializers.normal(), (1, x.shape[1], 8))
        for i in range(2):
            x = Encoder(name=f"encoder{i}")(x)
        return nn.Dense(3, name="head")(nn.LayerNorm(name="norm")(x)[:, 0])


class Encoder(nn.Module):
    """Attention of two heads, then an MLP with SiLU, both behind LayerNorm."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Keeps the shape ``[batch, tokens, 8]``."""
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(nn.LayerNorm(name="norm1")(x))
        return x + nn.Dense(8)(nn.silu(nn.Dense(16)(nn.LayerNorm(name="norm2")(x))))


class Mixer(nn.Module):
    """One block of an MLP-Mixer."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps images to logits ``[batch, 3]``."""
        x = nn.Conv(6, (4, 4), 4, padding="VALID")(x).reshape(x.shape[0], -1, 6)
        y = nn.Dense(6)(nn.gelu(nn.Dense(5)(nn.LayerNorm()(x).swapaxes(1, 2)))).swapaxes(1, 2)
        x = x + y
        x = nn.Sequential([lambda y: y], name="mixed")(x + nn.Dense(6)(nn.gelu(nn.Dense(9)(nn.LayerNorm()(x)))))
        return nn.Dense(3)(x.mean(1))


class UNet(nn.Module):
    """Two heads: a mask, and a label of its own from the bottom."""

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Any]:
        """Maps images to a mask of their size and to two heads, of three logits and of one."""
        top = nn.leaky_relu(nn.Conv(4, (3, 3), name="down")(x))
        bottom = nn.relu6(nn.Conv(6, (3, 3), name="bottom")(nn.max_pool(top, (2, 2), (2, 2))))
        up = jax.image.resize(bottom, (*top.shape[:3], 6), "nearest")
        mask = nn.Conv(2, (3, 3), name="mask")(jnp.concatenate([up, top], -1))
        return {"mask": mask, "heads": (nn.Dense(3)(bottom.mean((1, 2))), nn.Dense(1)(bottom.mean((1, 2)))[:, 0])}


KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
HEAD = np.random.default_rng(9).normal(size=(4, 3)).astype(np.float32)


def _convolved(x: Array, layout: str) -> Array:
    """HWIO kernels whatever the layout."""
    kernel = jnp.asarray(KERNEL, x.dtype)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=(layout, "HWIO", layout))


def plain(x: Array) -> tuple[Array, dict[str, Array]]:
    """A plain function: a convolution, a ReLU, the mean, a product."""
    hidden = jnp.maximum(_convolved(x, "NHWC"), 0)
    return hidden.mean((1, 2)) @ jnp.asarray(HEAD, x.dtype), {"hidden": hidden}


def channels_first(x: Array) -> tuple[Array, dict[str, Array]]:
    """The same of images ``[batch, channels, height, width]``."""
    hidden = jnp.maximum(_convolved(x, "NCHW"), 0)
    return hidden.mean((2, 3)) @ HEAD, {"hidden": hidden}


@partial(jax.tree_util.register_dataclass, data_fields=["kernel", "head", "activation"], meta_fields=["name"])
@dataclasses.dataclass(frozen=True)
class OneImage:
    """The same as a pytree of arrays and functions that takes one image, channels first."""

    kernel: Array
    head: Array
    activation: Any
    name: str

    def __call__(self, x: Array) -> tuple[Array, dict[str, Array]]:
        """Maps ``[channels, height, width]`` to logits ``[3]``."""
        layout = ("NCHW", "HWIO", "NCHW")
        hidden = jax.lax.conv_general_dilated(x[None], self.kernel, (1, 1), "SAME", dimension_numbers=layout)[0]
        hidden = self.activation(hidden)
        return hidden.mean((1, 2)) @ self.head, {"hidden": hidden.transpose(1, 2, 0).transpose(2, 0, 1)}


class Made(NamedTuple):
    """A network that was made.

    Attributes:
        arguments: of :func:`interpret.wrap`.
        options: of it, by name.
        logits: the network itself, without a wrapper.
        layer: one with rows and columns, not far from the score.
    """

    arguments: tuple[Any, ...]
    options: dict[str, Any]
    logits: Callable[[Array], Array]
    layer: str


def initialised(module: nn.Module, *arguments: Any) -> Any:
    """Random variables, without compiling the initialisers."""
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), IMAGES, *arguments))

    def draw(path: Any, leaf: Any) -> np.ndarray:
        if path[-1].key in ("var", "scale"):
            return generator.uniform(0.5, 2, leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1]) if path[-1].key == "kernel" else 100
        return (generator.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _resnet() -> Made:
    variables = initialised(ResNet(), False)

    def logits(x: Array) -> Any:
        return ResNet().apply(variables, x, False)

    return Made((ResNet(), variables), {"train": False}, logits, "block2")


def _nnx_resnet() -> Made:
    module = NnxResNet(nnx.Rngs(0))
    module.eval()
    return Made((module,), {}, module, "block2")


def _linen(module: nn.Module, layer: str, of: Callable[[Any], Any] = lambda y: y, **options: Any) -> Made:
    variables = initialised(module)

    def logits(x: Array) -> Any:
        return of(module.apply(variables, x))

    return Made((module, variables), options, logits, layer)


def mask_area(outputs: Any) -> Any:
    """Of the U-Net's outputs, the mean of each of the mask's channels: ``[batch, 2]``."""
    return outputs["mask"].mean((1, 2)) if isinstance(outputs, dict) else outputs


def _plain_logits(x: Array) -> Array:
    return plain(x)[0]


def _one_image() -> Made:
    module = OneImage(jnp.asarray(KERNEL), jnp.asarray(HEAD), nn.relu, "small")
    return Made((module,), {"per_image": True, "channels_first": True}, _plain_logits, "hidden")


def _equinox() -> Made:
    """Equinox's layers, with the weights of :func:`plain`."""
    import equinox as eqx

    class Small(eqx.Module):
        convolution: Any
        head: Any

        def __call__(self, x: Array) -> tuple[Array, dict[str, Array]]:
            hidden = jax.nn.relu(self.convolution(x))
            return self.head(hidden.mean((1, 2))), {"hidden": hidden}

    keys = jax.random.split(jax.random.key(0))
    convolution = eqx.nn.Conv2d(3, 4, 3, padding=1, use_bias=False, key=keys[0])
    module = Small(convolution, eqx.nn.Linear(4, 3, use_bias=False, key=keys[1]))
    weights = jnp.asarray(KERNEL.transpose(3, 2, 0, 1)), jnp.asarray(HEAD.T)
    module = eqx.tree_at(lambda tree: (tree.convolution.weight, tree.head.weight), module, weights)
    return Made((module,), {"per_image": True, "channels_first": True}, _plain_logits, "hidden")


def _haiku() -> Made:
    """Haiku's layers, with the weights of :func:`plain`."""
    import haiku as hk

    def forward(x: Array) -> tuple[Array, dict[str, Array]]:
        hidden = jax.nn.relu(hk.Conv2D(4, 3, with_bias=False, name="convolution")(x))
        return hk.Linear(3, with_bias=False, name="head")(hidden.mean((1, 2))), {"hidden": hidden}

    network = hk.without_apply_rng(hk.transform(forward))
    params = {"convolution": {"w": jnp.asarray(KERNEL)}, "head": {"w": jnp.asarray(HEAD)}}
    return Made((network.apply, params), {}, _plain_logits, "hidden")


def _keras() -> Made:
    """Keras's layers on JAX, with the weights of :func:`plain`; needs ``KERAS_BACKEND=jax``."""
    import keras

    if keras.backend.backend() != "jax":
        raise ImportError("Keras runs on another backend: set KERAS_BACKEND=jax", name="keras")
    images = keras.Input((8, 12, 3))
    hidden = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, activation="relu")(images)
    logits = keras.layers.Dense(3, use_bias=False)(keras.layers.GlobalAveragePooling2D()(hidden))
    model = keras.Model(images, [logits, hidden])
    model.set_weights([KERNEL, HEAD])
    variables = [variable.value for variable in model.trainable_variables]
    fixed = [variable.value for variable in model.non_trainable_variables]

    def function(variables: Any, x: Array) -> tuple[Array, dict[str, Array]]:
        (logits, hidden), _ = model.stateless_call(variables, fixed, x, training=False)
        return logits, {"hidden": hidden}

    return Made((function, variables), {}, _plain_logits, "hidden")


NETWORKS: Mapping[str, Callable[[], Made]] = {
    name: cache(make)  # made once, not for each method
    for name, make in {
        "ResNet, Linen": _resnet,
        "ResNet, NNX": _nnx_resnet,
        "ConvNeXt": lambda: _linen(ConvNext(), "block2"),
        "ViT": lambda: _linen(ViT(), "encoder0", grids={"encoder0": (2, 3)}),
        "MLP-Mixer": lambda: _linen(Mixer(), "mixed", grids={"mixed": (2, 3)}),
        "U-Net, label": lambda: _linen(UNet(), "bottom", lambda y: y["heads"][0], output=("heads", 0)),
        "U-Net, one logit": lambda: _linen(UNet(), "bottom", lambda y: y["heads"][1][:, None], output=("heads", 1)),
        "U-Net, mask": lambda: _linen(UNet(), "bottom", mask_area, output=mask_area),
        "function": lambda: Made((plain,), {}, _plain_logits, "hidden"),
        "function, channels first": lambda: Made((channels_first,), {"channels_first": True}, _plain_logits, "hidden"),
        "pytree of one image": _one_image,
        "Equinox": _equinox,
        "Haiku": _haiku,
        "Keras 3": _keras,
    }.items()
}
"""Each network's name, and what makes it; those of other frameworks raise ImportError where they are not installed."""
