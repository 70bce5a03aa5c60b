"""Caches that the tests share: many compile the same networks."""

import os
import signal
from pathlib import Path

import jax
import pytest

# Not the user's own; kept from run to run, being keyed by all that matters.
os.environ["FACEFLAX_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / "faceflax")
# Shells start background commands with Ctrl-C ignored, and children inherit that; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_numpy_rank_promotion", "raise")
