"""Tang's network, the winner of the FER-2013 contest: three convolutions, one wide dense layer, a linear SVM."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from faceflax.errors import FaceflaxError
from faceflax.models.blocks import Activation, Images, max_pool

CROP = 42
"""Pixels a side of the middle of an image, which is all that the network sees."""


class TangCNN(nn.Module):
    """The network that the study compares its speed with.

    Tang, "Deep Learning using Linear Support Vector Machines", 2013 (arXiv:1306.0239).

    5,008,295 parameters for 7 classes of 1-channel images, nearly all of them in the dense layer. Only its
    layers' sizes are published; that the pooling takes the maximum of 3x3 pixels with stride 2, that ReLUs follow the
    convolutions and the dense layer, and the padding (2, 1 and 2 pixels, so that 42 pixels become 21, 10 and 5) are our
    reading. The logits are an SVM's scores: it is fitted with the squared hinge loss, one class against the rest, and a
    softmax of them is no probability. It has no BatchNorm, so that ``batch_stats`` is empty.

    Attributes:
        num_classes: how many logits.
        activation: the nonlinearity; replace it to change the backward pass (guided backprop).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = TangCNN(num_classes=7)
        >>> shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 48, 48, 1)))
        >>> logits, features = jax.eval_shape(model.apply, shapes, jnp.zeros((2, 48, 48, 1)))
        >>> logits.shape, features["last_conv"].shape, features["dense"].shape
        ((2, 7), (2, 10, 10, 64), (2, 3072))
    """

    image_size: ClassVar[int] = 48
    """The one size of images that it takes: the dense layer has a weight for each pixel of the last pooling."""

    num_classes: int
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> tuple[Float[Array, "batch classes"], dict[str, Array]]:
        """Computes logits and named activations.

        Args:
            images: float32 ``[batch, 48, 48, channels]`` in [-1, 1].
            train: changes nothing; there is neither BatchNorm nor dropout.

        Returns:
            Logits ``[batch, num_classes]`` and activations: ``conv1``, ``conv2``, ``last_conv`` (before their pooling)
            and ``dense``.

        Raises:
            FaceflaxError: images of another size.
        """
        if images.shape[1:3] != (self.image_size, self.image_size):
            side = self.image_size
            raise FaceflaxError(
                "images",
                images.shape,
                f"shape {{}} is not [batch, {side}, {side}, channels], the one size that tang_cnn takes",
                "resize them",
            )
        features: dict[str, Array] = {}
        margin = (self.image_size - CROP) // 2
        x = images[:, margin : margin + CROP, margin : margin + CROP]
        for name, width, size in (("conv1", 32, 5), ("conv2", 32, 4), ("last_conv", 64, 5)):
            x = self.activation(nn.Conv(width, (size, size), padding=(size - 1) // 2, name=name)(x))
            features[name] = x
            x = max_pool(x)
        x = self.activation(nn.Dense(3072, name="dense")(x.reshape(x.shape[0], -1)))
        features["dense"] = x
        return nn.Dense(self.num_classes, name="svm")(x), features
