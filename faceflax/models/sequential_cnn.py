"""The sequential fully-convolutional network: ten convolutions, global average pooling, about 640k parameters."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Float

from faceflax.models.architectures import SEQUENTIAL_CNN_STAGES, SEQUENTIAL_CNN_TOP
from faceflax.models.blocks import Activation, BatchNorm, Conv, Images


class SequentialCNN(nn.Module):
    """The study's first network.

    Arriaga, Valdenegro-Toro and Plöger, "Real-time Convolutional Neural Networks for Emotion and Gender
    Classification", 2017 (arXiv:1710.07557).

    642,935 parameters for 7 classes of 1-channel images, 631,410 for 2.

    Attributes:
        num_classes: how many logits.
        activation: the nonlinearity that closes each stage; replace it to change the backward pass (guided backprop).
        dropout_rate: share of activations dropped after each of the first four stages while training.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = SequentialCNN(num_classes=2)
        >>> variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
        >>> logits, features = jax.jit(model.apply)(variables, jnp.zeros((3, 64, 64, 1)))
        >>> logits.shape, features["stage4"].shape
        ((3, 2), (3, 4, 4, 128))
    """

    num_classes: int
    activation: Activation = nn.relu
    dropout_rate: float = 0.5

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> tuple[Float[Array, "batch classes"], dict[str, Images]]:
        """Computes logits and named activations.

        Args:
            images: float32 ``[batch, height, width, channels]`` in [-1, 1], at least 32 pixels a side.
            train: batch statistics and dropout (needs ``rngs={"dropout": key}`` and ``mutable=["batch_stats"]``).

        Returns:
            Logits ``[batch, num_classes]`` and activations: ``stage1`` to ``stage4`` (pooled), ``stage5`` and
            ``last_conv``.
        """
        features: dict[str, Images] = {}

        def conv_norm(name: str, x: Images, width: int, size: int, activation: Activation | None = None) -> Images:
            layer = Conv(width, size, use_bias=True, name=name)
            return BatchNorm(name=f"{name}_bn", use_running_average=not train)(layer, x, activation)

        x = images
        for index, (width, size) in enumerate(SEQUENTIAL_CNN_STAGES, start=1):
            name = f"stage{index}"
            x = conv_norm(f"{name}a", x, width, size)
            x = conv_norm(f"{name}b", x, width, size, self.activation)
            x = nn.avg_pool(x, (2, 2), strides=(2, 2), padding="SAME")
            features[name] = x
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = conv_norm("stage5a", x, SEQUENTIAL_CNN_TOP, 3)
        features["stage5"] = x
        x = nn.Conv(self.num_classes, (3, 3), name="last_conv")(x)
        features["last_conv"] = x
        return x.mean((1, 2)), features
