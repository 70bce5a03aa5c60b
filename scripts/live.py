"""The command ``faceflax live``, run from a clone."""

from faceflax.cli import run
from faceflax.cli.live import Options, main

if __name__ == "__main__":
    run(main, Options)
