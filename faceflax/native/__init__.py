"""CPU kernels in C++, compiled once on the user's machine and called from XLA.

XLA's CPU backend runs these small networks at half to a third of the speed that the processor allows (figures in
``docs/engine.md``), so :mod:`faceflax.models.blocks` and :mod:`faceflax.inference` take these kernels where they can.
They are one source file, built with the machine's own C++ compiler for its own processor and against the headers of
the installed JAX, so that no release of either can break a prebuilt binary. The library goes to the user's cache
(:func:`faceflax.files.cache_folder`); ``python -m faceflax.native`` builds it ahead of time and says what is in use.

Without a compiler one line is logged and everything runs in its pure-JAX form, slower and otherwise alike. ``CXX`` and
``CXXFLAGS`` are respected; ``FACEFLAX_NATIVE=0`` asks for the pure-JAX form, and ``FACEFLAX_NATIVE=1`` makes a missing
library an error.
"""

from faceflax.native.build import available, processor, status, tiles
from faceflax.native.ops import (
    batch_norm,
    batch_norm_gradient,
    convolve,
    convolve_gradient,
    depthwise,
    depthwise_gradient,
    fold,
    guided,
    max_pool,
    max_pool_gradient,
    networks,
    panels,
    pixels_folded,
    supports,
)

__all__ = [
    "available",
    "batch_norm",
    "batch_norm_gradient",
    "convolve",
    "convolve_gradient",
    "depthwise",
    "depthwise_gradient",
    "fold",
    "guided",
    "max_pool",
    "max_pool_gradient",
    "networks",
    "panels",
    "pixels_folded",
    "processor",
    "status",
    "supports",
    "tiles",
]
