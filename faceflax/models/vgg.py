"""A larger plain network, from which the two small ones can be distilled (``TrainConfig.teachers``)."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Float

from faceflax.models.architectures import VGG_STAGES
from faceflax.models.blocks import Activation, BatchNorm, Conv, Images, max_pool


class VGG(nn.Module):
    """Ten 3x3 convolutions, each with BatchNorm and a nonlinearity, in four stages; then the mean of all pixels.

    After Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, with
    an eighth of the smallest one's features and without its wide dense layers. It is a teacher: about thirty times
    mini-Xception's parameters, and too slow for the live loop.

    1,915,175 parameters for 7 classes of 1-channel images.

    Attributes:
        num_classes: how many logits.
        activation: every nonlinearity; replace it to change the backward pass (guided backprop).
        dropout_rate: share of whole channels dropped after each stage while training.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = VGG(num_classes=7)
        >>> shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 48, 48, 1)))
        >>> logits, features = jax.eval_shape(model.apply, shapes, jnp.zeros((2, 48, 48, 1)))
        >>> logits.shape, features["last_conv"].shape
        ((2, 7), (2, 6, 6, 256))
    """

    num_classes: int
    activation: Activation = nn.relu
    dropout_rate: float = 0.2

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> tuple[Float[Array, "batch classes"], dict[str, Images]]:
        """Computes logits and named activations.

        Args:
            images: float32 ``[batch, height, width, channels]`` in [-1, 1], at least 32 pixels a side.
            train: batch statistics and dropout (needs ``rngs={"dropout": key}`` and ``mutable=["batch_stats"]``).

        Returns:
            Logits ``[batch, num_classes]`` and activations: ``stage1`` to ``stage3`` (pooled) and ``last_conv``.
        """
        features: dict[str, Images] = {}
        x = images
        for stage, (width, depth) in enumerate(VGG_STAGES, start=1):
            for layer in range(1, depth + 1):
                name = f"conv{stage}_{layer}"
                norm = BatchNorm(name=f"{name}_bn", use_running_average=not train)
                x = norm(Conv(width, 3, name=name), x, self.activation)
            if stage < len(VGG_STAGES):
                x = max_pool(x)
            features[f"stage{stage}" if stage < len(VGG_STAGES) else "last_conv"] = x
            x = nn.Dropout(self.dropout_rate, broadcast_dims=(1, 2), deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="classifier")(x.mean((1, 2))), features
