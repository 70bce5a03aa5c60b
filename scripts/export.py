"""The command ``faceflax export``, run from a clone."""

from faceflax.cli import run
from faceflax.cli.export import Options, main

if __name__ == "__main__":
    run(main, Options)
