"""The command ``faceflax analyze``, run from a clone."""

from faceflax.cli import run
from faceflax.cli.analyze import Options, main

if __name__ == "__main__":
    run(main, Options)
