"""The jitted training and evaluation steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from faceflax.preprocessing import normalize

Metrics = dict[str, Array]


class TrainState(flax.struct.PyTreeNode):
    """All that changes while training, and so all that a checkpoint holds."""

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    optimizer_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that ``model.apply`` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def adam(weight_decay: float) -> optax.GradientTransformation:
    """Adam with decoupled weight decay on kernels (not on biases, BatchNorm), without the learning rate.

    Kingma and Ba, "Adam", ICLR 2015; Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    """
    kernels = partial(jax.tree.map, lambda p: p.ndim > 1)
    return optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(weight_decay, mask=kernels))


def create_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        optimizer_state=optimizer.init(params),
    )


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    augment: Callable[[Array, Array], Array],
    label_smoothing: float,
    key: Array,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Builds ``step(state, images, labels, indices, learning_rate) -> (state, metrics)``.

    The split stays on the device as uint8; a step gathers its batch by ``indices``, normalises, augments, and applies
    one Adam update. The state's buffers are donated. Randomness depends on ``key`` and ``state.step`` alone, so a
    resumed run repeats what an uninterrupted one does.
    """

    @partial(jax.jit, donate_argnums=0)
    def train_step(
        state: TrainState,
        images: UInt8[Array, "n size size channels"],
        labels: Int[Array, "n"],
        indices: Int[Array, "batch"],
        learning_rate: Float[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        batch = augment(augment_key, normalize(images[indices]))
        targets = labels[indices]

        def loss_of(params: Any) -> tuple[Array, tuple[Array, Any]]:
            (logits, _), updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                batch,
                train=True,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats"],
            )
            one_hot = optax.smooth_labels(jax.nn.one_hot(targets, logits.shape[-1]), label_smoothing)
            return optax.softmax_cross_entropy(logits, one_hot).mean(), (logits, updates["batch_stats"])

        (loss, (logits, batch_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, updates)
        metrics = {"loss": loss, "correct": (logits.argmax(-1) == targets).mean()}
        return TrainState(state.step + 1, params, batch_stats, optimizer_state), metrics

    return train_step


def make_eval_step(model: nn.Module) -> Callable[..., tuple[float, float]]:
    """Builds ``evaluate(variables, images, labels) -> (cross-entropy, accuracy)`` over a split of uint8 images."""

    @jax.jit
    def totals(variables: dict[str, Any], images: UInt8[Array, "batch size size channels"], labels: Array) -> Array:
        logits, _ = model.apply(variables, normalize(images))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.stack([losses.sum(), (logits.argmax(-1) == labels).sum()])

    def evaluate(variables: dict[str, Any], images: Array, labels: Array, batch_size: int = 256) -> tuple[float, float]:
        starts = range(0, len(images), batch_size)
        parts = [totals(variables, images[i : i + batch_size], labels[i : i + batch_size]) for i in starts]
        means = np.asarray(jax.device_get(parts), np.float64).sum(0) / len(images)
        return float(means[0]), float(means[1])

    return evaluate
