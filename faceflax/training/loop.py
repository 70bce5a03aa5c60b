"""The training loop: epochs of jitted steps, validation, checkpoints, the learning-rate schedule and early stopping."""

from __future__ import annotations

import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64
from tqdm import tqdm

from faceflax import data, files, models, native, pretrained
from faceflax.data.corrupt import corrupt
from faceflax.data.transforms import mixup
from faceflax.errors import FaceflaxError, unknown
from faceflax.faces import make_detector
from faceflax.preprocessing import normalize
from faceflax.training import logs
from faceflax.training.checkpoints import Checkpoints
from faceflax.training.config import TrainConfig
from faceflax.training.detected import training_crops, validation_crops
from faceflax.training.detection.run import Detection
from faceflax.training.distillation import Teacher, teacher
from faceflax.training.fitting import Trainer, cosine, take_matching, unmixed
from faceflax.training.memory import keep_freed_memory
from faceflax.training.run import Run, check_finite
from faceflax.training.step import TrainState, make_eval_step
from faceflax.training.targets import make_targets, read_soft_labels

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
    keep_freed_memory()  # first of all: reading init_weights makes JAX's threads allocate already
    if config.arch not in models.list_models():
        raise unknown("arch", config.arch, models.list_models())
    if config.precision == "bfloat16_products" and not native.tiles():
        problem = "needs the native kernels on a Linux machine whose processor has AMX"
        raise FaceflaxError("precision", config.precision, problem, "give float32")
    try:
        given = pretrained.load(config.init_weights)[1] if config.init_weights else None
    except FaceflaxError as error:
        raise error.renamed("init_weights") from None
    folder = files.writable_folder("output", config.folder)
    _check_same_run(folder, config)
    run: Run = Detection(config) if config.arch in models.DETECTORS else _Classification(config)
    files.write(folder / "config.json", json.dumps(dataclasses.asdict(config), default=str, indent=2) + "\n")

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
                state, row = run.epoch(state, len(history) + 1)
                history.append(row)
                checkpoints.save(len(history), state, history)
                board.write(row)
                logs.write_csv(folder / "metrics.csv", history)
                tqdm.write(f"epoch {len(history):3d}  {_describe(row)}")
        except KeyboardInterrupt:
            tqdm.write(
                f"stopped after {len(history)} whole epochs; the same command with --resume continues from there"
            )
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
        labels=run.names,
        image_size=config.size,
        crop_margin=data.crop_margin(config.dataset),
        accuracy={"validation": history[best - 1]["validation_accuracy"]},
    )
    return file


class _Classification:
    """A network that labels cut-out faces: its compiled pieces, and its data on the device."""

    def __init__(self, config: TrainConfig) -> None:
        if config.dropout is not None and not hasattr(models.create(config.arch, 1), "dropout_rate"):
            problem = f"{{}} is of no use: {config.arch} has no dropout"
            raise FaceflaxError("dropout", config.dropout, problem, "leave it out")
        if config.detector is not None:
            make_detector(config.detector)  # complains before the data is read
        read = partial(data.load, config.dataset, image_size=config.size, data_dir=config.data_dir)
        validation = read("validation")  # the short one first: it names the classes
        self.names = validation.names
        teach = teacher(config.teachers, self.names, config.precision) if config.teachers else None
        train = read("train")
        if len(train.images) < config.batch_size:
            problem = f"is more than the {len(train.images)} training images of {config.dataset}"
            raise FaceflaxError("batch_size", config.batch_size, problem, "give a smaller one")
        classes = len(self.names)
        soft = read_soft_labels(config.soft_labels, (len(train.labels), classes)) if config.soft_labels else None
        targets = make_targets(
            train.labels, classes, smoothing=config.label_smoothing, soft=soft, soft_weight=config.soft_weight
        )
        self.config = config
        dropout = {} if config.dropout is None else {"dropout_rate": config.dropout}
        self.model = models.create(config.arch, classes, **dropout)
        self.key = jax.random.key(config.seed)
        self.train = jnp.asarray(train.images), jnp.asarray(targets)
        self.count = len(train.images)
        self.found = np.full(self.count, -1)  # where each image's face is as the detector finds it
        self.validation = [jnp.asarray(validation.images)]
        self.labels = jnp.asarray(validation.labels)
        if config.detector is not None:
            where = config.detector, config.dataset, config.size, config.data_dir
            clean, hurt = validation_crops(*where)
            self.validation = [jnp.asarray(images) for images in (clean.images, *hurt)]
            self.labels = self.labels[clean.index]
            crops = training_crops(*where)
            self.found[crops.index] = self.count + np.arange(len(crops.index))
            both = np.concatenate([train.images, crops.images]), np.concatenate([targets, targets[crops.index]])
            self.train = jnp.asarray(both[0]), jnp.asarray(both[1])
        self.shares = _shares(train, config) if config.balance else None
        self.steps = self.count // config.batch_size
        mix = partial(mixup, alpha=config.mixup) if config.mixup else unmixed
        self.trainer = Trainer(
            self.model,
            key=jax.random.fold_in(self.key, 1),
            augment=config.augmentation,
            mix=partial(_prepare, mix, teach, config),
            weight_decay=config.weight_decay,
            average=config.average,
            precision=config.precision,
        )
        self.evaluate = make_eval_step(self.model)

    def initial_state(self, given: pretrained.Variables | None) -> TrainState:
        """Fresh variables, or those of ``given`` where the shapes agree."""
        variables = models.init(self.model, self.key, self.config.size, self.train[0].shape[-1])
        if given is not None:
            variables = take_matching(variables, given)
        return self.trainer.start(variables)

    def variables(self, state: TrainState) -> dict[str, Any]:
        """What is validated and saved: the averaged weights with statistics of their own, or else the last weights."""
        if not self.config.average:
            return state.variables
        return self.trainer.variables(state, self._sample())

    def _sample(self) -> Array:
        """The images that BatchNorm's statistics are measured from: such as the network is trained on."""
        rows = np.arange(min(STATISTICS_IMAGES, self.count))
        found = self.found[rows]
        images = self.train[0][jnp.asarray(np.where((rows % 2 == 1) & (found >= 0), found, rows))]
        if not self.config.corrupt:
            return images
        changed = jax.jit(corrupt, static_argnums=2)(self.key, normalize(images), self.config.corrupt)
        return jnp.rint((changed + 1) * 127.5).astype(jnp.uint8)

    def epoch(self, state: TrainState, number: int) -> tuple[TrainState, logs.Epoch]:
        """The epoch of this number, from 1: all training images in an order of its own, then validation."""
        config = self.config
        size = config.batch_size
        random = np.random.default_rng([config.seed, number])
        order = random.permutation(self.count)
        if self.shares is not None:
            order = random.choice(self.count, self.count, p=self.shares)
        if config.detector is not None:
            found = self.found[order]
            order = np.where((found >= 0) & (random.random(self.count) < config.found), found, order)
        batches = order[: self.steps * size].reshape(self.steps, size)
        rates = cosine(
            config.epochs * self.steps,
            config.learning_rate,
            warmup=config.warmup_epochs * self.steps,
            first=(number - 1) * self.steps,
            count=self.steps,
        )
        start = time.perf_counter()
        with tqdm(total=batches.size, unit=" images", desc=f"epoch {number}/{config.epochs}", leave=False) as bar:

            def show(steps: int, loss: float, correct: float) -> None:
                check_finite(loss, number, config)
                bar.update(steps * size - bar.n)
                bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{correct:.1%}")

            state, loss, correct = self.trainer.steps(state, *self.train, batches, rates, show)
        seconds = time.perf_counter() - start
        validation_loss, validation_accuracy = self._validate(self.variables(state))
        check_finite(validation_loss, number, config)
        return state, {
            "epoch": number,
            "learning_rate": float(rates[-1]),
            "train_loss": loss,
            "train_accuracy": correct,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
            "images_per_second": self.steps * config.batch_size / seconds,
        }

    def _validate(self, variables: dict[str, Any]) -> tuple[float, float]:
        """Cross-entropy and accuracy; of found faces, the mean of clean ones' and the mean over the corruptions."""
        clean, *hurt = (self.evaluate(variables, images, self.labels) for images in self.validation)
        if not hurt:
            return clean
        loss, accuracy = (float(np.mean([clean[i], np.mean([each[i] for each in hurt])])) for i in (0, 1))
        return loss, accuracy


def _shares(examples: data.Examples, config: TrainConfig) -> Float64[np.ndarray, " n"]:
    """How often each training image is drawn, so that the groups of the attributes are seen more evenly."""
    shares = np.ones(len(examples.labels))
    for name in config.balance:
        if name not in examples.attributes:
            raise unknown("balance", name, examples.attributes)
        groups, members = examples.attributes[name]
        cells = members * len(examples.names) + examples.labels
        shares /= np.sqrt(np.bincount(cells, minlength=len(groups) * len(examples.names)))[cells]
    return shares / shares.sum()


def _prepare(
    mix: Any, teach: Teacher | None, config: TrainConfig, key: Array, images: Array, targets: Array
) -> tuple[Array, Array]:
    """The mixed images, their targets with the teachers' share, and then the images corrupted."""
    images, targets = mix(key, images, targets)
    if teach is not None:
        targets = (1 - config.teacher_weight) * targets + config.teacher_weight * teach(images)
    if config.corrupt:
        images = corrupt(jax.random.fold_in(key, 1), images, config.corrupt)
    return images, targets


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
            raise FaceflaxError("resume", folder, "{} holds no run", "leave it out, or name the run as output")
        return
    if not config.resume:
        problem, remedy = "holds an earlier run", "continue it with resume, or name another folder"
        raise FaceflaxError("output", folder, problem, remedy)
    before = json.loads(file.read_text())
    now = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    if before.keys() != now.keys() or before["augmentation"].keys() != now["augmentation"].keys():
        problem = "the run in {} was started by another version of faceflax, whose settings were not the same ones"
        raise FaceflaxError("resume", folder, problem, "resume it with that version, or start another run as output")
    before, now = ({**settings.pop("augmentation"), **settings} for settings in (before, now))
    for name in sorted(now.keys() - set(FREE_TO_CHANGE)):
        if before[name] != now[name]:
            problem = f"differs from the run's {before[name]!r} in {str(folder)!r}"
            raise FaceflaxError(name, now[name], problem, "resume with the same, or start a run with another output")
