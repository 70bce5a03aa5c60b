"""What pytest leaves out where a package is not installed, and how the tests' programs are compiled."""

import os
from importlib.metadata import version
from importlib.util import find_spec

NEEDS = {
    "apache_beam": ["faceflax/batch/beam.py", "faceflax/data/beam.py", "faceflax/runners.py"],
    "gradio": ["faceflax/app/page.py"],
    "fastapi": ["faceflax/app/page.py", "faceflax/app/rest.py", "faceflax/app/server.py"],
    "uvicorn": ["faceflax/app/server.py"],
}

collect_ignore = [file for package, files in NEEDS.items() if not find_spec(package) for file in files]

# XLA ends the process at a flag that it does not know, so only the locked release is given these.
LOCKED = version("jaxlib").startswith("0.10.")
if LOCKED and "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def pytest_configure() -> None:
    """The tests run little and compile much: without LLVM's optimisation the suite takes half the time.

    On other releases, and so in ``make lowest``, programs are compiled as they are for users.
    """
    import jax

    jax.config.update("jax_disable_most_optimizations", LOCKED)
