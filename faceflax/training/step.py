"""The jitted training and evaluation steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Sharding
from jaxtyping import Array, Float, Int, UInt8

from faceflax.models.blocks import MOMENTUM
from faceflax.preprocessing import normalize
from faceflax.training.config import Precision
from faceflax.training.targets import disagreement

Metrics = dict[str, Array]


class TrainState(flax.struct.PyTreeNode):
    """All that changes while training, and so all that a checkpoint holds."""

    step: Int[Array, ""]
    params: Any
    average: Any
    """The moving average of ``params``."""
    batch_stats: Any
    optimizer_state: Any


def adam(weight_decay: float) -> optax.GradientTransformation:
    """Adam with decoupled weight decay on kernels (not on biases, BatchNorm), without the learning rate.

    Kingma and Ba, "Adam", ICLR 2015; Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    """
    kernels = partial(jax.tree.map, lambda p: p.ndim > 1)
    return optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(weight_decay, mask=kernels))


def create_state(variables: dict[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    params = variables["params"]
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        average=jax.tree.map(jnp.copy, params),  # the state is donated: no buffer may be in it twice
        batch_stats=variables["batch_stats"],
        optimizer_state=optimizer.init(params),
    )
    return jax.device_put(state, jax.local_devices()[0])  # as a restored state is, so that one compiled step takes both


def activations(precision: Precision) -> Any:
    """The number format of activations."""
    return jnp.bfloat16 if precision == "bfloat16" else jnp.float32


def products(precision: Precision) -> AbstractContextManager[Any]:
    """While it lasts, what is traced rounds what convolutions multiply, if the precision asks for it."""
    return jax.default_matmul_precision("bfloat16") if precision == "bfloat16_products" else nullcontext()


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    augment: Callable[[Array, Array], Array],
    mix: Callable[[Array, Array, Array], tuple[Array, Array]],
    loss: Callable[[Array, Array], Array],
    key: Array,
    average: float = 0.0,
    consistency: float = 0.0,
    tie: Callable[[Any], Any] = lambda gradients: gradients,
    precision: Precision = "float32",
    whole: Sharding | None = None,
    divided: Sharding | None = None,
) -> Callable[[TrainState, Array, Array, Array | None, Array], tuple[TrainState, Metrics]]:
    """Builds ``step(state, images, targets, batches, learning_rates) -> (state, metrics)``.

    The split stays on the device, images as uint8, and so does the epoch's order: step ``i`` gathers the batch that
    row ``i`` of ``batches`` names (modulo its length), normalises, augments, mixes, and applies one Adam update of the
    ``i``-th learning rate. Nothing passes between host and device, and the state's buffers are donated. Where the split
    does not fit there, ``batches`` is None and ``images`` and ``targets`` are those of the step alone. Randomness
    depends on ``key`` and ``state.step`` alone, so a resumed run repeats what an uninterrupted one does.

    Args:
        model: the network.
        optimizer: makes updates of gradients, before the learning rate.
        augment: ``(key, images) -> images``.
        mix: ``(key, images, targets) -> (images, targets)``.
        loss: ``(logits, targets) -> scalar``.
        key: the run's source of randomness.
        average: decay of the moving average of the parameters, in [0, 1); it rises to it as ``(1 + i) / (10 + i)``, so
            that the first steps are soon forgotten. At 0 the average is the parameters themselves.
        consistency: weight of the :func:`~faceflax.training.targets.disagreement` between two views of each image, each
            augmented by itself; at 0 there is one view.
        tie: makes of gradients those of weights that depend on each other.
        precision: of the forward and backward pass; parameters, their updates and BatchNorm's statistics stay float32.
            ``bfloat16_products`` keeps the activations float32 too and rounds only what convolutions multiply.
        whole: where the state lies, if not where it is given.
        divided: where a batch lies, if not where the images do.

    Returns:
        The step. Its metrics are the batch's ``loss`` and ``correct``, the share whose highest logit is that of the
        heaviest target.
    """
    dtype = activations(precision)

    @partial(jax.jit, donate_argnums=0, **({} if whole is None else {"out_shardings": whole}))
    def train_step(
        state: TrainState,
        images: UInt8[Array, "n size size channels"],
        targets: Float[Array, "n classes"],
        batches: Int[Array, "steps batch"] | None,
        learning_rates: Float[Array, " steps"],
    ) -> tuple[TrainState, Metrics]:
        augment_key, dropout_key, mix_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
        number = state.step % len(learning_rates)
        learning_rate = learning_rates[number]
        views = 2 if consistency else 1
        if batches is None:
            batch, wanted = (jnp.repeat(each, views, axis=0) for each in (images, targets))
        else:
            indices = jnp.repeat(batches[number], views)
            batch, wanted = images[indices], targets[indices]
        if divided is not None:
            batch, wanted = jax.lax.with_sharding_constraint((batch, wanted), divided)
        batch, wanted = mix(mix_key, augment(augment_key, normalize(batch)), wanted)

        def loss_of(params: Any) -> tuple[Array, tuple[Array, Any]]:
            (logits, _), updates = model.apply(
                {"params": jax.tree.map(lambda p: p.astype(dtype), params), "batch_stats": state.batch_stats},
                batch.astype(dtype),
                train=True,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats"],
            )
            logits = logits.astype(jnp.float32)
            value = loss(logits, wanted)
            if consistency:
                value += consistency * disagreement(logits)
            return value, (logits, updates["batch_stats"])

        with products(precision):
            (value, (logits, batch_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(tie(gradients), state.optimizer_state, state.params)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, updates)
        decay = jnp.minimum(average, (1 + state.step) / (10 + state.step))
        averaged = optax.incremental_update(params, state.average, 1 - decay)
        metrics = {"loss": value, "correct": (logits.argmax(-1) == wanted.argmax(-1)).mean()}
        return TrainState(state.step + 1, params, averaged, batch_stats, optimizer_state), metrics

    return train_step


def in_batches(images: Array, labels: Array, size: int = 256) -> Iterator[tuple[Array, Array]]:
    """Divides images and their labels into batches, the last of which may be smaller."""
    for start in range(0, len(images), size):
        yield images[start : start + size], labels[start : start + size]


def make_eval_step(
    model: nn.Module,
) -> Callable[[dict[str, Any], Iterable[tuple[Array, Array]]], tuple[float, float]]:
    """Builds ``evaluate(variables, batches) -> (cross-entropy, accuracy)`` over batches of uint8 images and labels."""

    @jax.jit
    def totals(variables: dict[str, Any], images: UInt8[Array, "batch size size channels"], labels: Array) -> Array:
        logits, _ = model.apply(variables, normalize(images))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.stack([losses.sum(), (logits.argmax(-1) == labels).sum()])

    def evaluate(variables: dict[str, Any], batches: Iterable[tuple[Array, Array]]) -> tuple[float, float]:
        parts, count = [], 0
        for images, labels in batches:
            parts.append(totals(variables, images, labels))
            count += len(labels)
        means = np.asarray(jax.device_get(parts), np.float64).sum(0) / count
        return float(means[0]), float(means[1])

    return evaluate


def make_statistics(model: nn.Module) -> Callable[..., Any]:
    """Builds ``statistics(variables, images) -> batch_stats``: BatchNorm's statistics of these parameters.

    The running statistics lag behind the parameters and belong to no average of them, so they are measured anew:
    Izmailov, Podoprikhin, Garipov, Vetrov and Wilson, "Averaging Weights Leads to Wider Optima and Better
    Generalization", UAI 2018. Without dropout, which would widen them: they are for inference.
    """
    if hasattr(model, "dropout_rate"):
        model = model.clone(dropout_rate=0.0)

    @jax.jit
    def update(params: Any, batch_stats: Any, images: UInt8[Array, "batch size size channels"]) -> Any:
        variables = {"params": params, "batch_stats": batch_stats}
        return model.apply(variables, normalize(images), train=True, mutable=["batch_stats"])[1]["batch_stats"]

    def statistics(variables: dict[str, Any], images: Array, batch_size: int = 256) -> Any:
        batch_size = min(batch_size, len(images))
        count = len(images) // batch_size
        batch_stats = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), variables["batch_stats"])
        for i in range(count):
            batch_stats = update(variables["params"], batch_stats, images[i * batch_size : (i + 1) * batch_size])
        # A moving average of n numbers that starts at 0 comes out too small by this factor.
        return jax.tree.map(lambda s: s / (1 - MOMENTUM**count), batch_stats)

    return statistics
