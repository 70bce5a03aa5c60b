"""Apache Beam's runners, by name: needs the extra ``beam``."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from faceflax.errors import FaceflaxError, needing_extras

with needing_extras():
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import create_runner

RUNNERS = ("DirectRunner", "FlinkRunner", "SparkRunner", "DataflowRunner")
"""Those that the documentation has commands for; Beam knows more."""


def choose(runner: str, options: Sequence[str]) -> tuple[Any, Any]:
    """Returns Beam's runner of a name, and the options of a pipeline that it runs.

    Args:
        runner: such as ``FlinkRunner``.
        options: of the pipeline and the runner, as ``direct_num_workers=4``.

    Raises:
        FaceflaxError: an unknown runner.

    Example:
        >>> choose("DirectRunner", ["direct_num_workers=2"])[1].get_all_options()["direct_num_workers"]
        2
    """
    logging.getLogger("apache_beam").setLevel(logging.WARNING)  # it tells every step of its own
    flags = [f"--{option.removeprefix('--')}" for option in ("default_sdk_harness_log_level=WARNING", *options)]
    try:
        chosen = create_runner(runner)
    except (ValueError, ImportError, AttributeError):
        raise FaceflaxError("runner", runner, "unknown {}", f"choose one of: {', '.join(RUNNERS)}") from None
    return chosen, PipelineOptions(flags)


@contextmanager
def running(runner: str) -> Iterator[None]:
    """Words whatever a runner raises; what is found wrong before it runs is said as it is.

    Raises:
        FaceflaxError: the pipeline failed.
    """
    try:
        yield
    except FaceflaxError:
        raise
    except Exception as error:  # runners raise anything
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise FaceflaxError("runner", runner, f"{{}} failed ({lines[-1]})", "see what it has logged") from error
