"""Finds, builds, verifies and loads the kernels' shared library. Imports neither JAX nor anything slow.

Where it comes from, in this order: the package itself (a wheel brings it, with code for several instruction sets, one
of which the library chooses at run time); the user's cache; a C++ compiler, which makes it for this machine alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from faceflax import cache
from faceflax.errors import FaceflaxError, said

SOURCES = Path(__file__).with_name("src")
PACKAGED = Path(__file__).with_name("faceflax_kernels.so")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fPIC", "-fvisibility=hidden", "-pthread")
COMMON = {"float32": ("ffi", "network", "detector", "dispatch", "parallel"), "float64": ("ffi", "dispatch", "parallel")}
"""What is compiled for any processor, of each type. float64 is for the tests, and has no networks."""

_log = logging.getLogger("faceflax")


class Unavailable(Exception):
    """There is no library; the message says why."""


def available() -> bool:
    """Whether the float32 kernels can be used; where the package has no library, the first call compiles one.

    Raises:
        FaceflaxError: ``FACEFLAX_NATIVE`` demands them and they cannot be used, or ``FACEFLAX_ISA`` names an
            instruction set that is not there.
    """
    return problem("float32") is None


def status() -> str:
    """One line: which engine computes the networks on the CPU, and why."""
    why = problem("float32")
    return f"native kernels ({load('float32').faceflax_selected().decode()})" if why is None else f"XLA ({why})"


@functools.cache
def tiles() -> bool:
    """Whether convolutions can multiply bfloat16 numbers on the processor's matrix tiles (AMX)."""
    return available() and bool(load("float32").faceflax_tiles())


@functools.cache
def problem(dtype: str) -> str | None:
    """Loads the library for one type; returns why that is impossible, or None."""
    wanted = os.environ.get("FACEFLAX_NATIVE", "")
    if wanted not in ("", "0", "1", "build"):
        raise FaceflaxError(
            "FACEFLAX_NATIVE",
            wanted,
            "is unknown",
            "give 0 (never), 1 (always), build (compile them here), or unset it",
        )
    if wanted == "0":
        return "FACEFLAX_NATIVE=0"
    try:
        load(dtype)
    except Unavailable as error:
        if wanted == "1":
            raise FaceflaxError("FACEFLAX_NATIVE", None, f"1 demands the native kernels, but {error}") from None
        _log.warning("faceflax: the networks run in their XLA form, two to three times slower on a CPU: %s", error)
        return str(error)
    return None


@functools.cache
def load(dtype: str) -> ctypes.CDLL:
    """Returns the library for one type, its instruction set chosen.

    Raises:
        Unavailable: there is none, and none can be built.
        FaceflaxError: ``FACEFLAX_ISA`` names an instruction set that is not there.
    """
    library = _packaged() if dtype == "float32" and os.environ.get("FACEFLAX_NATIVE") != "build" else None
    library = library or _cached(dtype) or _compiled(dtype)
    if dtype == "float32":
        for name in ("faceflax_problem", "faceflax_selected"):
            getattr(library, name).restype = ctypes.c_char_p
        isa = os.environ.get("FACEFLAX_ISA", "")
        if library.faceflax_select(isa.encode()) != 0:
            error = problem_of(library)
            raise error if isa else Unavailable(str(error))
    return library


def problem_of(library: ctypes.CDLL) -> FaceflaxError:
    """Returns the error of the calling thread's last call, whose text in C++ is ``field: problem; remedy``."""
    field, _, problem = library.faceflax_problem().decode().partition(": ")
    return FaceflaxError(field, None, problem)


@functools.cache
def digest() -> str:
    """The hash of the sources, as the build writes it into a library: with another one its functions may differ."""
    listing = ""
    for file in sorted(SOURCES.iterdir()):
        if file.suffix in (".h", ".cc"):
            listing += f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n"
    return hashlib.sha256(listing.encode()).hexdigest()


def _packaged() -> ctypes.CDLL | None:
    """The library that came with the package, if there is one and it fits this code."""
    if not PACKAGED.exists():
        return None
    try:
        library = ctypes.CDLL(str(PACKAGED))
        library.faceflax_sources.restype = ctypes.c_char_p
        if library.faceflax_sources() == digest().encode():
            return library
        _log.info("faceflax: %s is not of this package's sources and is left alone; reinstall faceflax", PACKAGED)
    except (OSError, AttributeError) as error:
        _log.info("faceflax: the packaged kernels cannot be loaded (%s); compiling them on this machine", error)
    return None


def _cached(dtype: str) -> ctypes.CDLL | None:
    """The library that was compiled earlier, if it is whole: loading a truncated one could end the process."""
    folder = cache.folder()
    found = None if folder is None else cache.find(folder, _prefix(dtype), ".so")
    try:
        return None if found is None else ctypes.CDLL(str(found[0]))
    except OSError as error:
        _log.info("faceflax: the cached kernels cannot be loaded (%s) and are compiled again", error)
        return None


def _compiled(dtype: str) -> ctypes.CDLL:
    """Compiles the library and keeps it in the cache, its hash in its name; else uses it in this process alone."""
    _compiler()  # before anything is said
    _log.warning("faceflax: compiling the CPU kernels for this machine, once (some ten seconds)")
    try:
        with tempfile.TemporaryDirectory(prefix="faceflax-") as scratch:  # the user's alone
            made = build(Path(scratch), dtype)
            folder = cache.folder()
            if folder is not None:
                try:
                    return ctypes.CDLL(str(cache.keep(folder, _prefix(dtype), ".so", made.read_bytes())))
                except OSError as error:
                    _log.info("faceflax: the kernels cannot be cached (%s)", error)
            _log.info("faceflax: the next process compiles the kernels again")
            return ctypes.CDLL(str(made))
    except OSError as error:
        raise Unavailable(f"the kernels cannot be built or loaded: {said(error)}") from None


def build(folder: Path, dtype: str) -> Path:
    """Compiles the library for this machine into ``folder`` and returns it.

    Args:
        folder: where the object files go too.
        dtype: float32 or float64.

    Raises:
        Unavailable: there is no compiler, or it fails.
    """
    compiler = _compiler()
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable("jaxlib, which has the headers to compile with, is not installed")
    options = [*FLAGS, *shlex.split(os.environ.get("CXXFLAGS", ""))]
    isa = _translation_unit()
    options += [f"-DFACEFLAX_HAS_{isa.removeprefix('isa_').upper()}", f'-DFACEFLAX_SOURCES="{digest()}"']
    options += ["-DDOUBLE"] if dtype == "float64" else []
    jobs = []
    for name in (*COMMON[dtype], isa):
        source = SOURCES / f"{name}.cc"
        first = source.read_text().partition("\n// FLAGS:")[2].partition("\n")[0]  # of an instruction set
        headers = ["-isystem", str(Path(spec.submodule_search_locations[0]) / "include")] if name == "ffi" else []
        command = [compiler, *options, *first.split(), *headers]
        command += ["-c", str(source), "-o", str(folder / f"{name}.o")]
        jobs.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    answers = [(job.communicate()[1], job.returncode) for job in jobs]
    for errors, code in answers:
        _check(compiler, code, errors)
    library = folder / "kernels.so"
    objects = [str(folder / f"{name}.o") for name in (*COMMON[dtype], isa)]
    done = subprocess.run(
        [compiler, *options, "-shared", *objects, "-o", str(library)], capture_output=True, text=True, check=False
    )
    _check(compiler, done.returncode, done.stderr)
    return library


def _check(compiler: str, code: int, errors: str) -> None:
    if code != 0:
        lines = [line for line in errors.splitlines() if "error" in line]
        first = lines[0] if lines else errors[:200].strip() or f"exit status {code}"
        raise Unavailable(f"{compiler} could not compile the kernels: {first}")


def _translation_unit() -> str:
    """The source of the instruction set to compile: all that this machine has, or the one asked for."""
    name = f"isa_{os.environ.get('FACEFLAX_ISA', '').replace('.', '')}"
    known = {file.stem for file in SOURCES.glob("isa_*.cc")} - {"isa_native"}
    return name if name in known else "isa_native"


def _prefix(dtype: str) -> str:
    """Names a library by all that it depends on, so that versions and machines can share a cache."""
    flags = (FLAGS, os.environ.get("CXXFLAGS", ""), os.environ.get("CXX", ""), _translation_unit())
    versions = tuple(_version(name) for name in ("jaxlib",))
    key = hashlib.sha256(repr((digest(), flags, versions, platform.machine(), processor())).encode())
    return f"kernels-{dtype}-{key.hexdigest()[:16]}"


def _version(package: str) -> str:
    import importlib.metadata  # slow, and not needed for a packaged library

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return ""


def _compiler() -> str:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    raise Unavailable(f"no C++ compiler ({', '.join(names)}) is installed; g++ or clang++ will do")


@functools.cache
def processor() -> str:
    """What ``-march=native`` depends on, so that a home folder shared by machines keeps one library for each kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
