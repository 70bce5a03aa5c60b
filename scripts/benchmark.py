"""The comparison with other libraries, run from a clone; experiments/benchmarks/__init__.py says how it is made."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # experiments/ is not installed

from experiments.benchmarks.command import Options, main
from faceflax.cli import run

if __name__ == "__main__":
    run(main, Options)
