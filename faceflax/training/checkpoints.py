"""A run's checkpoints: written in the background, whole or not at all, and verified when they are read."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from faceflax import files
from faceflax.errors import FaceflaxError, said
from faceflax.training.devices import Devices
from faceflax.training.run import Begun, Epoch
from faceflax.training.step import TrainState

_log = logging.getLogger("faceflax")

SUMS, RECORD, STATE = "SHA256SUMS", "run.json", "state"
"""What is in a checkpoint: the digests of the other files, as ``sha256sum`` writes them, the record and the state."""


@dataclass(frozen=True)
class Record:
    """What is known of a run when a checkpoint is made.

    Attributes:
        step: how many steps were made.
        history: the metrics of each finished epoch.
        begun: what the epoch that is under way has come to.
        settings: the run's configuration.
        classes: their names.
        fingerprint: digests of what the run is made from, by the setting that names it.
        best: the step at the end of the epoch of the highest validation accuracy, the first of equals; None before any.
    """

    step: int
    history: list[Epoch]
    begun: Begun
    settings: dict[str, Any]
    classes: list[str]
    fingerprint: dict[str, str]
    best: int | None


class Checkpoints:
    """The checkpoints in ``folder``, one folder each, named by its step: the newest ones and the best one.

    Args:
        folder: where they are; made if missing.
        keep: how many of the newest are kept.
        devices: of the training; of several processes the first alone writes.

    Example:
        >>> import tempfile
        >>> with Checkpoints(Path(tempfile.mkdtemp())) as checkpoints:
        ...     checkpoints.newest() is None
        True
    """

    def __init__(self, folder: Path, keep: int = 2, devices: Devices | None = None) -> None:
        self.folder = folder.resolve()
        self.devices = devices or Devices()
        self._keep = keep
        self._writing: Future[None] | None = None
        self._last: int | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        # Each process reads by itself, and one writes what all have: Orbax need not know of the others.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="one"
        )
        self._orbax = ocp.Checkpointer(
            ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._thread.shutdown()
            self._orbax.close()

    def steps(self) -> list[int]:
        """The steps of the checkpoints, the oldest first, damaged ones too."""
        if not self.folder.is_dir():
            return []
        return sorted(int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal() and entry.is_dir())

    def save(self, state: TrainState, record: Record) -> bool:
        """Copies ``state`` from the device and begins to write it; waits first for the one before.

        Returns:
            Whether all numbers are finite; otherwise nothing is written.

        Raises:
            FaceflaxError: the one before could not be written.
        """
        self.wait()
        if record.step != self._last:
            packed = _pack(state)
            if not all(np.isfinite(array).all() for array in packed[0].values()):
                return False
            if not self.devices.first:
                return True
            self._writing = self._thread.submit(self._write, packed, record)
            self._last = record.step
        return True

    def wait(self) -> None:
        """Waits until what is being written is there.

        Raises:
            FaceflaxError: it could not be written; the ones before are as they were.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def newest(self) -> Record | None:
        """Returns the record of the newest whole checkpoint, the same in all processes; see :meth:`_newest`."""
        found = self._newest() if self.devices.first else None
        return self._agreed(found)

    def _agreed(self, found: Record | None) -> Record | None:
        """The first process's record in all of them."""
        step = self.devices.agree(None if found is None else found.step)
        if step is None or self.devices.first:
            return found
        record = self._read_record(self.folder / str(step))
        if record is None:
            problem = "is not the first process's: its checkpoints are not in {}"
            raise FaceflaxError("output", self.folder.parent, problem, "name a folder that all processes share")
        return record

    def _newest(self) -> Record | None:
        """Returns the record of the newest whole checkpoint, or None if there is none at all.

        Damaged newer ones are named in a message and set aside as ``STEP.damaged``.

        Raises:
            FaceflaxError: all are damaged, or made by a version whose checkpoints were others.
        """
        steps = self.steps()
        for step in reversed(steps):
            place = self.folder / str(step)
            if (place / "history").exists():  # the layout before there were digests
                raise another_version(self.folder.parent)
            if (record := self._read_record(place)) is not None:
                self._last = step
                return record
            aside = place.with_name(f"{step}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            place.rename(aside)
            _log.warning("faceflax: the checkpoint of step %d is damaged and was set aside as %r", step, str(aside))
        if steps:
            problem = f"all checkpoints of the run in {{}} are damaged (steps {', '.join(map(str, steps))})"
            raise FaceflaxError("resume", self.folder.parent, problem, "start another run as output")
        return None

    def best(self) -> Record:
        """Returns the record of the best whole checkpoint at the end of an epoch, with a message if it was damaged.

        Raises:
            FaceflaxError: there is none.
        """
        self.wait()
        best = self._agreed(self._best() if self.devices.first else None)
        assert best is not None
        return best

    def _best(self) -> Record:
        records = [self._read_record(self.folder / str(step)) for step in self.steps()]
        ends = [record for record in records if record is not None and record.history and not record.begun.steps]
        if not ends:
            problem = "has no whole checkpoint of a finished epoch in it"
            raise FaceflaxError("output", self.folder.parent, problem, "start another run")
        found = max(ends, key=lambda record: (record.history[-1]["validation_accuracy"], -record.step))
        if found.step != ends[-1].best:
            message = "faceflax: the best epoch's checkpoint is damaged; the best whole one is of epoch %d"
            _log.warning(message, len(found.history))
        return found

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Returns the state of a checkpoint that :meth:`newest` or :meth:`best` has verified.

        Args:
            step: which.
            like: gives structure, shapes, types and devices.

        Raises:
            FaceflaxError: its arrays are not those of ``like``.
        """
        wanted = _layout(like)
        place = self.folder / str(step)
        if json.loads((place / RECORD).read_bytes())["layout"] != wanted:
            problem = "the run in {} has another network or optimizer than this version makes of its settings"
            raise FaceflaxError("resume", self.folder.parent, problem, "start another run as output")
        kinds = sorted({kind for _, kind, _ in wanted})
        how = ocp.args.PyTreeRestore(
            item={kind: 0 for kind in kinds},
            restore_args={kind: ocp.RestoreArgs(restore_type=np.ndarray) for kind in kinds},
        )
        packed = self._orbax.restore(place / STATE, args=how)
        leaves = []
        taken = dict.fromkeys(kinds, 0)
        for leaf, (_, kind, shape) in zip(jax.tree.leaves(like), wanted, strict=True):
            start, taken[kind] = taken[kind], taken[kind] + int(np.prod(shape, dtype=int))
            leaves.append(jax.device_put(packed[kind][start : taken[kind]].reshape(shape), leaf.sharding))
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _read_record(self, place: Path) -> Record | None:
        """The record of a checkpoint all of whose files are as they were written, or None."""
        try:
            if (place / SUMS).read_bytes() != _sums(place):
                return None
            stored = json.loads((place / RECORD).read_bytes())
        except OSError:
            return None
        try:
            del stored["layout"]
            return Record(**stored | {"begun": Begun(**stored["begun"])})
        except (KeyError, TypeError):
            raise another_version(self.folder.parent) from None

    def _write(self, packed: tuple[dict[str, np.ndarray], list[Any]], record: Record) -> None:
        arrays, layout = packed
        place = self.folder / f".{record.step}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(".*.partial"):  # of a process that was killed
                shutil.rmtree(left)
            if shutil.disk_usage(self.folder).free < sum(array.nbytes for array in arrays.values()) + _ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            place.mkdir()
            with _quietly():
                self._orbax.save(place / STATE, args=ocp.args.PyTreeSave(arrays))
            (place / RECORD).write_text(json.dumps(asdict(record) | {"layout": layout}, indent=1) + "\n")
            (place / SUMS).write_bytes(_sums(place))
            os.replace(place, self.folder / str(record.step))
            self._remove_old(record)
        except Exception as error:  # Orbax's storage raises almost anything for a full disk
            shutil.rmtree(place, ignore_errors=True)
            reason = "the disk is full" if files.is_full(error) else said(error)
            problem = f"cannot write the checkpoint of step {record.step} into {{}} ({reason})"
            kept = self.steps()
            remedy = f"make room, and resume from that of step {kept[-1]}" if kept else "make room"
            raise FaceflaxError("output", self.folder.parent, problem, remedy) from error

    def _remove_old(self, record: Record) -> None:
        steps = self.steps()
        for step in steps[: -self._keep]:
            if step != record.best:
                old = (self.folder / str(step)).rename(self.folder / f".{step}.partial")
                shutil.rmtree(old)


_ROOM = 2**16
"""Bytes of a checkpoint beside its arrays, at most."""


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps Orbax from logging, with a traceback, what it then raises."""
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def another_version(folder: Path) -> FaceflaxError:
    """Returns the error about a run whose checkpoints or settings are not this version's."""
    problem = "the run in {} was started by another version of faceflax, whose settings or checkpoints were others"
    return FaceflaxError("resume", folder, problem, "resume it with that version, or start another run as output")


def _sums(place: Path) -> bytes:
    """The digests of a checkpoint's files, as ``sha256sum`` writes them; they are small enough to be read whole."""
    inside = {file.relative_to(place).as_posix(): file for file in place.rglob("*") if file.is_file()}
    lines = [
        f"{hashlib.sha256(inside[name].read_bytes()).hexdigest()}  {name}\n" for name in sorted(inside) if name != SUMS
    ]
    return "".join(lines).encode()


def _layout(state: TrainState) -> list[Any]:
    """Name, type and shape of each array, in the order in which they are packed."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [[jax.tree_util.keystr(path), leaf.dtype.name, list(leaf.shape)] for path, leaf in leaves]


def _pack(state: TrainState) -> tuple[dict[str, np.ndarray], list[Any]]:
    """All arrays of a type one after another, copied from the device: Orbax is ten times slower with each by itself."""
    layout = _layout(state)
    leaves = [np.ravel(leaf) for leaf in jax.device_get(jax.tree.leaves(state))]
    kinds = {kind for _, kind, _ in layout}
    return {kind: np.concatenate([leaf for leaf in leaves if leaf.dtype.name == kind]) for kind in kinds}, layout
