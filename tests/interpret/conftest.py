"""A small network that the tests of all methods share."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import pytest


class Small(nn.Module):
    """Two convolutions with what the project's networks have: BatchNorm, strides, named layers, replaceable ReLUs."""

    activation: Callable = nn.relu

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(4, (3, 3), name="conv1")(images)
        conv1 = self.activation(nn.BatchNorm(use_running_average=not train, name="bn1")(x))
        conv2 = self.activation(nn.Conv(6, (3, 3), strides=2, name="conv2")(conv1))
        last_conv = nn.Conv(5, (3, 3), name="last_conv")(conv2)
        return last_conv.mean((1, 2)), {"conv1": conv1, "conv2": conv2, "last_conv": last_conv}


@pytest.fixture(scope="module")
def network():
    """Random weights, BatchNorm statistics that are not 0 and 1, three images."""
    images = jax.random.uniform(jax.random.key(1), (3, 8, 8, 1), minval=-1.0)
    variables = jax.jit(Small().init)(jax.random.key(0), images)
    statistics = jax.tree.map(lambda x: x * 0.5 + 0.1, variables["batch_stats"])
    return Small(), variables | {"batch_stats": statistics}, images
