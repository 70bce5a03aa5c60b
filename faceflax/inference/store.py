"""Compiled programs on disk, so that the next process starts without compiling anything."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax.tree_util import PyTreeDef

from faceflax import cache, native

KEPT = 128
"""Programs kept; the least recently written go first."""

Program = Callable[..., Any]
"""A compiled function of arrays."""

_log = logging.getLogger("faceflax")


def load(key: str) -> Program | None:
    """Returns the program saved under ``key``, or None where there is none that can be loaded.

    A file is the structure of the program's result and XLA's own form of the program: reading it unpickles nothing.
    """
    folder = cache.folder("programs")
    found = None if folder is None else cache.find(folder, _stem(key), ".program")
    if found is None:
        return None
    file, content = found
    try:
        from jaxlib import xla_client  # no public module: a release without it compiles again

        end = _LENGTH + int.from_bytes(content[:_LENGTH], "big")
        structure = PyTreeDef.deserialize_using_proto(jax.tree_util.default_registry, content[_LENGTH:end])
        devices = jax.devices()[:1]
        executable = devices[0].client.deserialize_executable(
            content[end:], executable_devices=xla_client.DeviceList(tuple(devices))
        )
        execute = executable.execute_sharded
    except Exception as error:  # a release that reads its own format no more: compile again
        _log.info("faceflax: the cached program %s is not usable (%s); compiling it again", file, error)
        return None

    def program(*arguments: Any) -> Any:
        placed = [jax.device_put(argument, devices[0]) for argument in arguments]
        results = execute(placed).disassemble_into_single_device_arrays()
        return structure.unflatten([shards[0] for shards in results])

    return program


def save(key: str, program: jax.stages.Compiled) -> None:
    """Keeps ``program``, a function of arrays for one device; where it cannot be kept, it is compiled again next time.

    It must have been compiled with ``keep_unused``, so that it takes all arguments.
    """
    folder = cache.folder("programs")
    if folder is None:
        return
    try:
        tree: Any = program.out_tree
        executable: Any = program.runtime_executable()
        structure = tree.serialize_using_proto()
        content = (
            len(structure).to_bytes(_LENGTH, "big") + structure + executable.client.serialize_executable(executable)
        )
        cache.keep(folder, _stem(key), ".program", content)
        for old in sorted(folder.glob("*.program"), key=lambda f: f.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    except Exception as error:  # a full disk, a read-only home, or a backend whose programs cannot be written
        _log.info("faceflax: a compiled program cannot be cached in %s (%s)", folder, error)


_LENGTH = 4


def _stem(key: str) -> str:
    return hashlib.sha256(f"{_environment()} {key}".encode()).hexdigest()[:32]


@functools.cache
def _environment() -> str:
    """All that a program depends on beside its own key: this package's code, JAX, the device and the processor."""
    package = hashlib.sha256()
    root = Path(__file__).parents[1]
    for file in sorted([*root.rglob("*.py"), *root.rglob("*.cc"), *root.rglob("*.h")]):
        package.update(file.read_bytes())
    device = jax.devices()[0]
    if native.available():
        native.register("float32")  # a stored program may call the kernels
    flags = os.environ.get("XLA_FLAGS", "")
    return repr(
        (
            package.hexdigest(),
            jax.__version__,
            jaxlib.__version__,
            device.platform,
            device.device_kind,
            jax.device_count(),
            native.processor(),
            native.status(),
            os.cpu_count(),
            flags,
            [getattr(jax.config, name) for name in ("jax_enable_x64", "jax_default_matmul_precision")],
            jax.config.read("jax_disable_most_optimizations"),  # which is no attribute
        )
    )
