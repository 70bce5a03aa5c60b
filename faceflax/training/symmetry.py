"""Weights with which a network says the same of a face and of its mirrored image, exactly.

Each channel has a twin that sees what it sees in the mirrored image; their weights are one another's mirror images, and
the classes are told from sums over both: a network that is equivariant to the mirror in the sense of Cohen and Welling,
"Group Equivariant Convolutional Networks", ICML 2016. Its layers are the same; half of their weights are free.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from faceflax import models
from faceflax.errors import FaceflaxError

LAST = "last_conv"
"""The layer whose outputs are classes and have no twins."""
ARCHS = ("mini_xception", "mini_xception_antialiased", "sequential_cnn")
"""Networks of convolutions alone, whose last layer is that one."""
_SAME = 1e-3


def mirrored(tree: Any) -> Any:
    """The weights, or statistics, of the network that says of an image what this one says of its mirrored image.

    Channels are in the opposite order, and kernels are mirrored.

    Example:
        >>> tree = {"stem1": {"kernel": jnp.arange(3.0).reshape(1, 3, 1, 1)}, "stem1_bn": {"scale": jnp.arange(2.0)}}
        >>> flipped = mirrored(tree)
        >>> flipped["stem1"]["kernel"].ravel().tolist(), flipped["stem1_bn"]["scale"].tolist()
        ([2.0, 1.0, 0.0], [1.0, 0.0])
    """
    return unflatten_dict({name: jnp.flip(v, _axes(name, v.ndim)) for name, v in flatten_dict(tree).items()})


def symmetric(tree: Any) -> Any:
    """The nearest weights, statistics or gradients that are their own :func:`mirrored` ones."""
    return jax.tree.map(lambda own, other: (own + other) / 2, tree, mirrored(tree))


def check(arch: str, size: int, channels: int) -> None:
    """Refuses a network, or a size of its images, whose layers themselves tell left from right.

    Raises:
        FaceflaxError: it cannot be made symmetric.
    """
    if arch not in ARCHS or channels != 1:
        problem = f"is not possible with {arch} on images of {channels} channels"
        raise FaceflaxError("symmetric", True, problem, f"give one of {', '.join(ARCHS)} and grey images")
    model = models.create(arch, 2)
    variables = symmetric(models.init(model, jax.random.key(0), size, channels))
    images = np.random.default_rng(0).uniform(-1, 1, (2, size, size, channels)).astype(np.float32)

    @jax.jit
    def answers(images: Any) -> Any:
        return model.apply(variables, images)[0]

    first, second = (np.asarray(answers(each)) for each in (images, images[:, :, ::-1]))
    if np.linalg.norm(first - second) > _SAME * np.linalg.norm(first):
        usual = 48 if arch == "sequential_cnn" else 53
        problem = f"gives {arch} maps that it reduces from the left"
        raise FaceflaxError("image_size", size, problem, f"give {usual}, or leave symmetric out")


def is_symmetric(tree: Any) -> bool:
    """Whether weights or statistics are their own :func:`mirrored` ones, but for the rounding of float16."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(symmetric(tree)), strict=True)
    return all(np.abs(own - near).max() <= 2e-3 * np.abs(own).max() for own, near in pairs)


def _axes(name: tuple[str, ...], ndim: int) -> tuple[int, ...]:
    """Along which axes weights of this name are mirrored: the width of kernels, and channels that have twins."""
    outputs = () if LAST in name else (ndim - 1,)
    return {1: (), 2: (0,), 4: (1, 2)}[ndim] + outputs
