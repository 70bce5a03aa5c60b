"""Caches that the tests share: many compile the same networks."""

import ctypes
import gc
import os
import runpy
import signal
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from faceflax import models, pretrained
from faceflax.labels import EMOTIONS, GENDERS

MAPS = Path("/proc/self/maps")
# Not the user's own; kept from run to run, being keyed by all that matters.
os.environ["FACEFLAX_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / "faceflax")
# Shells start background commands with Ctrl-C ignored, and children inherit that; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module")
def optimized():
    """For tests that compute much: with the optimisation that the others do without."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def room_for_programs():
    """Forgets compiled programs while there is room.

    Linux allows a process 65,530 memory maps and then ends it; and a machine may have 3 GB for each worker.
    """
    yield
    if not MAPS.exists():
        return
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    if pages * os.sysconf("SC_PAGESIZE") > room["bytes"] or MAPS.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
        gc.collect()
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # glibc keeps what is freed
        kept = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        room["bytes"] = max(room["bytes"], kept + 2**29)  # what else it holds is not forgotten test after test


room = {"bytes": 5 * 2**29}


@pytest.fixture
def refused(capfd, monkeypatch):
    """Runs ``python -m module arguments`` in this process: it must end with 2; returns its standard error."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module, *map(str, arguments)])
        capfd.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a module that the tests have imported
            with pytest.raises(SystemExit) as ended:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        assert ended.value.code == 2
        return capfd.readouterr().err

    return run


def random_variables(num_classes):
    """A network and variables drawn at random, running statistics included."""
    model = models.create("mini_xception", num_classes)
    rng = np.random.default_rng(num_classes)

    def draw(path, shape):
        positive = path[-1].key in ("scale", "var")
        return (rng.uniform(0.5, 1.5, shape.shape) if positive else rng.normal(0, 0.2, shape.shape)).astype(np.float32)

    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0), image_size=32))
    return model, jax.tree.map_with_path(draw, shapes)


@pytest.fixture(scope="session")
def network():
    return random_variables(7)


@pytest.fixture(scope="session")
def weights(tmp_path_factory, network):
    """Paths of an emotion and a gender file that differ in size, margin and temperature."""
    folder = tmp_path_factory.mktemp("weights")
    files = folder / "emotion.safetensors", folder / "gender.safetensors"
    common = {"arch": "mini_xception", "dataset": "none"}
    emotion = {"labels": EMOTIONS, "image_size": 32, "crop_margin": 0.0, "temperature": 1.5}
    gender = {"labels": GENDERS, "image_size": 40, "crop_margin": 0.3, "temperature": 0.5}
    pretrained.save(files[0], network[1], **common, **emotion)
    pretrained.save(files[1], random_variables(2)[1], **common, **gender)
    return files
