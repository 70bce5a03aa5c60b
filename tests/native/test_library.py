"""Where the kernels' library comes from, and which instruction set it uses."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from faceflax.native import library

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
STATUS = "from faceflax import native; print(native.available(), native.status())"
SETS = ("sse4.2", "avx2", "avx512", "amx", "neon")

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler")


def run(code, **environment):
    environment = {"FACEFLAX_NATIVE": "build", "CXXFLAGS": "-O0", **environment}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={name: value for name, value in {**os.environ, **environment}.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_without_a_compiler_one_line_is_logged_and_xla_takes_over(tmp_path):
    done = run(STATUS, CXX="no-such-compiler", FACEFLAX_CACHE_DIR=str(tmp_path))
    assert done.stdout.startswith("False XLA (no C++ compiler (no-such-compiler)")
    assert done.stderr.count("\n") == 1
    assert "three times slower" in done.stderr


def test_a_compiler_that_fails_is_named(tmp_path):
    done = run(STATUS, CXX="false", FACEFLAX_CACHE_DIR=str(tmp_path))
    assert "could not compile the kernels" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_environment_can_demand_or_refuse_the_kernels(tmp_path):
    assert run(STATUS, FACEFLAX_NATIVE="0").stdout == "False XLA (FACEFLAX_NATIVE=0)\n"
    assert "FACEFLAX_NATIVE: 'yes' is unknown" in run(STATUS, FACEFLAX_NATIVE="yes").stderr
    if not library.PACKAGED.exists():
        refused = run(STATUS, FACEFLAX_NATIVE="1", CXX="no-such-compiler", FACEFLAX_CACHE_DIR=str(tmp_path))
        assert "FaceflaxError: FACEFLAX_NATIVE: 1 demands the native kernels, but no C++ compiler" in refused.stderr


@pytest.mark.slow
@needs_compiler
def test_a_library_is_built_once_and_again_when_it_is_damaged(tmp_path):
    def start():
        done = run(STATUS, FACEFLAX_CACHE_DIR=str(tmp_path))
        assert done.stdout.startswith("True native kernels ("), done.stderr
        (file,) = tmp_path.iterdir()
        return file, file.stat().st_mtime_ns, len(done.stderr.splitlines())

    file, made, said = start()
    assert said == 1  # what the user waits for
    assert start() == (file, made, 0)
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b""):  # loading the first would end the process
        file.write_bytes(damaged)
        again, _, said = start()
        assert (again, again.read_bytes(), said) == (file, whole, 2)
    file.chmod(0o666)  # as if others had planted it
    again, _, said = start()
    assert (again.stat().st_mode & 0o777, said) == (0o600, 2)


@pytest.mark.slow
@needs_compiler
def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    done = run(STATUS, FACEFLAX_CACHE_DIR=str(blocked / "folder"))
    assert done.stdout.startswith("True native kernels ("), done.stderr
    assert done.stderr == "faceflax: compiling the CPU kernels for this machine, once (some ten seconds)\n"


@needs_compiler
@pytest.mark.parametrize("name", ["avx1024", "AVX2"])
def test_an_unknown_instruction_set_is_named(name, tmp_path):
    done = run(STATUS, FACEFLAX_ISA=name, FACEFLAX_NATIVE="", CXXFLAGS=None)
    assert re.search(
        f"FaceflaxError: FACEFLAX_ISA: '{name}' is unknown; give one of: .*, or leave it unset", done.stderr
    )


def usable():
    """The sets that this processor has, by what Linux says of it."""
    try:
        known = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    if platform.machine() == "aarch64":
        return ["neon"]
    needs = {
        "sse4.2": {"sse4_2", "popcnt"},
        "avx2": {"avx2", "fma"},
        "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
        "amx": {"amx_tile", "amx_bf16", "avx512_bf16"},
    }
    return [name for name, flags in needs.items() if flags <= known]


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", SETS)
def test_an_instruction_set_computes_the_same(name):
    """All tests of the kernels once more, or a refusal where the processor lacks the set."""
    if not usable():
        pytest.skip("this system does not say what the processor has")
    if name not in usable():
        done = run(STATUS, FACEFLAX_ISA=name, FACEFLAX_NATIVE="", CXXFLAGS=None)
        assert f"FaceflaxError: FACEFLAX_ISA: '{name}' is not in this processor" in done.stderr
        return
    files = [str(HERE / "test_native.py"), str(HERE / "test_engine.py")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *files],
        cwd=ROOT,
        env={**os.environ, "FACEFLAX_ISA": name},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm to list symbols with")
@pytest.mark.parametrize("unit", sorted(file.stem for file in library.SOURCES.glob("isa_*.cc")))
def test_the_linker_sees_no_function_of_an_instruction_set(unit, tmp_path):
    """Else it could keep the copy of an inline function that was compiled for AVX-512, for all processors."""
    source = library.SOURCES / f"{unit}.cc"
    flags = source.read_text().partition("// FLAGS:")[2].partition("\n")[0].split()
    compiler = library._compiler()
    if subprocess.run([compiler, *flags, "-E", "-x", "c++", os.devnull], capture_output=True).returncode != 0:
        pytest.skip(f"{compiler} does not know {flags}")
    made = tmp_path / "unit.o"
    subprocess.run([compiler, *library.FLAGS, *flags, "-O1", "-c", str(source), "-o", str(made)], check=True)
    listing = subprocess.check_output(["nm", "--defined-only", "--extern-only", "-C", str(made)], text=True)
    names = [line.split(maxsplit=2)[1:] for line in listing.splitlines()]
    assert len([name for kind, name in names if kind != "V"]) == 1, listing  # its table; V: what unwinding needs
    assert all(kind in "DRVB" for kind, _ in names), listing
