"""The command ``faceflax demo``, run from a clone."""

from faceflax.cli import run
from faceflax.cli.demo import Options, main

if __name__ == "__main__":
    run(main, Options)
