"""The training loop: epochs of jitted steps, validation, checkpoints, learning-rate cuts and early stopping."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from faceflax import data, models, pretrained
from faceflax.commands import writable_folder
from faceflax.data.augment import Augmentation
from faceflax.errors import FaceflaxError, unknown
from faceflax.training import logs
from faceflax.training.checkpoints import Checkpoints
from faceflax.training.config import TrainConfig, option
from faceflax.training.step import TrainState, adam, create_state, make_eval_step, make_train_step

CUT = 0.2
"""What a learning-rate cut multiplies the rate by."""
SHOW_EVERY = 20
"""Steps between two looks at the metrics on the device; each look waits for the step to finish."""
FREE_TO_CHANGE = ("data_dir", "output", "resume", "epochs", "stop_patience")
"""Settings that may differ when a run is resumed."""


def train(config: TrainConfig) -> Path:
    """Trains until ``config.epochs``, early stopping or Ctrl-C, and writes the best epoch's weights.

    Args:
        config: the run; see its fields.

    Returns:
        The weights file, ``weights.safetensors`` in the run's folder, of the epoch of the highest validation accuracy.

    Raises:
        FaceflaxError: unknown network or dataset, dataset not prepared, an output folder that cannot be written or
            holds another run, or a loss that is not finite (the last good checkpoint stays).
    """
    if config.arch not in models.list_models():
        raise unknown("--arch", config.arch, models.list_models())
    try:
        augment = Augmentation(flip=config.flip, shift=config.shift, rotation=config.rotation, zoom=config.zoom)
    except FaceflaxError as error:
        raise FaceflaxError(f"--{error}") from None
    try:
        given = pretrained.load(config.init_weights)[1] if config.init_weights else None
    except FaceflaxError as error:
        raise FaceflaxError(f"--init-weights: {error}") from None
    folder = config.folder
    writable_folder("--output", folder)
    _check_same_run(folder, config)
    splits = {
        name: data.load(config.dataset, name, image_size=config.image_size, data_dir=config.data_dir)
        for name in ("train", "validation")
    }
    names = splits["train"].names
    if len(splits["train"].images) < config.batch_size:
        raise FaceflaxError(
            f"--batch-size: {config.batch_size} is more than the {len(splits['train'].images)} training images of "
            f"{config.dataset}; give a smaller one"
        )
    model = models.create(config.arch, len(names))
    run = _Run(config, model, augment, splits)
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config), default=str, indent=2) + "\n")

    with Checkpoints(folder / "checkpoints") as checkpoints:
        state = run.initial_state(given)
        history: list[logs.Epoch] = []
        if (epoch := checkpoints.latest_epoch()) is not None:
            state, history = checkpoints.restore(epoch, state)
            tqdm.write(f"resumed after epoch {epoch}: {_describe(history[-1])}")
        board = logs.TensorBoard(folder)
        try:
            while len(history) < config.epochs and not _stands_still(history, config.stop_patience):
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
        state.variables,
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
        self, config: TrainConfig, model: nn.Module, augment: Augmentation, splits: dict[str, data.Examples]
    ) -> None:
        self.config = config
        self.model = model
        self.optimizer = adam(config.weight_decay)
        self.key = jax.random.key(config.seed)
        self.splits = {name: (jnp.asarray(split.images), jnp.asarray(split.labels)) for name, split in splits.items()}
        self.steps = len(splits["train"].images) // config.batch_size
        self.train_step = make_train_step(
            model, self.optimizer, augment, config.label_smoothing, jax.random.fold_in(self.key, 1)
        )
        self.evaluate = make_eval_step(model)

    def initial_state(self, given: pretrained.Variables | None) -> TrainState:
        """Fresh variables, or those of ``given`` where the shapes agree."""
        images = self.splits["train"][0]
        variables = models.init(self.model, self.key, self.config.image_size, images.shape[-1])
        if given is not None:
            variables = _take_matching(variables, given)
        return create_state(variables, self.optimizer)

    def learning_rate(self, step: int, history: list[logs.Epoch]) -> float:
        """The rate at ``step``: linear warm-up, then the configured schedule."""
        config = self.config
        warmup = config.warmup_epochs * self.steps
        if step < warmup:
            return config.learning_rate * (step + 1) / (warmup + 1)
        if config.schedule == "cosine":
            progress = (step - warmup) / max(config.epochs * self.steps - warmup, 1)
            return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
        losses = [row["validation_loss"] for row in history]
        return config.learning_rate * CUT ** cuts(losses, config.plateau_patience)

    def epoch(self, state: TrainState, history: list[logs.Epoch]) -> tuple[TrainState, logs.Epoch]:
        """One pass over the training split in an order of its own, then validation."""
        config, number = self.config, len(history) + 1
        images, labels = self.splits["train"]
        order = np.random.default_rng([config.seed, number]).permutation(len(images))
        batches = order[: self.steps * config.batch_size].reshape(self.steps, config.batch_size).astype(np.int32)
        sums: Any = {"loss": jnp.zeros(()), "correct": jnp.zeros(())}
        rate = 0.0
        start = time.perf_counter()
        with tqdm(
            total=self.steps * config.batch_size, unit=" images", desc=f"epoch {number}/{config.epochs}", leave=False
        ) as bar:
            for index, batch in enumerate(batches, start=1):
                rate = self.learning_rate((number - 1) * self.steps + index - 1, history)
                state, metrics = self.train_step(state, images, labels, batch, np.float32(rate))
                sums = jax.tree.map(jnp.add, sums, metrics)
                if index % SHOW_EVERY == 0 or index == self.steps:
                    loss, correct = (float(sums[name]) / index for name in ("loss", "correct"))
                    bar.update(index * config.batch_size - bar.n)
                    bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{correct:.1%}")
                    if not math.isfinite(loss):
                        raise FaceflaxError(
                            f"--learning-rate: with {config.learning_rate} the loss became {loss} in epoch {number}; "
                            f"start again with a lower one (epoch {number - 1} stays in {config.folder})"
                        )
        seconds = time.perf_counter() - start
        validation_loss, validation_accuracy = self.evaluate(state.variables, *self.splits["validation"])
        return state, {
            "epoch": number,
            "learning_rate": rate,
            "train_loss": loss,
            "train_accuracy": correct,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
            "images_per_second": self.steps * config.batch_size / seconds,
        }


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
