"""Several devices and machines: where a training's arrays lie on them, and what its processes agree on."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from faceflax.errors import FaceflaxError, said
from faceflax.models.blocks import plainly
from faceflax.training.config import TrainConfig

_log = logging.getLogger("faceflax")

AXIS = "batch"
"""The mesh's only axis: parameters are on all devices, and each device has its share of a batch."""
HEARTBEAT_SECONDS = 20
"""After so long without a sign of a process the others end."""
SPEAK_SECONDS = 2
"""How long who connects to the first process has to say which one it is; a process of the training does at once."""


class Devices:
    """What a training runs on: by default the first device alone.

    Args:
        devices: of all processes, in the same order in each.

    Example:
        >>> import jax.numpy as jnp
        >>> devices = Devices(jax.devices())
        >>> devices.everywhere({"weights": np.ones(3)})["weights"] + 1
        Array([2., 2., 2.], dtype=float32)
    """

    def __init__(self, devices: Sequence[jax.Device] | None = None) -> None:
        self._devices = list(devices or jax.local_devices()[:1])
        self._mesh = Mesh(np.array(self._devices), (AXIS,))
        self.first = jax.process_index() == 0
        """Whether this process writes the run's files."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._devices)

    @property
    def processes(self) -> int:
        """How many processes they belong to."""
        return len({device.process_index for device in self._devices})

    def _sharding(self, *axes: str | None) -> Sharding:
        # A mesh of one device would be another kind of place than that of arrays made without it.
        if self.count == 1:
            return SingleDeviceSharding(self._devices[0])
        return NamedSharding(self._mesh, PartitionSpec(*axes))

    @property
    def replicated(self) -> Sharding:
        """Of arrays that are whole on each device."""
        return self._sharding()

    @property
    def divided(self) -> Sharding:
        """Of arrays whose first axis is divided."""
        return self._sharding(AXIS)

    def everywhere(self, tree: Any) -> Any:
        """Puts whole arrays, which are the same in each process, on each device."""
        return jax.tree.map(lambda array: self._put(array, self.replicated), tree)

    def batches(self, array: np.ndarray) -> jax.Array:
        """Puts ``[steps, batch]`` on the devices, with the second axis divided."""
        return self._put(array, self._sharding(None, AXIS))

    def columns(self, count: int) -> slice:
        """Which of the ``count`` images of a batch are on this process's devices."""
        parts = self.divided.addressable_devices_indices_map((count,)).values()
        bounds = [part[0].indices(count) for part in parts if part is not None]
        return slice(min(first for first, _, _ in bounds), max(last for _, last, _ in bounds))

    def divide(self, part: np.ndarray, count: int) -> jax.Array:
        """Puts a batch of ``count`` on the devices, of which this process gives its :meth:`columns`."""
        if self.count == 1:
            return jax.device_put(part, self.divided)
        first = self.columns(count).start

        def of(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(count)
            return part[start - first : stop - first]

        return jax.make_array_from_callback((count, *part.shape[1:]), self.divided, of)

    def _put(self, array: Any, sharding: Sharding) -> jax.Array:
        if self.count == 1:
            return jax.device_put(array, sharding)
        whole = np.asarray(array)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    @contextmanager
    def forms(self) -> Iterator[None]:
        """While it lasts, what is traced can be divided: the C++ kernels, which cannot, are for one device."""
        with plainly() if self.count > 1 else nullcontext():
            yield

    def agree(self, number: int | None) -> int | None:
        """Returns the first process's number in all of them."""
        if self.processes == 1:
            return number
        agreed = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if number is None else number)))
        return None if agreed < 0 else agreed

    def asked_to_end(self, step: int) -> bool:
        """Whether one of several processes was sent SIGTERM; true in all of them before the same step."""
        return self.processes > 1 and multihost_utils.reached_preemption_sync_point(step)


def start(config: TrainConfig) -> Devices:
    """Joins the processes of the training and returns all their devices; before JAX computes anything.

    Raises:
        FaceflaxError: the coordinator does not answer, or the numbers of processes or devices do not fit.
    """
    if config.coordinator is not None or config.cluster:
        if config.coordinator is not None:
            _gather(config)
        try:
            jax.distributed.initialize(
                coordinator_address=config.coordinator,
                num_processes=config.processes,
                process_id=config.process,
                initialization_timeout=max(config.join_seconds, 10),
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            )
        except (RuntimeError, ValueError) as error:
            field = "cluster" if config.coordinator is None else "coordinator"
            remedy = "give coordinator, processes and process" if config.coordinator is None else "start all again"
            value = config.coordinator
            raise FaceflaxError(field, value, f"the processes did not come together ({said(error)})", remedy) from None
    found = jax.devices()
    if config.devices is not None and config.devices > len(found):
        raise FaceflaxError("devices", config.devices, f"is more than there are here, which is {len(found)}")
    if config.devices is not None and jax.process_count() > 1:
        raise FaceflaxError("devices", config.devices, "is for one process", "leave it out: all are used")
    devices = Devices(found[: config.devices])
    if config.batch_size % devices.count:
        problem = f"cannot be divided among {devices.count} devices"
        raise FaceflaxError("batch_size", config.batch_size, problem, "give a multiple, or fewer devices")
    return devices


def _gather(config: TrainConfig) -> None:
    """Waits until all processes are there: JAX itself ends a process that waits in vain without an exception.

    Each of the others tells the first its number and of how many it is, and is told to go on.
    """
    assert config.coordinator is not None
    host, _, port = config.coordinator.rpartition(":")
    deadline = time.monotonic() + config.join_seconds

    def left() -> float:
        return max(0.01, deadline - time.monotonic())

    if config.process == 0:
        missing, there = set(range(1, config.processes or 1)), []
        try:
            server = socket.create_server(("", int(port)))
        except OSError as error:
            problem = f"the first process cannot listen at {{}} ({said(error)})"
            raise FaceflaxError("coordinator", config.coordinator, problem, "give a free port") from None
        with ExitStack() as stack:
            stack.enter_context(server)
            while missing:
                server.settimeout(left())
                try:
                    connection = stack.enter_context(server.accept()[0])
                except TimeoutError:
                    problem = f"{{}} were to come together in {config.join_seconds} s, and these did not: "
                    problem += ", ".join(map(str, sorted(missing)))
                    raise FaceflaxError("processes", config.processes, problem, "start them all") from None
                try:
                    connection.settimeout(min(left(), SPEAK_SECONDS))
                    number, count = map(int, connection.recv(64).split())
                except (OSError, ValueError):  # somebody else, who says nothing or something else
                    connection.close()
                    continue
                if count != config.processes or number not in missing:
                    problem = f"is not what process {number} was told, which is {count}"
                    if count == config.processes:
                        problem = f"are to be, and two of them have the number {number}"
                    raise FaceflaxError(
                        "processes", config.processes, problem, "give each the same, and its own number"
                    )
                missing.remove(number)
                there.append(connection)
            for connection in there:
                connection.sendall(b"go")
        return
    reason = "no answer"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=left()) as connection:
                connection.sendall(f"{config.process} {config.processes}".encode())
                connection.settimeout(left())
                if connection.recv(2) == b"go":
                    return
            reason = "it ended; see its message"
        except OSError as error:
            reason = said(error)
            time.sleep(0.2)
    problem = f"cannot be reached in {config.join_seconds} s ({reason})"
    raise FaceflaxError("coordinator", config.coordinator, problem, "start the first process, and name its place")


_STATUS = re.compile("UNKNOWN|UNAVAILABLE|DEADLINE_EXCEEDED|INTERNAL|ABORTED|CANCELLED")
"""How XLA's errors begin where a process cannot be reached; they come as one of several exceptions."""


@contextmanager
def ending_together(devices: Devices) -> Iterator[None]:
    """Ends this process at once, with a message, where it or another one of several has failed.

    Nothing in order is possible then: JAX's own exit would wait for the others, and they for this one.
    """
    try:
        yield
    except Exception as error:
        if devices.processes == 1:
            raise
        if isinstance(error, FaceflaxError):
            _log.error("error: %s", error)
        elif _STATUS.match(str(error)):
            _log.error(
                "error: process %d cannot reach another process of this training (%s); the checkpoints are whole: "
                "start all processes again with --resume",
                jax.process_index(),
                str(error).partition("\n")[0][:200],
            )
        else:
            traceback.print_exc()
        logging.shutdown()
        os._exit(2)
