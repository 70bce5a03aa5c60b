"""``python -m faceflax`` is the command ``faceflax``."""

from faceflax.cli.main import main

if __name__ == "__main__":
    main()
