"""The command ``faceflax convert-keras``, run from a clone."""

from faceflax.cli import run
from faceflax.cli.convert_keras import Options, main

if __name__ == "__main__":
    run(main, Options)
