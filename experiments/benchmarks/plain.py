"""The networks as one would first write them in Flax: grouped convolutions, ``nn.max_pool``, ``jax.jit``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import unflatten_dict

from experiments.benchmarks import shared

Run = Callable[[], np.ndarray]

_norm = partial(nn.BatchNorm, momentum=0.99, epsilon=shared.BN_EPSILON)


class Separable(nn.Module):
    """Depthwise, then pointwise convolution."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to ``[batch, h, w, features]``."""
        x = nn.Conv(x.shape[-1], (3, 3), feature_group_count=x.shape[-1], use_bias=False, name="depthwise")(x)
        return nn.Conv(self.features, (1, 1), use_bias=False, name="pointwise")(x)


class Block(nn.Module):
    """The residual module."""

    features: int
    relu: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to ``[batch, ceil(h / 2), ceil(w / 2), features]``."""
        norm = partial(_norm, use_running_average=not train)
        shortcut = nn.Conv(self.features, (1, 1), strides=2, use_bias=False, name="shortcut")(x)
        shortcut = norm(name="shortcut_bn")(shortcut)
        x = self.relu(norm(name="bn1")(Separable(self.features, name="conv1")(x)))
        x = norm(name="bn2")(Separable(self.features, name="conv2")(x))
        return shortcut + nn.max_pool(x, (3, 3), (2, 2), padding="SAME")


class MiniXception(nn.Module):
    """Images to logits."""

    relu: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[batch, h, w, 1]`` to ``[batch, 7]``."""
        for name in ("stem1", "stem2"):
            x = nn.Conv(8, (3, 3), padding="VALID", use_bias=False, name=name)(x)
            x = self.relu(_norm(use_running_average=not train, name=f"{name}_bn")(x))
        for i, features in enumerate((16, 32, 64, 128), start=1):
            x = Block(features, self.relu, name=f"block{i}")(x, train)
        return nn.Conv(shared.CLASSES, (3, 3), name="last_conv")(x).mean((1, 2))


class SequentialCNN(nn.Module):
    """Images to logits."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[batch, h, w, 1]`` to ``[batch, 7]``."""
        norm = partial(_norm, use_running_average=not train)
        for i, (features, size) in enumerate(shared.STAGES, start=1):
            for name in (f"stage{i}a", f"stage{i}b"):
                x = norm(name=f"{name}_bn")(nn.Conv(features, (size, size), name=name)(x))
            x = nn.avg_pool(nn.relu(x), (2, 2), (2, 2))
            x = nn.Dropout(0.5, deterministic=not train)(x)
        x = norm(name="stage5a_bn")(nn.Conv(256, (3, 3), name="stage5a")(x))
        return nn.Conv(shared.CLASSES, (3, 3), name="last_conv")(x).mean((1, 2))


_MODELS: dict[str, Callable[[], nn.Module]] = {"mini_xception": MiniXception, "sequential_cnn": SequentialCNN}


def _variables(arch: str) -> dict[str, Any]:
    """The shared weights, named as ``nn.Conv`` names its own."""
    flat = {}
    for name, value in shared.tensors(arch).items():
        if name.endswith(("depthwise", "pointwise")):
            name, value = f"{name}/kernel", value if value.ndim == 4 else value[None, None]
        flat[name] = jnp.asarray(value)
    return unflatten_dict(flat, sep="/")


def forward(arch: str, batch: int) -> Run:
    """Logits ``[batch, 7]``."""
    model, images = _MODELS[arch](), shared.images(batch)
    apply, variables = jax.jit(model.apply), _variables(arch)
    return lambda: np.asarray(apply(variables, images))


def train(arch: str, batch: int) -> Run:
    """The loss of one more train step."""
    images, labels = map(jnp.asarray, shared.training_set(8 * batch))
    return partial(next, _steps(arch, images, labels, batch))


def _steps(arch: str, images: jax.Array, labels: jax.Array, batch: int) -> Iterator[np.ndarray]:
    model = _MODELS[arch]()
    kernels = partial(jax.tree.map, lambda p: p.ndim > 1)
    optimizer = optax.adamw(shared.LEARNING_RATE, weight_decay=shared.WEIGHT_DECAY, mask=kernels)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(variables: dict[str, Any], state: Any, key: jax.Array, indices: jax.Array) -> tuple[Any, Any, jax.Array]:
        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            logits, updates = model.apply(
                {**variables, "params": params},
                images[indices] / 127.5 - 1,
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )
            targets = optax.smooth_labels(jax.nn.one_hot(labels[indices], shared.CLASSES), shared.LABEL_SMOOTHING)
            return optax.softmax_cross_entropy(logits, targets).mean(), updates

        (loss, statistics), gradients = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        updates, state = optimizer.update(gradients, state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], updates), **statistics}, state, loss

    variables = _variables(arch)
    state = optimizer.init(variables["params"])
    for number, indices in enumerate(cycle(shared.order(len(images), batch))):
        key = jax.random.key(number)
        variables, state, loss = jax.block_until_ready(step(variables, state, key, indices))
        yield np.asarray(loss)


def train_and_evaluate(arch: str) -> None:
    """A few train steps on as many images as FER-2013 has, then an evaluation."""
    images, labels = map(jnp.asarray, shared.training_set(shared.TRAINING_IMAGES))
    steps = _steps(arch, images, labels, 64)
    for _ in range(5):
        next(steps)
    apply, variables = jax.jit(_MODELS[arch]().apply), _variables(arch)
    for start in range(0, shared.VALIDATION_IMAGES, 256):
        apply(variables, images[start : start + 256] / 127.5 - 1).block_until_ready()


@jax.custom_vjp
def _guided_relu(x: jax.Array) -> jax.Array:
    return nn.relu(x)


_guided_relu.defvjp(lambda x: (nn.relu(x), x), lambda x, g: (jnp.where(x > 0, nn.relu(g), 0),))


def guided(targets: list[int]) -> Run:
    """Guided backprop of one image for each target, ``[targets, 64, 64, 1]``."""
    model, variables = MiniXception(_guided_relu), _variables("mini_xception")
    images = np.repeat(shared.images(1), len(targets), 0)

    @jax.jit
    def method(variables: dict[str, Any], images: jax.Array, targets: jax.Array) -> jax.Array:
        def score(images: jax.Array) -> jax.Array:
            logits: Any = model.apply(variables, images)
            return logits[jnp.arange(len(images)), targets].sum()

        return jax.grad(score)(images)

    return lambda: np.asarray(method(variables, images, np.asarray(targets)))
