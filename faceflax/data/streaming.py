"""What a training reads of sets that do not stay in memory: which images when, and processes that read them ahead."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, parent_process, util
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int, UInt8

from faceflax.data.loading import Images
from faceflax.errors import FaceflaxError, needing_extras

VALIDATED_TOGETHER = 256
"""Images of a batch of validation."""
MOST_AHEAD, AHEAD_BYTES = 16, 2**27
"""Batches that each process reads ahead at the most, and bytes of them."""
SHARED = Path("/dev/shm")
"""Where Linux has the memory that processes share; it is small in many containers."""


def epoch_order(
    random: np.random.Generator, count: int, shares: Float64[np.ndarray, " n"] | None = None
) -> Int[np.ndarray, " n"]:
    """The order of an epoch: every image once or, with ``shares``, each drawn as often as they say.

    Args:
        random: the epoch's own.
        count: how many images there are.
        shares: of the draws; they sum to 1.

    Example:
        >>> sorted(epoch_order(np.random.default_rng([0, 1]), 4).tolist())
        [0, 1, 2, 3]
    """
    order = random.permutation(count)
    return order if shares is None else random.choice(count, count, p=shares)


@dataclass
class Plan:
    """All that a training reads, batch by batch: an epoch's steps, then its validation, epoch by epoch.

    It depends on the seed alone, so the number of a batch is all that is to be known to go on with it.

    Attributes:
        seed: of the training.
        epochs: at the most.
        count: of the training images.
        validated: of the validation images.
        batch_size: of a step's images in all processes.
        columns: those of them that this process reads.
        shares: how often each training image is drawn, if not once.

    Example:
        >>> plan = Plan(seed=0, epochs=2, count=6, validated=3, batch_size=2, columns=slice(0, 2))
        >>> len(plan), [len(plan[number][1]) for number in range(4)], plan[3]
        (8, [2, 2, 2, 3], (1, array([0, 1, 2])))
    """

    seed: int
    epochs: int
    count: int
    validated: int
    batch_size: int
    columns: slice
    shares: Float64[np.ndarray, " n"] | None = None
    _order: tuple[int, Int[np.ndarray, " n"]] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return self.count // self.batch_size

    @property
    def batches(self) -> int:
        """Of an epoch, those of validation too."""
        return self.steps - (-self.validated // VALIDATED_TOGETHER)

    def __len__(self) -> int:
        return self.epochs * self.batches

    def __getitem__(self, number: int) -> tuple[int, Int[np.ndarray, " rows"]]:
        """Returns 0 for training and 1 for validation, and the rows that the batch is made of."""
        epoch, i = divmod(number, self.batches)
        if i >= self.steps:
            first = (i - self.steps) * VALIDATED_TOGETHER
            return 1, np.arange(first, min(first + VALIDATED_TOGETHER, self.validated))
        kept = self._order  # another thread, which is already in the next epoch, may put its own there
        if kept is None or kept[0] != epoch:
            random = np.random.default_rng([self.seed, epoch + 1])
            self._order = kept = epoch, epoch_order(random, self.count, self.shares)
        rows = kept[1][i * self.batch_size : (i + 1) * self.batch_size]
        return 0, rows[self.columns]


@dataclass(frozen=True)
class _Read:
    """Reads what a plan says: for Grain, which sends it to each process."""

    splits: Sequence[Images]

    def __call__(self, batch: tuple[int, Int[np.ndarray, " rows"]]) -> UInt8[np.ndarray, "rows size size 1"]:
        split, rows = batch
        return self.splits[split][rows]


def default_readers() -> int:
    """How many processes read, if nothing else is said: one for each two processors, 16 at the most."""
    return min(max(1, (os.cpu_count() or 1) // 2), 16)


@contextmanager
def read_ahead(
    plan: Plan, splits: Sequence[Images], *, readers: int, first: int = 0
) -> Iterator[Iterator[UInt8[np.ndarray, "rows size size 1"]]]:
    """Yields an iterator over the images of each batch of a plan, which processes of their own read and decode.

    What it gives does not depend on how many they are. They end with the block, or when this process is killed.

    Args:
        plan: which images.
        splits: where the training and the validation images are.
        readers: processes; 0 reads in this one.
        first: the number of the batch to begin with.

    Raises:
        FaceflaxError: a record is damaged, or a process was killed.
    """
    with needing_extras():
        import grain
        from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain's processes ask for flags of its own, which nobody gives here
        flags.FLAGS.mark_as_parsed()
    # One thread, which holds one batch: what is read ahead is read by processes.
    batches = grain.MapDataset.source(plan).slice(slice(first, None)).map(_Read(splits))
    read = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    if readers:
        options = grain.MultiprocessingOptions(readers, _ahead(plan, splits[0], readers))
        read = read.mp_prefetch(options, worker_init_fn=_begin)
    iterator = iter(read)
    images = _checked(iterator, readers)
    try:
        yield images
    finally:
        images.close()
        iterator.close()
        del images, iterator, read, batches
        gc.collect()  # they refer to each other, and to the last batches, whose shared memory is to be free


def _ahead(plan: Plan, images: Images, readers: int) -> int:
    """How many batches each process may read ahead.

    Raises:
        FaceflaxError: there is no room for the least.
    """
    size = images.size**2 * max(len(range(plan.batch_size)[plan.columns]), min(VALIDATED_TOGETHER, plan.validated))
    # Each holds twice as many: as many again are on their way, and one is being read and one used.
    ahead = min(max(AHEAD_BYTES // (2 * size) - 1, 1), MOST_AHEAD)
    if not SHARED.is_dir():
        return ahead
    room = shutil.disk_usage(SHARED).free // (2 * size * readers) - 1
    if room < 1:
        problem = f"need {4 * size * readers / 2**20:,.0f} MiB of shared memory, more than there is in {SHARED}"
        raise FaceflaxError("readers", readers, problem, "give fewer, or smaller batches")
    return min(ahead, room)


def _checked(iterator: Iterator[np.ndarray], readers: int) -> Generator[np.ndarray, None, None]:
    """The same batches; a process that was killed becomes one sentence."""
    while True:
        try:
            yield np.array(next(iterator))  # a copy, so that the shared memory is free again
        except StopIteration:
            return
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            problem = "of the processes that read images was ended from outside, as when memory runs out"
            raise FaceflaxError("readers", readers, f"one of {{}} {problem}", "resume, with fewer") from error


def _begin(number: int, count: int) -> None:
    """What a reading process does first: it ends with the training, which alone answers signals."""
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    # After all that is in order at an end, because to clear Python's memory takes seconds.
    util.Finalize(None, os._exit, args=(0,), exitpriority=-100)


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
