"""The command ``faceflax prepare-data``, run from a clone."""

from faceflax.cli import run
from faceflax.cli.prepare_data import Options, main

if __name__ == "__main__":
    run(main, Options)
