"""mini-Xception with one layer changed, to measure what the change is worth (``experiments/ablations.py``)."""

from __future__ import annotations

from functools import partial

import flax.linen as nn

from faceflax.models.blocks import Activation, BatchNorm, Conv, Images, SeparableConv, max_pool
from faceflax.models.mini_xception import MiniXception

REDUCTION = 4
"""Factor by which squeeze-and-excitation narrows the channels; the paper's 16 would leave one of a block's 16."""


class SqueezeExcitedModule(nn.Module):
    """mini-Xception's module, whose main branch's channels are weighted by what the whole image shows.

    Hu, Shen and Sun, "Squeeze-and-Excitation Networks", CVPR 2018.
    """

    features: int
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Images, train: bool = False) -> Images:
        """Maps ``[batch, h, w, c]`` to ``[batch, ceil(h / 2), ceil(w / 2), features]``."""
        norm = partial(BatchNorm, use_running_average=not train)
        shortcut = norm(name="shortcut_bn")(Conv(self.features, 1, stride=2, name="shortcut"), x)
        x = norm(name="bn1")(SeparableConv(self.features, name="conv1"), x, self.activation)
        x = norm(name="bn2")(SeparableConv(self.features, name="conv2"), x)
        squeezed = self.activation(nn.Dense(self.features // REDUCTION, name="squeeze")(x.mean((1, 2))))
        gate = nn.sigmoid(nn.Dense(self.features, name="excite")(squeezed))
        return shortcut + max_pool(x * gate[:, None, None])


class MiniXceptionSE(MiniXception):
    """:class:`~faceflax.models.mini_xception.MiniXception` of :class:`SqueezeExcitedModule` blocks.

    69,603 parameters for 7 classes.

    Example:
        >>> import jax
        >>> model = MiniXceptionSE(num_classes=7)
        >>> variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
        >>> sum(array.size for array in jax.tree.leaves(variables))
        69603
    """

    module = SqueezeExcitedModule
