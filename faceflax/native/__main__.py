"""``python -m faceflax.native``: compiles the CPU kernels if need be and says which engine is in use."""

from __future__ import annotations

import logging

from faceflax.native.library import status

logging.basicConfig(format="%(message)s")
logging.getLogger("faceflax").setLevel(logging.INFO)
print(f"faceflax computes on the CPU with: {status()}")
