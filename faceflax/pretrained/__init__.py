"""Weights on disk: ``NAME.safetensors`` and, beside it, ``NAME.json``, the record of what the weights are for.

A file is loaded only if it is exactly what its record and its network say: SHA-256, tensor names, shapes, types, finite
values. Everything else is an error; nothing is ever filled in with random values. Tensors are stored as float32, or as
float16 to halve the file; in memory they are float32 always.

:func:`load` gives a Linen network with its variables. :func:`read` gives the tensors alone and imports neither JAX nor
Flax, which inference with the C++ kernels does not need.
"""

from faceflax.pretrained.hub import card_header, push_to_hub
from faceflax.pretrained.loading import LoadedModel, Variables, load, verify
from faceflax.pretrained.reading import list_weights, read, weights_info
from faceflax.pretrained.record import WeightsInfo
from faceflax.pretrained.saving import save

__all__ = [
    "LoadedModel",
    "Variables",
    "WeightsInfo",
    "card_header",
    "list_weights",
    "load",
    "push_to_hub",
    "read",
    "save",
    "verify",
    "weights_info",
]
