"""The command ``faceflax evaluate``, run from a clone."""

from faceflax.cli import run
from faceflax.cli.evaluate import Options, main

if __name__ == "__main__":
    run(main, Options)
