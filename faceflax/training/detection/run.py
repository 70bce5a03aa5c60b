"""A detector's training: crops are drawn in a thread while the network takes its steps."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from tqdm import tqdm

from faceflax import data, models, pretrained
from faceflax.data.scenes import Scene, Scenes
from faceflax.errors import FaceflaxError
from faceflax.evaluation.detector import mean_recall
from faceflax.preprocessing import normalize
from faceflax.training.config import TrainConfig
from faceflax.training.detection.loss import loss, places
from faceflax.training.detection.scores import CROPS, fit_scores
from faceflax.training.detection.teacher import YuNetTeacher
from faceflax.training.fitting import cosine, take_matching
from faceflax.training.logs import Epoch
from faceflax.training.run import Begun, Tick, check_finite, no_tick
from faceflax.training.step import TrainState, adam, create_state, make_statistics, products

SHARES = {"wider": 0.66, "mask": 0.10, "portrait": 0.06, "closeup": 0.07, "noface": 0.11}
"""How often a crop is of each kind of picture, of the kinds that the dataset has."""
GRADIENT = 5.0
"""Longest gradient: a crop of a crowd gives one many times as long as a portrait's."""
STATISTICS_CROPS = 256
"""Crops from which BatchNorm's statistics are measured."""
AHEAD = 4
"""Batches that are drawn before they are needed."""


class Detection:
    """A network that finds faces in photographs: its compiled step, and its data in memory."""

    names: tuple[str, ...] = ("face",)

    def __init__(self, config: TrainConfig) -> None:
        _check(config)
        self.config = config
        self.model = models.create(config.arch, 1)
        self.key = jax.random.key(config.seed)
        self.validation = data.load_scenes(config.dataset, "validation", data_dir=config.data_dir)
        self.train = train = data.load_scenes(config.dataset, "train", data_dir=config.data_dir)
        images = sum(map(len, train.values()))
        self.steps = images // config.batch_size
        if self.steps < 1:
            problem = f"is more than the {images} training images of {config.dataset}"
            raise FaceflaxError("batch_size", config.batch_size, problem, "give a smaller one")
        shares = {name: share for name, share in SHARES.items() if name in train}
        self.fingerprint = {"dataset": _digest(train, self.validation)}
        teacher = None
        if config.teachers:
            teacher = _teacher(config.teachers)
            self.fingerprint["teachers"] = hashlib.sha256(Path(config.teachers[0]).read_bytes()).hexdigest()
        self.scenes = Scenes(train, shares, config.size, config.scenes, config.seed, teacher)
        self._optimizer = adam(config.weight_decay)
        self._step = _make_step(self.model, self._optimizer, config)
        self._statistics = make_statistics(self.model)

    def initial_state(self, given: pretrained.Variables | None) -> TrainState:
        """Fresh variables, or those of ``given`` where the shapes agree."""
        variables = models.init(self.model, self.key, self.config.size)
        if given is not None:
            variables = take_matching(variables, given)
        return create_state(jax.tree.map(jnp.array, variables), self._optimizer)

    def variables(self, state: TrainState) -> dict[str, Any]:
        """The averaged weights, with BatchNorm's statistics measured for them."""
        variables = {"params": state.average, "batch_stats": state.batch_stats}
        return variables | {"batch_stats": self._statistics(variables, self._sample, self.config.batch_size)}

    @functools.cached_property
    def _sample(self) -> Array:
        """The crops that BatchNorm's statistics are measured from."""
        return jnp.asarray(self.scenes.batch(0, max(STATISTICS_CROPS, self.config.batch_size))["images"])

    def epoch(
        self,
        state: TrainState,
        number: int,
        begun: Begun = Begun(),  # noqa: B008  # frozen
        tick: Tick = no_tick,
    ) -> tuple[TrainState, Epoch]:
        """As many crops as the split has images, then the recall on the validation images.

        The accuracies are, in training, the mean overlap of the taught places' boxes and, in validation, the recall at
        one false box in ten images; the validation loss is what is missed at one false box an image.
        """
        config = self.config
        first = (number - 1) * self.steps
        rates = cosine(
            config.epochs * self.steps,
            config.learning_rate,
            warmup=config.warmup_epochs * self.steps,
            first=first,
            count=self.steps,
        )
        start, before = time.perf_counter(), begun.steps
        bar = tqdm(
            total=self.steps * config.batch_size,
            initial=before * config.batch_size,
            unit=" images",
            desc=f"epoch {number}/{config.epochs}",
            leave=False,
        )
        with bar, ThreadPoolExecutor(1) as pool:
            ahead = range(before, min(before + AHEAD, self.steps))
            drawn = [pool.submit(self.scenes.batch, first + i, config.batch_size) for i in ahead]
            try:
                for i in range(before, self.steps):
                    batch = drawn.pop(0).result()
                    if i + AHEAD < self.steps:
                        drawn.append(pool.submit(self.scenes.batch, first + i + AHEAD, config.batch_size))
                    state, metrics = self._step(state, batch, jnp.float32(rates[i]))
                    begun = begun.add(metrics)
                    tick(state, begun)
                    bar.update(config.batch_size)
                    if (i + 1) % 32 == 0:
                        loss = begun.means()["loss"]
                        check_finite(loss, number, config)
                        bar.set_postfix(loss=f"{loss:.3f}")
            finally:
                for each in drawn:
                    each.cancel()
        seconds = time.perf_counter() - start
        means = begun.means()
        check_finite(means["loss"], number, config)
        recall, more = mean_recall(self.variables(state), self.validation)
        return state, {
            "epoch": number,
            "learning_rate": float(rates[-1]),
            "train_loss": means["loss"],
            "train_accuracy": means["overlap"],
            "validation_loss": 1 - more,
            "validation_accuracy": recall,
            "images_per_second": (self.steps - before) * config.batch_size / seconds,
        }

    def finished(self, variables: dict[str, Any], accuracy: float) -> tuple[dict[str, Any], float]:
        """Its scores fitted to the photographs of the train split, if that gains on validation's."""
        crops = [self.scenes.crop(number) for number in range(CROPS)]
        fitted = fit_scores(variables, self.train, crops, self.config.seed)
        recall, _ = mean_recall(fitted, self.validation)
        tqdm.write(f"scores fitted to whole photographs: accuracy {accuracy:.2%} before, {recall:.2%} after")
        return (fitted, recall) if recall > accuracy else (variables, accuracy)


def _make_step(
    model: nn.Module, optimizer: optax.GradientTransformation, config: TrainConfig
) -> Callable[[TrainState, dict[str, np.ndarray], Array], tuple[TrainState, dict[str, Array]]]:
    """Builds ``step(state, batch, learning_rate) -> (state, metrics)``; the state's buffers are donated."""
    centres, strides = (jnp.asarray(a) for a in places(config.size, config.size))
    clip = optax.clip_by_global_norm(GRADIENT)

    def step(state: TrainState, batch: dict[str, Array], rate: Array) -> tuple[TrainState, dict[str, Array]]:
        def loss_of(params: Any) -> tuple[Array, tuple[dict[str, Array], Any]]:
            (outputs, _), updates = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                normalize(batch["images"]),
                train=True,
                mutable=["batch_stats"],
            )
            kinds = batch["kinds"].astype(jnp.int32)
            labels = batch["boxes"], batch["landmarks"], kinds, batch["complete"]
            value, parts = loss(outputs, *labels, centres, strides, batch.get("taught"))
            return value, (parts, updates["batch_stats"])

        with products(config.precision):
            (value, (parts, batch_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        gradients, _ = clip.update(gradients, optax.EmptyState())
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        decay = jnp.minimum(config.average, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(params, state.average, 1 - decay)
        return TrainState(state.step + 1, params, average, batch_stats, optimizer_state), parts | {"loss": value}

    return jax.jit(step, donate_argnums=0)


def _teacher(files: tuple[str, ...]) -> YuNetTeacher:
    if len(files) > 1:
        raise FaceflaxError("teachers", " ".join(files), "are several files", "give one YuNet model")
    try:
        return YuNetTeacher(files[0])
    except FaceflaxError as error:
        raise error.renamed("teachers") from None


def _digest(*splits: dict[str, list[Scene]]) -> str:
    """A digest of photographs and all that is known of them."""
    hashed = hashlib.sha256()
    for name, scenes in (each for split in splits for each in sorted(split.items())):
        hashed.update(f"{name} {len(scenes)}".encode())
        for scene in scenes:
            for value in vars(scene).values():
                hashed.update(str(np.shape(value)).encode())
                hashed.update(np.ascontiguousarray(value).tobytes())
    return hashed.hexdigest()


def _check(config: TrainConfig) -> None:
    """Refuses settings that a detector's training has no use for."""
    usual = TrainConfig()
    for name in (
        *("dropout", "label_smoothing", "soft_labels", "soft_weight", "teacher_weight"),
        *(
            "augmentation",
            "mixup",
            "corrupt",
            "consistency",
            "symmetric",
            "detector",
            "found",
            "in_memory_gib",
            "readers",
        ),
    ):
        if getattr(config, name) != getattr(usual, name):
            problem = f"{{}} is of no use: {config.arch} finds faces and labels none"
            raise FaceflaxError(name, getattr(config, name), problem, "leave it out")
    if config.size % 32:
        raise FaceflaxError("image_size", config.size, "is not a multiple of 32", "256 is usual for a detector")
    if config.precision == "bfloat16":
        raise FaceflaxError("precision", config.precision, "is not possible for a detector", "give float32")
