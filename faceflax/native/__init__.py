"""CPU kernels in C++: whole networks called on NumPy arrays, and single layers called from XLA.

XLA's CPU backend runs these small networks at half to a third of the speed that the processor allows (figures in
``docs/engine.md``), so :mod:`faceflax.models.blocks` and :mod:`faceflax.inference` take these kernels where they can.

* :class:`Network` and :func:`run` compute inference and guided backpropagation without XLA (:mod:`~.engine`). Importing
  this package does not import JAX.
* :class:`DetectorNetwork` finds faces in a grey image, all in one call (:mod:`~.detector`).
* The functions of :mod:`~.ops` are the layers and their gradients as JAX functions, for training and attribution.

A wheel brings the library, compiled for several instruction sets, and the processor chooses. ``FACEFLAX_ISA`` (sse4.2,
avx2, avx512, amx, neon) asks for a lower one. Where there is no such library, the machine's own C++ compiler makes one
for its own processor, once, in the user's cache (:func:`faceflax.files.cache_folder`); ``CXX`` and ``CXXFLAGS`` are
respected, and ``python -m faceflax.native`` does it ahead of time and says what is in use. ``FACEFLAX_NATIVE=build``
prefers that to the package's own library.

Without either, one line is logged and everything runs in its pure-JAX form, slower and otherwise alike.
``FACEFLAX_NATIVE=0`` asks for the pure-JAX form, and ``FACEFLAX_NATIVE=1`` makes a missing library an error.
``FACEFLAX_THREADS`` limits the threads of :func:`run` and :meth:`Network.guided`, else one for each core that the
process may use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from faceflax.native.detector import DetectorKind, DetectorLayer, DetectorNetwork, Region
from faceflax.native.engine import Kind, Layer, Network, run
from faceflax.native.library import available, processor, status, tiles

if TYPE_CHECKING:
    from faceflax.native.ops import (
        batch_norm,
        batch_norm_gradient,
        convolve,
        convolve_gradient,
        depthwise,
        depthwise_gradient,
        max_pool,
        max_pool_gradient,
        register,
        supports,
    )

__all__ = [
    "DetectorKind",
    "DetectorLayer",
    "DetectorNetwork",
    "Kind",
    "Layer",
    "Network",
    "Region",
    "available",
    "batch_norm",
    "batch_norm_gradient",
    "convolve",
    "convolve_gradient",
    "depthwise",
    "depthwise_gradient",
    "max_pool",
    "max_pool_gradient",
    "processor",
    "register",
    "run",
    "status",
    "supports",
    "tiles",
]


def __getattr__(name: str) -> Any:  # the ops import JAX, which inference does without
    if name in __all__:
        return getattr(import_module("faceflax.native.ops"), name)
    raise AttributeError(f"module 'faceflax.native' has no attribute {name!r}")
