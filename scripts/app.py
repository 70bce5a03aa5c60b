"""The command ``faceflax app``, run from a clone."""

from faceflax.cli import run
from faceflax.cli.app import Options, main

if __name__ == "__main__":
    run(main, Options)
