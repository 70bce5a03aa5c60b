"""The batches of a set that does not stay in memory, on the devices just before their steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
from jaxtyping import Array, Float, UInt8

from faceflax import data
from faceflax.data.streaming import Plan, read_ahead
from faceflax.training.devices import Devices


class Feed:
    """Gives a training its batches, and its validation, in the order of a plan, wherever it begins.

    Args:
        plan: of the training; its columns are those of ``devices``.
        train: the training split.
        validation: the other.
        targets: the distributions of the training images.
        devices: where the batches go.
        readers: how many processes read and decode them; 0 is none but this.

    Attributes:
        waited: seconds in which no batch was ready.
    """

    def __init__(
        self,
        plan: Plan,
        train: data.Index,
        validation: data.Index,
        targets: Float[np.ndarray, "n classes"],
        devices: Devices,
        readers: int,
    ) -> None:
        self._plan, self._targets, self._labels = plan, targets, validation.labels
        self._splits = train.images, validation.images
        self._devices, self._readers = devices, readers
        self._open = ExitStack()
        self._images: Iterator[UInt8[np.ndarray, "rows size size 1"]] = iter(())
        self._next = -1
        self.waited = 0.0

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._images = iter(())
        self._open.close()

    def steps(self, epoch: int, first: int) -> Iterator[tuple[Array, Array, None]]:
        """Yields what each step takes.

        Args:
            epoch: its number, from 1.
            first: the step of the epoch to begin with, from 0.
        """
        size = self._plan.batch_size
        for number in range(first, self._plan.steps):
            rows, images = self._read((epoch - 1) * self._plan.batches + number)
            yield self._devices.divide(images, size), self._devices.divide(self._targets[rows], size), None

    def validation(self, epoch: int) -> Iterator[tuple[Array, Array]]:
        """Yields the images and labels of the validation split, after the steps of the epoch."""
        for number in range(self._plan.steps, self._plan.batches):
            rows, images = self._read((epoch - 1) * self._plan.batches + number)
            yield self._devices.everywhere((images, self._labels[rows]))

    def _read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows and the images of a batch; those after it are being read meanwhile."""
        if number != self._next:
            self.__exit__()
            ahead = read_ahead(self._plan, self._splits, readers=self._readers, first=number)
            self._images = self._open.enter_context(ahead)
        self._next = number + 1
        begin = time.perf_counter()
        images = next(self._images)
        self.waited += time.perf_counter() - begin
        return self._plan[number][1], images
