"""mini-Xception: residual depthwise-separable modules, global average pooling, about 60k parameters; two poolings."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from faceflax.models.architectures import MINI_XCEPTION_BLOCKS, MINI_XCEPTION_STEM
from faceflax.models.blocks import Activation, BatchNorm, Conv, Images, SeparableConv, blurred, max_pool, maxima


class ResidualModule(nn.Module):
    """Two separable convolutions and a max-pool beside a strided 1x1 shortcut; no activation after their sum."""

    features: int
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Images:
        """Maps ``[batch, h, w, c]`` to ``[batch, ceil(h / 2), ceil(w / 2), features]``."""
        norm = partial(BatchNorm, use_running_average=not train)
        shortcut = norm(name="shortcut_bn")(Conv(self.features, 1, stride=2, name="shortcut"), x)
        x = norm(name="bn1")(SeparableConv(self.features, name="conv1"), x, self.activation)
        x = norm(name="bn2")(SeparableConv(self.features, name="conv2"), x)
        return shortcut + max_pool(x)


class MiniXception(nn.Module):
    """The study's small network.

    Arriaga, Valdenegro-Toro and Plöger, "Real-time Convolutional Neural Networks for Emotion and Gender
    Classification", 2017 (arXiv:1710.07557).

    58,423 parameters for 7 classes, 56,951 of them trainable; 52,658 for 2.

    Attributes:
        num_classes: how many logits.
        activation: the nonlinearity after a BatchNorm; replace it to change the backward pass (guided backprop).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = MiniXception(num_classes=7)
        >>> variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
        >>> logits, features = jax.jit(model.apply)(variables, jnp.zeros((2, 64, 64, 1)))
        >>> logits.shape, features["last_conv"].shape
        ((2, 7), (2, 4, 4, 7))
    """

    num_classes: int
    activation: Activation = nn.relu
    module: ClassVar[type[nn.Module]] = ResidualModule
    """What the four blocks are made of; a subclass may choose another."""

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> tuple[Float[Array, "batch classes"], dict[str, Images]]:
        """Computes logits and named activations.

        Args:
            images: float32 ``[batch, height, width, channels]`` in [-1, 1], at least 32 pixels a side.
            train: normalise by the batch's statistics and update the running ones (``mutable=["batch_stats"]``).

        Returns:
            Logits ``[batch, num_classes]`` and activations: ``stem1``, ``stem2``, ``block1`` to ``block4`` and
            ``last_conv``.
        """
        features: dict[str, Images] = {}
        x = images
        for name in ("stem1", "stem2"):
            layer = Conv(MINI_XCEPTION_STEM, 3, padding="VALID", name=name)
            x = BatchNorm(name=f"{name}_bn", use_running_average=not train)(layer, x, self.activation)
            features[name] = x
        for index, width in enumerate(MINI_XCEPTION_BLOCKS, start=1):
            x = self.module(width, activation=self.activation, name=f"block{index}")(x, train)
            features[f"block{index}"] = x
        x = nn.Conv(self.num_classes, (3, 3), name="last_conv")(x)
        features["last_conv"] = x
        return x.mean((1, 2)), features


class AntialiasedModule(nn.Module):
    """:class:`ResidualModule` with both its branches :func:`~faceflax.models.blocks.blurred` where they are halved.

    Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019.
    """

    features: int
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Images:
        """Maps ``[batch, h, w, c]`` to ``[batch, ceil(h / 2), ceil(w / 2), features]``."""
        norm = partial(BatchNorm, use_running_average=not train)
        shortcut = norm(name="shortcut_bn")(Conv(self.features, 1, name="shortcut"), blurred(x))
        x = norm(name="bn1")(SeparableConv(self.features, name="conv1"), x, self.activation)
        x = norm(name="bn2")(SeparableConv(self.features, name="conv2"), x)
        return shortcut + blurred(maxima(x))


class MiniXceptionAntialiased(MiniXception):
    """:class:`~faceflax.models.mini_xception.MiniXception` of :class:`AntialiasedModule` blocks.

    58,423 parameters for 7 classes, as in the plain network.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = MiniXceptionAntialiased(num_classes=7)
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
        >>> sum(array.size for array in jax.tree.leaves(variables))
        58423
    """

    module = AntialiasedModule
