"""The training loop: epochs of jitted steps, validation, checkpoints, learning-rate cuts and early stopping."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from tqdm import tqdm

from faceflax import data, models, native, pretrained
from faceflax.data.augment import Augmentation, Mixing
from faceflax.errors import FaceflaxError, unknown
from faceflax.files import writable_folder
from faceflax.training import logs
from faceflax.training.checkpoints import Checkpoints
from faceflax.training.config import TrainConfig, option
from faceflax.training.distillation import Teacher, teacher
from faceflax.training.memory import keep_freed_memory
from faceflax.training.step import (
    TrainState,
    adam,
    create_state,
    make_eval_step,
    make_statistics,
    make_train_step,
)
from faceflax.training.targets import class_weights, cross_entropy, make_targets, read_soft_labels

Kind = TypeVar("Kind", Augmentation, Mixing)

CUT = 0.2
"""What a learning-rate cut multiplies the rate by."""
SHOW_EVERY = 20
"""Steps between two looks at the metrics on the device; each look waits for the step to finish."""
STATISTICS_IMAGES = 4096
"""Training images from which BatchNorm's statistics of averaged weights are measured."""
FREE_TO_CHANGE = ("data_dir", "output", "resume", "epochs", "stop_after", "stop_patience")
"""Settings that may differ when a run is resumed."""


def train(config: TrainConfig) -> Path:
    """Trains until ``config.epochs``, early stopping or Ctrl-C, and writes the best epoch's weights.

    Args:
        config: the run; see its fields.

    Returns:
        The weights file, ``weights.safetensors`` in the run's folder, of the epoch of the highest validation accuracy.

    Raises:
        FaceflaxError: unknown network or dataset, dataset not prepared, soft labels or teachers that are not the
            dataset's, an output folder that cannot be written or holds another run, or a loss that is not finite (the
            last good checkpoint stays).
    """
    keep_freed_memory()  # first of all: reading --init-weights makes JAX's threads allocate already
    if config.arch not in models.list_models():
        raise unknown("--arch", config.arch, models.list_models())
    if config.dropout is not None and not hasattr(models.create(config.arch, 1), "dropout_rate"):
        raise FaceflaxError(f"--dropout: {config.arch} has no dropout; leave it out")
    if config.precision == "bfloat16_products" and not native.tiles():
        raise FaceflaxError(
            "--precision: bfloat16_products needs the native kernels on a Linux machine whose processor has AMX; "
            "give float32"
        )
    try:
        augment, mix = _from_options(Augmentation, config), _from_options(Mixing, config)
    except FaceflaxError as error:
        raise FaceflaxError(f"--{error}") from None
    try:
        given = pretrained.load(config.init_weights)[1] if config.init_weights else None
    except FaceflaxError as error:
        raise FaceflaxError(f"--init-weights: {error}") from None
    folder = config.folder
    writable_folder("--output", folder)
    _check_same_run(folder, config)
    read = partial(data.load, config.dataset, image_size=config.image_size, data_dir=config.data_dir)
    splits = {"validation": read("validation")}  # the short one first: it tells the classes
    names = splits["validation"].names
    teach = teacher(config.teachers, names, config.precision) if config.teachers else None
    splits["train"] = read("train")
    if len(splits["train"].images) < config.batch_size:
        raise FaceflaxError(
            f"--batch-size: {config.batch_size} is more than the {len(splits['train'].images)} training images of "
            f"{config.dataset}; give a smaller one"
        )
    unlabelled = _unlabelled(config)
    run = _Run(config, augment, mix, teach, splits, unlabelled)
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config), default=str, indent=2) + "\n")

    with Checkpoints(folder / "checkpoints") as checkpoints:
        state = run.initial_state(given)
        history: list[logs.Epoch] = []
        if (epoch := checkpoints.latest_epoch()) is not None:
            state, history = checkpoints.restore(epoch, state)
            tqdm.write(f"resumed after epoch {epoch}: {_describe(history[-1])}")
        board = logs.TensorBoard(folder)
        try:
            last = config.stop_after or config.epochs
            while len(history) < last and not _stands_still(history, config.stop_patience):
                state, row = run.epoch(state, history)
                history.append(row)
                checkpoints.save(len(history), state, history)
                board.write(row)
                logs.write_csv(folder / "metrics.csv", history)
                tqdm.write(f"epoch {len(history):3d}  {_describe(row)}")
        except KeyboardInterrupt:
            tqdm.write(f"stopped after {len(history)} whole epochs; the same command with --resume goes on from there")
            raise
        finally:
            board.close()
            if history:
                logs.write_curves(folder / "curves.png", history, f"{config.arch} on {config.dataset}")
        best = checkpoints.best_epoch()
        assert best is not None  # at least one epoch was trained or restored
        state, _ = checkpoints.restore(best, state)

    file = folder / "weights.safetensors"
    pretrained.save(
        file,
        run.variables(state),
        arch=config.arch,
        dataset=config.dataset,
        labels=names,
        image_size=config.image_size,
        crop_margin=data.crop_margin(config.dataset),
        accuracy={"validation": history[best - 1]["validation_accuracy"]},
    )
    return file


class _Run:
    """The compiled pieces of one run and its data on the device."""

    def __init__(
        self,
        config: TrainConfig,
        augment: Augmentation,
        mix: Mixing,
        teach: Teacher | None,
        splits: dict[str, data.Examples],
        unlabelled: UInt8[np.ndarray, "n size size channels"] | None,
    ) -> None:
        train, validation = splits["train"], splits["validation"]
        classes = len(train.names)
        soft = read_soft_labels(config.soft_labels, (len(train.labels), classes)) if config.soft_labels else None
        targets = make_targets(
            train.labels, classes, smoothing=config.label_smoothing, soft=soft, soft_weight=config.soft_weight
        )
        weights = class_weights(train.labels, classes, config.class_balance)
        images = train.images
        if unlabelled is not None:  # their targets are empty: _mix_and_teach fills in what a target lacks to be whole
            images = np.concatenate([images, unlabelled])
            targets = np.concatenate([targets, np.zeros((len(unlabelled), classes), np.float32)])
        self.config = config
        dropout = {} if config.dropout is None else {"dropout_rate": config.dropout}
        self.model = models.create(config.arch, classes, **dropout)
        self.optimizer = adam(config.weight_decay)
        self.key = jax.random.key(config.seed)
        self.train = jnp.asarray(images), jnp.asarray(targets)
        self.validation = jnp.asarray(validation.images), jnp.asarray(validation.labels)
        self.steps = len(images) // config.batch_size
        self.train_step = make_train_step(
            self.model,
            self.optimizer,
            augment=augment,
            mix=mix if teach is None else partial(_mix_and_teach, mix, teach, config.teacher_weight),
            loss=partial(cross_entropy, weights=jnp.asarray(weights), focal=config.focal),
            key=jax.random.fold_in(self.key, 1),
            average=config.average,
            precision=config.precision,
        )
        self.evaluate = make_eval_step(self.model)
        self.statistics = make_statistics(self.model)

    def initial_state(self, given: pretrained.Variables | None) -> TrainState:
        """Fresh variables, or those of ``given`` where the shapes agree."""
        variables = models.init(self.model, self.key, self.config.image_size, self.train[0].shape[-1])
        if given is not None:
            variables = _take_matching(variables, given)
        return create_state(variables, self.optimizer)

    def variables(self, state: TrainState) -> dict[str, Any]:
        """What is validated and saved: the averaged weights with statistics of their own, or else the last weights."""
        if not self.config.average:
            return state.variables
        averaged = {"params": state.average, "batch_stats": state.batch_stats}
        return averaged | {"batch_stats": self.statistics(averaged, self.train[0][:STATISTICS_IMAGES])}

    def learning_rates(self, history: list[logs.Epoch]) -> Float[np.ndarray, " steps"]:
        """The rate at each step of the next epoch: linear warm-up, then the configured schedule."""
        config = self.config
        step = len(history) * self.steps + np.arange(self.steps)
        warmup = config.warmup_epochs * self.steps
        if config.schedule == "cosine":
            progress = (step - warmup) / max(config.epochs * self.steps - warmup, 1)
            share = 0.5 * (1 + np.cos(np.pi * progress.clip(0, 1)))
        else:
            share = np.full(
                self.steps, CUT ** cuts([row["validation_loss"] for row in history], config.plateau_patience)
            )
        return config.learning_rate * np.where(step < warmup, (step + 1) / (warmup + 1), share)

    def epoch(self, state: TrainState, history: list[logs.Epoch]) -> tuple[TrainState, logs.Epoch]:
        """One pass over what is trained on in an order of its own, then validation."""
        config, number = self.config, len(history) + 1
        order = np.random.default_rng([config.seed, number]).permutation(len(self.train[0]))
        rates = self.learning_rates(history)
        # On the device for the whole epoch: a step finds its row by its number, and nothing waits for a transfer.
        batches = jnp.asarray(order[: self.steps * config.batch_size].reshape(self.steps, -1), jnp.int32)
        device_rates = jnp.asarray(rates, jnp.float32)
        sums: Any = {"loss": jnp.zeros(()), "correct": jnp.zeros(())}
        start = time.perf_counter()
        with tqdm(
            total=self.steps * config.batch_size, unit=" images", desc=f"epoch {number}/{config.epochs}", leave=False
        ) as bar:
            for index in range(1, self.steps + 1):
                state, metrics = self.train_step(state, *self.train, batches, device_rates)
                sums = jax.tree.map(jnp.add, sums, metrics)
                if index % SHOW_EVERY == 0 or index == self.steps:
                    loss, correct = (float(sums[name]) / index for name in ("loss", "correct"))
                    self._check_finite(loss, number)
                    bar.update(index * config.batch_size - bar.n)
                    bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{correct:.1%}")
        seconds = time.perf_counter() - start
        validation_loss, validation_accuracy = self.evaluate(self.variables(state), *self.validation)
        self._check_finite(validation_loss, number)
        return state, {
            "epoch": number,
            "learning_rate": float(rates[-1]),
            "train_loss": loss,
            "train_accuracy": correct,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
            "images_per_second": self.steps * config.batch_size / seconds,
        }

    def _check_finite(self, loss: float, epoch: int) -> None:
        """Stops the run before what is not finite is saved."""
        if math.isfinite(loss):
            return
        last = epoch - 1
        kept = (
            f"the checkpoint {str(self.config.folder / 'checkpoints' / str(last))!r} is good: --resume --epochs {last} "
            "writes the best epoch's weights"
            if last
            else "there is no checkpoint yet"
        )
        raise FaceflaxError(
            f"--learning-rate: with {self.config.learning_rate} the loss became {loss} in epoch {epoch}; start again "
            f"with a lower one ({kept})"
        )


def _mix_and_teach(
    mix: Mixing, teach: Teacher, share: float, key: Array, images: Array, targets: Array
) -> tuple[Array, Array]:
    """The mixed images, and their targets with the teachers' share: all that is not a label's."""
    images, targets = mix(key, images, targets)
    labelled = (1 - share) * targets
    return images, labelled + (1 - labelled.sum(1, keepdims=True)) * teach(images)


def _unlabelled(config: TrainConfig) -> UInt8[np.ndarray, "n size size channels"] | None:
    """The images that are shown without labels."""
    if config.unlabelled is None:
        return None
    try:
        return data.load(config.unlabelled, "train", image_size=config.image_size, data_dir=config.data_dir).images
    except FaceflaxError as error:
        raise FaceflaxError(f"--unlabelled: {str(error).removeprefix('--dataset: ')}") from None


def cuts(losses: list[float], patience: int) -> int:
    """How often the rate was cut: each time ``patience`` epochs in a row brought no lower loss.

    Example:
        >>> cuts([1.0, 0.9, 0.95, 0.92, 0.91, 0.99], patience=2)
        2
    """
    best, waited, count = math.inf, 0, 0
    for loss in losses:
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if waited == patience:
            waited, count = 0, count + 1
    return count


def _from_options(kind: type[Kind], config: TrainConfig) -> Kind:
    """An instance of a dataclass whose fields are options of the run."""
    return kind(**{field.name: getattr(config, field.name) for field in dataclasses.fields(kind)})


def _stands_still(history: list[logs.Epoch], patience: int) -> bool:
    accuracies = [row["validation_accuracy"] for row in history]
    return bool(accuracies) and len(accuracies) - 1 - int(np.argmax(accuracies)) >= patience


def _describe(row: logs.Epoch) -> str:
    return (
        f"train loss {row['train_loss']:.3f} accuracy {row['train_accuracy']:.1%}  "
        f"validation loss {row['validation_loss']:.3f} accuracy {row['validation_accuracy']:.2%}  "
        f"{row['images_per_second']:.0f} images/s"
    )


def _check_same_run(folder: Path, config: TrainConfig) -> None:
    """Refuses to write over another run, or to resume with settings that would make it a different one."""
    file = folder / "config.json"
    if not (folder / "checkpoints").exists() or not file.exists():
        if config.resume:
            raise FaceflaxError(f"--resume: {str(folder)!r} holds no run; leave it out, or name the run with --output")
        return
    if not config.resume:
        raise FaceflaxError(
            f"--output: {str(folder)!r} holds an earlier run; go on with it with --resume, or name another folder"
        )
    before = json.loads(file.read_text())
    now = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    for name in now.keys() - set(FREE_TO_CHANGE):
        if before.get(name) != now[name]:
            raise FaceflaxError(
                f"{option(name)}: {now[name]!r} differs from the run's {before.get(name)!r} in {str(folder)!r}; "
                f"resume with the same, or start another run with --output"
            )


def _take_matching(fresh: Any, given: Any) -> Any:
    """``given``'s arrays where both trees have them in the same shape, ``fresh``'s elsewhere."""
    if not isinstance(fresh, dict):
        return given if getattr(given, "shape", None) == fresh.shape else fresh
    return {name: _take_matching(value, given.get(name, {})) for name, value in fresh.items()}
