"""Builds, finds and registers the kernels' shared library."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax
import jaxlib
import numpy as np

from faceflax import files
from faceflax.errors import FaceflaxError

SOURCE = Path(__file__).with_name("kernels.cc")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fPIC", "-shared")
DEFINES = {"float32": (), "float64": ("-DDOUBLE",)}
TARGETS = (
    "convolve",
    "convolve_gradient",
    "convolve_narrow",
    "convolve_gradient_narrow",
    "depthwise",
    "depthwise_gradient",
    "max_pool",
    "max_pool_gradient",
    "batch_norm",
    "batch_norm_gradient",
    "networks",
    "guided",
)

_log = logging.getLogger("faceflax")


def available() -> bool:
    """Whether the float32 kernels can be used; builds them on the first call of a machine (a few seconds).

    Raises:
        FaceflaxError: they cannot, and ``FACEFLAX_NATIVE=1`` demands them.
    """
    return _problem("float32") is None


@functools.cache
def tiles() -> bool:
    """Whether convolutions can multiply bfloat16 numbers on the processor's matrix tiles (AMX)."""
    return available() and bool(ctypes.CDLL(str(_build("float32"))).tiles())


def status() -> str:
    """One line: which engine computes the networks on the CPU, and why."""
    problem = _problem("float32")
    return "native kernels" if problem is None else f"XLA ({problem})"


@functools.cache
def _problem(dtype: str) -> str | None:
    """Registers the kernels for one type; returns why that is impossible, or None."""
    wanted = os.environ.get("FACEFLAX_NATIVE", "")
    if wanted not in ("", "0", "1"):
        raise FaceflaxError(f"FACEFLAX_NATIVE: {wanted!r} is unknown; give 0 (never), 1 (always), or leave it unset")
    if wanted == "0":
        return "FACEFLAX_NATIVE=0"
    try:
        library = ctypes.CDLL(str(_build(dtype)))
    except (_BuildError, OSError) as error:
        problem = str(error)
        if wanted == "1":
            raise FaceflaxError(f"FACEFLAX_NATIVE: 1 demands the native kernels, but {problem}") from None
        _log.warning("faceflax: the networks run in their XLA form, two to three times slower on a CPU: %s", problem)
        return problem
    for name in TARGETS:
        jax.ffi.register_ffi_target(target(name, dtype), jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return None


def register(dtype: np.dtype) -> None:
    """Makes the kernels for this type callable.

    Raises:
        FaceflaxError: they cannot be built.
    """
    problem = _problem(np.dtype(dtype).name)
    if problem is not None:
        raise FaceflaxError(f"native kernels for {np.dtype(dtype).name}: {problem}")


def target(name: str, dtype: str) -> str:
    """The name under which XLA knows a kernel."""
    return f"faceflax_{name}_{dtype}"


class _BuildError(Exception):
    """The library cannot be built; the message says why."""


def _build(dtype: str) -> Path:
    """Returns the library for one type, compiled if the cache lacks it."""
    compiler = _compiler()
    headers = Path(jax.ffi.include_dir())
    flags = (*FLAGS, *shlex.split(os.environ.get("CXXFLAGS", "")))
    key = hashlib.sha256(SOURCE.read_bytes())
    key.update(repr((dtype, flags, compiler, jaxlib.__version__, platform.machine(), processor())).encode())
    root = files.cache_folder()
    if root is None:
        raise _BuildError("there is no home folder to keep them in; set FACEFLAX_CACHE_DIR")
    file = root / f"kernels-{dtype}-{key.hexdigest()[:16]}.so"
    if file.exists():
        return file
    _log.info("faceflax: compiling the CPU kernels for this machine, once (a few seconds)")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            made = Path(scratch) / file.name
            options = [*flags, *DEFINES[dtype], "-isystem", str(headers)]
            done = subprocess.run([compiler, *options, str(SOURCE), "-o", str(made)], capture_output=True, text=True)
            if done.returncode != 0:
                first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
                raise _BuildError(f"{compiler} could not compile the kernels: {first}")
            os.replace(made, file)  # whole or not at all, whoever else is building
    except OSError as error:
        raise _BuildError(f"the kernels cannot be written to {str(file.parent)!r}: {error.strerror}") from None
    return file


def _compiler() -> str:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    raise _BuildError(f"no C++ compiler ({', '.join(names)}) is installed; g++ or clang++ will do")


@functools.cache
def processor() -> str:
    """What ``-march=native`` depends on, so that a home folder shared by machines keeps one library for each kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
