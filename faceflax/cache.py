"""Where faceflax keeps what it can make again: compiled kernels and compiled programs."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def folder() -> Path:
    """The cache folder: ``$FACEFLAX_CACHE_DIR``, or ``faceflax`` in the user's cache folder of the platform.

    It can be deleted at any time.
    """
    given = os.environ.get("FACEFLAX_CACHE_DIR")
    if given:
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "faceflax"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faceflax"
