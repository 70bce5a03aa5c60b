"""The training loop: epochs of jitted steps, validation, checkpoints, the learning-rate schedule and early stopping."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Int
from tqdm import tqdm

from faceflax import data, files, models, native, pretrained
from faceflax.data.corrupt import corrupt
from faceflax.data.streaming import Plan, default_readers, epoch_order
from faceflax.data.transforms import mixup
from faceflax.errors import FaceflaxError, said, unknown
from faceflax.faces import make_detector
from faceflax.pipeline import Interrupt, interrupts
from faceflax.preprocessing import normalize
from faceflax.training import logs, symmetry
from faceflax.training.checkpoints import Checkpoints, Record, another_version
from faceflax.training.config import TrainConfig
from faceflax.training.detected import training_crops, validation_crops
from faceflax.training.detection.run import Detection
from faceflax.training.devices import Devices, ending_together, start
from faceflax.training.distillation import Teacher, teacher
from faceflax.training.feeding import Feed
from faceflax.training.fitting import Trainer, cosine, take_matching, unmixed
from faceflax.training.memory import keep_freed_memory
from faceflax.training.run import Begun, Run, Tick, check_finite, no_tick
from faceflax.training.step import TrainState, in_batches, make_eval_step
from faceflax.training.targets import make_targets, read_soft_labels

STATISTICS_IMAGES = 4096
"""Training images from which BatchNorm's statistics are measured."""
FREE_TO_CHANGE = (
    *("data_dir", "output", "resume", "epochs", "stop_after", "stop_patience"),
    *("checkpoint_minutes", "checkpoint_steps", "keep_checkpoints"),
    *("devices", "coordinator", "processes", "process", "cluster", "join_seconds", "readers"),
)
"""Settings that may differ when a run is resumed; a lower learning rate may be given too."""


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
    devices = start(config)
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
    with ExitStack() as stack:
        stack.enter_context(ending_together(devices))
        if devices.first:
            stack.enter_context(files.exclusively("output", folder, folder / ".lock", keep=True))
        checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints", config.keep_checkpoints, devices))
        newest = checkpoints.newest()
        settings = _check_same_run(folder, config, newest)
        if config.arch in models.DETECTORS and devices.count > 1:
            problem = "is more than the one that a detector is trained on"
            raise FaceflaxError("devices", devices.count, problem, "give 1")
        run: Run = Detection(config) if config.arch in models.DETECTORS else _Classification(config, devices, stack)
        if newest is not None:
            _check_same_data(folder, config, run, newest)
        stack.enter_context(_writing(folder))
        if devices.first:
            files.write(folder / "config.json", json.dumps(settings, indent=2) + "\n")
        record = _fit(config, run, given, checkpoints, newest, settings)
        variables = jax.device_get(run.variables(checkpoints.restore(record.step, run.initial_state(None))))
        variables, accuracy = run.finished(variables, record.history[-1]["validation_accuracy"])
        file = folder / "weights.safetensors"
        if devices.first:
            pretrained.save(
                file,
                variables,
                arch=config.arch,
                dataset=config.dataset,
                labels=run.names,
                image_size=config.size,
                crop_margin=data.crop_margin(config.dataset),
                accuracy={"validation": accuracy},
            )
    return file


def _fit(
    config: TrainConfig,
    run: Run,
    given: pretrained.Variables | None,
    checkpoints: Checkpoints,
    newest: Record | None,
    settings: dict[str, Any],
) -> Record:
    """Trains from the newest checkpoint, or the start, to the end; returns the record of the best one.

    Raises:
        FaceflaxError: the loss is not finite, or something cannot be written.
        SystemExit: a signal asked for the end (:class:`KeyboardInterrupt` after Ctrl-C); the state was saved before.
    """
    folder = config.folder
    devices = checkpoints.devices
    state = run.initial_state(given)
    history: list[logs.Epoch] = []
    begun = Begun()
    if newest is not None:
        state = checkpoints.restore(newest.step, state)
        history, begun = newest.history, newest.begun
        if devices.first:
            logs.write_csv(folder / "metrics.csv", history)
        last = f": {_describe(history[-1])}" if history else ""
        tqdm.write(f"resumed after step {newest.step} (epoch {len(history) + 1}, step {begun.steps}){last}")
    elif config.resume:
        tqdm.write("there is no checkpoint yet: the run begins at the first step")
    saved = time.monotonic()

    def save(state: TrainState, begun: Begun) -> None:
        nonlocal saved
        record = Record(
            step=len(history) * run.steps + begun.steps,
            history=list(history),
            begun=Begun(begun.steps, {name: float(value) for name, value in begun.sums.items()}),
            settings=settings,
            classes=list(run.names),
            fingerprint=run.fingerprint,
            best=(_best(history) + 1) * run.steps if history else None,
        )
        if not checkpoints.save(state, record):
            check_finite(float("nan"), len(history) + 1, config)
        saved = time.monotonic()

    def end(asked: Interrupt, step: int) -> None:
        checkpoints.wait()
        tqdm.write(f"stopped after step {step}; the same command with --resume continues from there")
        raise KeyboardInterrupt if asked.signal == signal.SIGINT else SystemExit(0)

    def tick(asked: Interrupt, state: TrainState, begun: Begun) -> None:
        if begun.steps == run.steps:  # the epoch is validated, and then saved as a whole one
            return
        step = len(history) * run.steps + begun.steps
        by_steps = config.checkpoint_steps and step % config.checkpoint_steps == 0
        by_time = config.checkpoint_minutes and time.monotonic() - saved > 60 * config.checkpoint_minutes
        ending = asked.is_set() or devices.asked_to_end(step)
        if by_steps or by_time or ending:
            save(state, begun)
        if ending:
            end(asked, step)

    board = logs.TensorBoard(folder) if devices.first else None
    try:
        # Several processes have to end before the same step, which JAX sees to.
        with interrupts() if devices.processes == 1 else nullcontext(Interrupt()) as asked:
            while len(history) < (config.stop_after or config.epochs) and not _stands_still(
                history, config.stop_patience
            ):
                state, row = run.epoch(state, len(history) + 1, begun, partial(tick, asked))
                begun = Begun()
                history.append(row)
                save(state, begun)
                if board is not None:
                    board.write(row)
                    logs.write_csv(folder / "metrics.csv", history)
                    tqdm.write(f"epoch {len(history):3d}  {_describe(row)}")
                if asked.is_set():
                    end(asked, len(history) * run.steps)
    finally:
        if board is not None:
            board.close()
        if board is not None and history:
            logs.write_curves(folder / "curves.png", history, f"{config.arch} on {config.dataset}")
    return checkpoints.best()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Raises a full disk, or a folder that can no longer be written, as one sentence.

    Raises:
        FaceflaxError: in place of the OSError; what was written before stays.
    """
    try:
        yield
    except OSError as error:
        remedy = "make room, and go on with resume; the checkpoints stay as they were"
        raise FaceflaxError("output", folder, f"cannot write into {{}} ({said(error)})", remedy) from error


class _Classification:
    """A network that labels cut-out faces: its compiled pieces, and its data on the device or on their way to it."""

    def __init__(self, config: TrainConfig, devices: Devices, stack: ExitStack) -> None:
        if config.dropout is not None and not hasattr(models.create(config.arch, 1), "dropout_rate"):
            problem = f"{{}} is of no use: {config.arch} has no dropout"
            raise FaceflaxError("dropout", config.dropout, problem, "leave it out")
        if config.detector is not None:
            make_detector(config.detector)  # complains before the data is read
        if config.symmetric:
            symmetry.check(config.arch, config.size, 1)
        in_memory = _fits(config)
        read: Any = data.load if in_memory else data.load_index
        read = partial(read, config.dataset, image_size=config.size, data_dir=config.data_dir)
        validation = read("validation")  # the short one first: it names the classes
        self.names = validation.names
        teach = teacher(config.teachers, self.names, config.precision) if config.teachers else None
        train = read("train")
        self.count = len(train.labels)
        if self.count < config.batch_size:
            problem = f"is more than the {self.count} training images of {config.dataset}"
            raise FaceflaxError("batch_size", config.batch_size, problem, "give a smaller one")
        classes = len(self.names)
        soft = read_soft_labels(config.soft_labels, (self.count, classes)) if config.soft_labels else None
        targets = make_targets(
            train.labels, classes, smoothing=config.label_smoothing, soft=soft, soft_weight=config.soft_weight
        )
        self.fingerprint = {"dataset": _digest(train, validation) if in_memory else train.digest + validation.digest}
        if config.soft_labels is not None:
            self.fingerprint["soft_labels"] = hashlib.sha256(targets.tobytes()).hexdigest()
        if config.teachers:
            digests = ",".join(pretrained.weights_info(name).sha256 for name in config.teachers)
            self.fingerprint["teachers"] = hashlib.sha256(digests.encode()).hexdigest()
        self.config = config
        dropout = {} if config.dropout is None else {"dropout_rate": config.dropout}
        self.model = models.create(config.arch, classes, **dropout)
        self.key = jax.random.key(config.seed)
        self.steps = self.count // config.batch_size
        self.shares = _shares(train, config) if config.balance else None
        self.found = np.full(self.count, -1)  # where each image's face is as the detector finds it
        images = train.images
        self.labels = validation.labels
        self.validation = [validation.images] if in_memory else []
        if config.detector is not None:
            where = config.detector, config.dataset, config.size, config.data_dir
            clean, hurt = validation_crops(*where)
            self.validation = [clean.images, *hurt]
            self.labels = self.labels[clean.index]
            crops = training_crops(*where)
            self.fingerprint["detector"] = hashlib.sha256(crops.index.tobytes() + crops.images.tobytes()).hexdigest()
            self.found[crops.index] = self.count + np.arange(len(crops.index))
            images = np.concatenate([images, crops.images])
            targets = np.concatenate([targets, targets[crops.index]])
        rows = np.arange(min(STATISTICS_IMAGES, self.count))
        found = self.found[rows]
        sample = images[np.where((rows % 2 == 1) & (found >= 0), found, rows)]
        if config.corrupt:
            changed = jax.jit(corrupt, static_argnums=2)(self.key, normalize(sample), config.corrupt)
            sample = np.asarray(jnp.rint((changed + 1) * 127.5).astype(jnp.uint8))
        self.sample: Array = devices.everywhere(sample)
        self.feed: Feed | None = None
        if in_memory:
            self.train: tuple[Array, Array] = devices.everywhere((images, targets))
            self.validation, self.labels = devices.everywhere((self.validation, self.labels))
        else:
            plan = Plan(
                seed=config.seed,
                epochs=config.epochs,
                count=self.count,
                validated=len(self.labels),
                batch_size=config.batch_size,
                columns=devices.columns(config.batch_size),
                shares=self.shares,
            )
            readers = default_readers() if config.readers is None else config.readers
            self.feed = stack.enter_context(Feed(plan, train, validation, targets, devices, readers))
        mix = partial(mixup, alpha=config.mixup) if config.mixup else unmixed
        self.trainer = Trainer(
            self.model,
            key=jax.random.fold_in(self.key, 1),
            augment=config.augmentation,
            mix=partial(_prepare, mix, teach, config),
            weight_decay=config.weight_decay,
            average=config.average,
            consistency=config.consistency,
            symmetric=config.symmetric,
            precision=config.precision,
            devices=devices,
        )
        self.evaluate = make_eval_step(self.model)

    def initial_state(self, given: pretrained.Variables | None) -> TrainState:
        """Fresh variables, or those of ``given`` where the shapes agree."""
        variables = models.init(self.model, self.key, self.config.size, self.sample.shape[-1])
        if given is not None:
            if self.config.symmetric and not all(map(symmetry.is_symmetric, given.values())):
                problem, remedy = "are not symmetric", "give weights that were trained so, or none"
                raise FaceflaxError("init_weights", Path(self.config.init_weights or ""), f"{{}} {problem}", remedy)
            variables = take_matching(variables, given)
        return self.trainer.start(variables)

    def variables(self, state: TrainState) -> dict[str, Any]:
        """What is validated and saved: the (averaged) weights, with BatchNorm's statistics measured for them."""
        return self.trainer.variables(state, self.sample)

    def epoch(
        self,
        state: TrainState,
        number: int,
        begun: Begun = Begun(),  # noqa: B008  # frozen
        tick: Tick = no_tick,
    ) -> tuple[TrainState, logs.Epoch]:
        """The epoch of this number, from 1: all training images in an order of its own, then validation."""
        config = self.config
        size = config.batch_size
        rates = cosine(
            config.epochs * self.steps,
            config.learning_rate,
            warmup=config.warmup_epochs * self.steps,
            first=(number - 1) * self.steps,
            count=self.steps,
        )
        start = time.perf_counter()
        bar = tqdm(
            total=self.steps * size,
            initial=begun.steps * size,
            unit=" images",
            desc=f"epoch {number}/{config.epochs}",
            leave=False,
            disable=not self.trainer.devices.first,
        )
        with bar:

            def show(steps: int, loss: float, correct: float) -> None:
                check_finite(loss, number, config)
                bar.update(steps * size - bar.n)
                bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{correct:.1%}")

            rest = rates[begun.steps :]
            if self.feed is None:
                batches = self._batches(number)[begun.steps :]
                state, loss, correct = self.trainer.steps(
                    state, *self.train, batches, rest, show, begun=begun, tick=tick
                )
            else:
                inputs = self.feed.steps(number, begun.steps)
                state, loss, correct = self.trainer.steps_over(state, inputs, rest, show, begun=begun, tick=tick)
        seconds = time.perf_counter() - start
        validation_loss, validation_accuracy = self._validate(self.variables(state), number)
        check_finite(validation_loss, number, config)
        return state, {
            "epoch": number,
            "learning_rate": float(rates[-1]),
            "train_loss": loss,
            "train_accuracy": correct,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
            "images_per_second": (self.steps - begun.steps) * size / seconds,
        }

    def finished(self, variables: dict[str, Any], accuracy: float) -> tuple[dict[str, Any], float]:
        """Both as they are."""
        return variables, accuracy

    def _batches(self, number: int) -> Int[np.ndarray, "steps batch"]:
        """The images of each step of an epoch."""
        size = self.config.batch_size
        random = np.random.default_rng([self.config.seed, number])
        order = epoch_order(random, self.count, self.shares)
        if self.config.detector is not None:
            found = self.found[order]
            order = np.where((found >= 0) & (random.random(self.count) < self.config.found), found, order)
        return order[: self.steps * size].reshape(self.steps, size)

    def _validate(self, variables: dict[str, Any], number: int) -> tuple[float, float]:
        """Cross-entropy and accuracy; of found faces, the mean of clean ones' and the mean over the corruptions."""
        with self.trainer.devices.forms():
            if self.feed is not None:
                return self.evaluate(variables, self.feed.validation(number))
            batches = (in_batches(images, self.labels) for images in self.validation)
            clean, *hurt = (self.evaluate(variables, each) for each in batches)
        if not hurt:
            return clean
        loss, accuracy = (float(np.mean([clean[i], np.mean([each[i] for each in hurt])])) for i in (0, 1))
        return loss, accuracy


def _fits(config: TrainConfig) -> bool:
    """Whether the images stay in memory.

    Raises:
        FaceflaxError: they cannot, and faces that a detector finds in them are to.
    """
    splits = ("train", "validation")
    needed = data.memory_needed(config.dataset, splits, image_size=config.size, data_dir=config.data_dir) / 2**30
    fits = needed <= config.in_memory_gib
    if config.detector is not None and not fits:
        problem = f"needs the images of {config.dataset} in memory, and they are more than in_memory_gib, "
        problem += f"{config.in_memory_gib:g}"
        remedy = f"give in_memory_gib {needed:.2g} or more, or leave the detector out"
        raise FaceflaxError("detector", config.detector, problem, remedy)
    return fits


def _shares(examples: data.Examples | data.Index, config: TrainConfig) -> Float64[np.ndarray, " n"]:
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


def _best(history: list[logs.Epoch]) -> int:
    """The row of the highest validation accuracy, the first of equals."""
    return int(np.argmax([row["validation_accuracy"] for row in history]))


def _stands_still(history: list[logs.Epoch], patience: int) -> bool:
    return bool(history) and len(history) - 1 - _best(history) >= patience


def _describe(row: logs.Epoch) -> str:
    return (
        f"train loss {row['train_loss']:.3f} accuracy {row['train_accuracy']:.1%}  "
        f"validation loss {row['validation_loss']:.3f} accuracy {row['validation_accuracy']:.2%}  "
        f"{row['images_per_second']:.0f} images/s"
    )


def _digest(*splits: data.Examples) -> str:
    """A digest of images and their labels, in their order."""
    hashed = hashlib.sha256()
    for split in splits:
        hashed.update(repr((split.names, split.images.shape)).encode())
        hashed.update(split.images.tobytes() + split.labels.tobytes())
        for name, (groups, members) in sorted(split.attributes.items()):
            hashed.update(repr((name, groups)).encode() + members.tobytes())
    return hashed.hexdigest()


def _check_same_run(folder: Path, config: TrainConfig, newest: Record | None) -> dict[str, Any]:
    """The settings as JSON has them; refuses to write over another run, or to resume it as a different one."""
    now = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    if newest is None:
        if config.resume and not (folder / "config.json").exists():
            raise FaceflaxError("resume", folder, "{} holds no run", "leave it out, or name the run as output")
        return now
    if not config.resume:
        problem, remedy = "holds an earlier run", "continue it with resume, or name another folder"
        raise FaceflaxError("output", folder, problem, remedy)
    before = newest.settings
    if before.keys() != now.keys() or before["augmentation"].keys() != now["augmentation"].keys():
        raise another_version(folder)
    flat_before, flat_now = (
        {**settings["augmentation"], **{name: value for name, value in settings.items() if name != "augmentation"}}
        for settings in (before, now)
    )
    for name in sorted(flat_now.keys() - set(FREE_TO_CHANGE)):
        lower = name == "learning_rate" and flat_now[name] < flat_before[name]
        if flat_before[name] != flat_now[name] and not lower:
            problem = f"differs from the run's {flat_before[name]!r} in {str(folder)!r}"
            raise FaceflaxError(
                name, flat_now[name], problem, "resume with the same, or start a run with another output"
            )
    return now


def _check_same_data(folder: Path, config: TrainConfig, run: Run, newest: Record) -> None:
    """Refuses to go on with other data, labels, soft labels, teachers or found faces than the run began with."""
    remedy = "put back what the run began with, or start another run as output"
    if newest.classes != list(run.names):
        problem = f"{{}} has the classes {', '.join(run.names)}; the run's are {', '.join(newest.classes)}"
        raise FaceflaxError("dataset", config.dataset, problem, remedy)
    for name in sorted(newest.fingerprint.keys() | run.fingerprint.keys()):
        if newest.fingerprint.get(name) != run.fingerprint.get(name):
            value = getattr(config, name)
            shown = ", ".join(value) if isinstance(value, tuple) else value
            problem = f"has changed since the run in {str(folder)!r} began: its contents are others"
            raise FaceflaxError(name, shown, problem, remedy)
