"""What is in the cache runs only if it is this user's, closed to others, and what was written."""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from faceflax import cache, files
from faceflax.inference import store

ROOT = Path(__file__).resolve().parents[1]

posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners and modes on this system")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEFLAX_CACHE_DIR", str(tmp_path / "cache"))
    cache._refused.cache_clear()
    return cache.folder()


def test_what_is_kept_is_found(place):
    file = cache.keep(place, "stem", ".bin", b"content")
    assert cache.find(place, "stem", ".bin") == (file, b"content")
    assert cache.find(place, "other", ".bin") is None


@pytest.mark.parametrize("damaged", [b"", b"conten", b"content ", b"Content"])
def test_what_is_damaged_is_deleted_with_a_line(place, caplog, damaged):
    file = cache.keep(place, "stem", ".bin", b"content")
    file.write_bytes(damaged)
    assert cache.find(place, "stem", ".bin") is None
    assert not file.exists()
    assert [record.message for record in caplog.records] == [
        f"faceflax: {file} is not used and made again: it is damaged"
    ]


def link(file):
    file.rename(file.with_name("target"))
    file.symlink_to(file.with_name("target"))


def pipe(file):
    file.unlink()
    os.mkfifo(file)


PLANTED = {"world": lambda f: f.chmod(0o602), "group": lambda f: f.chmod(0o620), "link": link, "pipe": pipe}
if hasattr(os, "geteuid") and os.geteuid() == 0:
    PLANTED["owner"] = lambda file: os.chown(file, 65534, -1)


@posix
@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_what_others_could_have_planted_is_not_used(place, plant):
    file = cache.keep(place, "stem", ".bin", b"content")
    plant(file)
    assert cache.find(place, "stem", ".bin") is None
    assert not file.exists()
    assert cache.find(place, "stem", ".bin") is None
    assert cache.keep(place, "stem", ".bin", b"content") == file


@posix
@pytest.mark.parametrize("inner", ["", "programs"])
@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_that_others_can_write_is_refused_once_by_name(place, inner, mode, caplog):
    cache.folder("programs")
    (place / inner).chmod(mode)
    assert [cache.folder("programs"), cache.folder("programs")] == [None, None]
    (line,) = [record.message for record in caplog.records]
    assert str(place / inner) in line
    assert "chmod 700" in line
    assert list(place.rglob("*.program")) == []


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(place):
    os.chown(place, 65534, -1)
    assert cache.folder() is None


PROGRAM = """
import os
os.umask({umask})
import numpy as np
from faceflax.inference.compiled import BatchFunction
print(BatchFunction(lambda x: 2 * x, sizes=(1,), key="double")(np.full(1, 21, np.float32)))
"""


@posix
@pytest.mark.parametrize("umask", [0o000, 0o002])
def test_nothing_is_writable_by_others_whatever_the_umask(tmp_path, umask):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(umask=umask)],
        cwd=ROOT,
        env={**os.environ, "FACEFLAX_CACHE_DIR": str(tmp_path / "a" / "b"), "FACEFLAX_NATIVE": "0"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[42.]\n", done.stderr
    made = list(tmp_path.rglob("*"))
    assert len(made) == 4
    assert all(stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600) for path in made)


CROWD = """
import os
import traceback
import numpy as np
from faceflax.inference.compiled import BatchFunction

wait, go = os.pipe()
children = []
for number in range(20):
    child = os.fork()  # JAX is imported, and has not begun
    if child == 0:
        try:
            os.close(go)
            os.read(wait, 1)
            answer = BatchFunction(lambda x: 2 * x, sizes=(1,), key="double")(np.full(1, number, np.float32))
            os._exit(int(answer.tolist() != [2 * number]))
        except BaseException:
            traceback.print_exc()
            os._exit(2)
    children.append(child)
os.close(go)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


@posix
@pytest.mark.slow
def test_twenty_processes_that_find_the_cache_empty_at_once_all_answer_right(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CROWD],
        cwd=ROOT,
        env={**os.environ, "FACEFLAX_CACHE_DIR": str(tmp_path / "cache"), "FACEFLAX_NATIVE": "0"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{[0] * 20}\n", done.stderr
    assert "is not used" not in done.stderr
    assert {file.suffix for file in (tmp_path / "cache" / "programs").iterdir()} == {".program"}


@pytest.fixture
def double(place):
    rows = jax.ShapeDtypeStruct((3,), np.float32)
    store.save("double", jax.jit(lambda x: {"twice": 2 * x}, keep_unused=True).lower(rows).compile())
    (file,) = place.glob("programs/*")
    return file


def test_a_program_with_one_bit_changed_is_compiled_again(double):
    whole = double.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        double.write_bytes(damaged)
        assert store.load("double") is None
        double.write_bytes(whole)
        double.chmod(0o600)
    np.testing.assert_array_equal(store.load("double")(np.arange(3, dtype=np.float32))["twice"], [0, 2, 4])


class Planted:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle ran')",))


def test_a_pickle_with_the_right_hash_is_not_run(double):
    content = pickle.dumps(Planted())
    double.unlink()
    stem = double.name.partition("-")[0]
    cache.keep(double.parent, stem, ".program", content)
    cache.keep(double.parent, stem, ".program", hashlib.sha256(content).digest() + content)  # as 0.1.0 wrote it
    assert store.load("double") is None


def test_what_killed_processes_left_goes_and_what_is_being_written_stays(place):
    with files.replacing(place / "other.bin") as live:
        live.write_bytes(b"half")
        dead = place / live.name.replace(live.name.split("-")[1][:8], "0" * 8)
        dead.write_bytes(b"half")
        cache.keep(place, "stem", ".bin", b"content")
        assert live.exists()
        assert not dead.exists()
    assert (place / "other.bin").read_bytes() == b"half"
