"""The kernels compiled with AddressSanitizer and UndefinedBehaviorSanitizer: any report ends the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faceflax.native import library

ROOT = Path(__file__).resolve().parents[2]
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -O1 -g"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """What a process must load first: AddressSanitizer's own library, and the one whose exceptions it watches."""
    try:
        compiler = library._compiler()
    except library.Unavailable as error:
        pytest.skip(str(error))
    empty = tmp_path_factory.mktemp("sanitizers") / "empty.cc"
    empty.write_text("int main() { return 0; }\n")
    command = [compiler, *FLAGS.split(), str(empty), "-o", str(empty.with_suffix(""))]
    if not sys.platform.startswith("linux") or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip(f"{compiler} has no sanitizers here")
    name = "libasan.so" if "clang" not in os.path.realpath(compiler) else "libclang_rt.asan.so"
    found = subprocess.check_output([compiler, f"-print-file-name={name}"], text=True).strip()
    if not os.path.isabs(found):
        pytest.skip(f"{compiler} has no {name}")
    standard = subprocess.check_output([compiler, "-print-file-name=libstdc++.so.6"], text=True).strip()
    return f"{found} {standard}"  # XLA throws; without the second, the first does not know how


def sanitized(arguments, runtime, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "LD_PRELOAD": runtime,
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own; the library frees with its networks
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",  # so that each array has a fence of its own
            "PYTHONPATH": str(ROOT),
            "FACEFLAX_NATIVE": "build",
            "CXXFLAGS": FLAGS,
            **environment,
        },
        capture_output=True,
        text=True,
    )


def test_the_sanitizers_are_at_work(runtime, tmp_path):
    """A network whose weights are shorter than it says: the copy into C++ reads beyond them."""
    code = (
        "import ctypes, numpy as np; from faceflax import native; from faceflax.native import engine\n"
        "library = native.library.load('float32'); few = (ctypes.c_float * 4)(); at = ctypes.addressof(few)\n"
        "made = engine._Layer(5, 0, 1, 3, 4000, 8, at, None, at, 288000, 0, 8)\n"
        "library.faceflax_create(ctypes.byref(made), ctypes.c_int64(1), ctypes.byref(ctypes.c_void_p()))\n"
    )
    done = sanitized(["-c", code], runtime)
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr


@pytest.mark.parametrize("isa", ["", "sse4.2"])
def test_networks(runtime, isa):
    if isa and "sse4_2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no SSE4.2")
    done = sanitized([str(Path(__file__).with_name("sanitized.py")), "60"], runtime, FACEFLAX_ISA=isa)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.startswith("60 networks")


def test_operations(runtime):
    """The tests of the operations that XLA calls."""
    tests = Path(__file__).with_name("test_native.py")
    chosen = "float32 and (convolution or depthwise or max_pool or batch_norm)"
    done = sanitized(["-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests), "-k", chosen], runtime)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
