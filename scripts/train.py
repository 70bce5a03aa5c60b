"""The command ``faceflax train``, run from a clone."""

from faceflax.cli import run
from faceflax.cli.train import Options, main

if __name__ == "__main__":
    run(main, Options)
