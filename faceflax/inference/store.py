"""Compiled programs on disk, so that the next process starts without compiling anything."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import pickle
from pathlib import Path

import jax
import jaxlib
from jax.experimental import serialize_executable

from faceflax import files, native

KEPT = 128
"""Programs kept; the least recently written go first."""

_DIGEST = hashlib.sha256().digest_size

_log = logging.getLogger("faceflax")


def load(key: str) -> jax.stages.Compiled | None:
    """Returns the program saved under ``key``, or None where there is none that can be loaded."""
    file = _file(key)
    if file is None:
        return None
    try:
        content = file.read_bytes()
        digest, payload = content[:_DIGEST], content[_DIGEST:]
        if hashlib.sha256(payload).digest() != digest:  # a damaged program would end the process, or answer wrongly
            raise ValueError("its SHA-256 is not the one that was written")
        return serialize_executable.deserialize_and_load(*pickle.loads(payload))
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file, or a release that reads its own format no more: compile again
        _log.info("faceflax: the cached program %s is not usable (%s); compiling it again", file, error)
        return None


def save(key: str, program: jax.stages.Compiled) -> None:
    """Keeps ``program`` under ``key``; where it cannot be kept, the next process compiles it again."""
    file = _file(key)
    if file is None:
        return
    try:
        payload = pickle.dumps(serialize_executable.serialize(program))
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write(file, hashlib.sha256(payload).digest() + payload)
        for old in sorted(file.parent.glob("*.program"), key=lambda f: f.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    except Exception as error:  # a full disk, a read-only home, or a backend whose programs cannot be written
        _log.info("faceflax: a compiled program cannot be cached in %s (%s)", file.parent, error)


def _file(key: str) -> Path | None:
    root = files.cache_folder()
    if root is None:
        return None
    digest = hashlib.sha256(f"{_environment()} {key}".encode()).hexdigest()
    return root / "programs" / f"{digest[:32]}.program"


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
        )
    )
