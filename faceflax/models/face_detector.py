"""A single-shot face detector of separable convolutions: boxes, scores and five landmarks at three strides."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from faceflax.models.architectures import (
    DETECTOR_CHANNELS,
    DETECTOR_OUTPUTS,
    DETECTOR_PATCH,
    DETECTOR_UNITS,
    DETECTOR_WIDTHS,
)
from faceflax.models.blocks import Activation, BatchNorm, Conv, Images, SeparableConv, max_pool


class SeparableUnit(nn.Module):
    """Two separable convolutions beside the identity, and a nonlinearity after their sum."""

    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Images:
        """Maps ``[batch, h, w, c]`` to the same shape."""
        norm = partial(BatchNorm, use_running_average=not train)
        y = norm(name="bn1")(SeparableConv(x.shape[-1], name="conv1"), x, self.activation)
        return self.activation(x + norm(name="bn2")(SeparableConv(x.shape[-1], name="conv2"), y))


class FaceDetector(nn.Module):
    """Finds faces at strides of 8, 16 and 32 pixels, without anchors.

    The image is cut into patches of 4x4 pixels, and residual units of separable convolutions work at strides 4, 8, 16
    and 32; the two coarser maps are added to the finer ones on the way back. What it learns from: Bazarevsky et al.,
    "BlazeFace", 2019 (arXiv:1907.05047); Guo et al., "Sample and Computation Redistribution for Efficient Face
    Detection" (SCRFD), ICLR 2022; Wu, Peng and Yu, "YuNet", Machine Intelligence Research, 2023.

    Attributes:
        num_classes: kinds of things found, 1: faces.
        activation: every nonlinearity; replace it to change the backward pass (guided backprop).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = FaceDetector()
        >>> shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
        >>> outputs, features = jax.eval_shape(model.apply, shapes, jnp.zeros((2, 64, 96, 3)))
        >>> outputs.shape, features["stride8"].shape
        ((2, 126, 15), (2, 8, 12, 64))
    """

    channels: ClassVar[int] = DETECTOR_CHANNELS
    num_classes: int = 1
    activation: Activation = nn.relu

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False
    ) -> tuple[Float[Array, "batch places 15"], dict[str, Images]]:
        """Computes what each place says, and named activations.

        Args:
            images: float32 ``[batch, height, width, 3]`` in [-1, 1], blue, green and red; both sides a multiple of 32.
            train: normalise by the batch's statistics and update the running ones (``mutable=["batch_stats"]``).

        Returns:
            For each place of the three maps, row by row, the finest map first: the score's logit, the box (2 numbers
            of its centre, 2 of its size) and five landmarks; :func:`faceflax.faces.decode` makes pixels of them. And
            the activations ``stride4`` to ``stride32``, then ``top16`` and ``top8``.
        """
        features: dict[str, Images] = {}
        norm = partial(BatchNorm, use_running_average=not train)

        def convolution(layer: Conv | SeparableConv, x: Images, relu: bool = True) -> Images:
            return norm(name=f"{layer.name}_bn")(layer, x, self.activation if relu else None)

        x = convolution(Conv(DETECTOR_WIDTHS[0], 1, name="stem"), patches(images))
        for stage, (width, units) in enumerate(zip(DETECTOR_WIDTHS, DETECTOR_UNITS, strict=True)):
            stride = DETECTOR_PATCH << stage
            if stage > 0:
                x = convolution(SeparableConv(width, name=f"down{stride}"), max_pool(x))
            for unit in range(units):
                x = SeparableUnit(self.activation, name=f"unit{stride}_{unit + 1}")(x, train)
            features[f"stride{stride}"] = x

        top16 = features["stride16"] + doubled(features["stride32"])
        features["top16"] = top16 = convolution(SeparableConv(DETECTOR_WIDTHS[2], name="merge16"), top16)
        lateral = convolution(Conv(DETECTOR_WIDTHS[1], 1, name="lateral8"), top16, relu=False)
        top8 = features["stride8"] + doubled(lateral)
        features["top8"] = top8 = convolution(SeparableConv(DETECTOR_WIDTHS[1], name="merge8"), top8)

        heads = {8: top8, 16: top16, 32: features["stride32"]}
        outputs = []
        for stride, y in heads.items():
            y = convolution(SeparableConv(y.shape[-1], name=f"head{stride}"), y)
            y = nn.Dense(DETECTOR_OUTPUTS, bias_init=_rare, name=f"output{stride}")(y)
            outputs.append(y.reshape(y.shape[0], -1, DETECTOR_OUTPUTS))
        return jnp.concatenate(outputs, 1), features


def patches(images: Images) -> Images:
    """Cuts images into patches of 4x4 pixels: ``[batch, height / 4, width / 4, 16 * channels]``."""
    batch, height, width, channels = images.shape
    n = DETECTOR_PATCH
    x = images.reshape(batch, height // n, n, width // n, n, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // n, width // n, n * n * channels)


def doubled(x: Images) -> Images:
    """Repeats each pixel twice in both directions."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def _rare(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """A bias that gives the score 0.01 before training, as faces are rare (RetinaNet's initialisation)."""
    return jnp.zeros(shape, dtype).at[0].set(-4.6)
