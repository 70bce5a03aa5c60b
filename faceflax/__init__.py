"""faceflax: real-time networks for perceived facial emotion and gender, in JAX/Flax.

Names are imported on first use, so that ``import faceflax`` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from faceflax.errors import FaceflaxError
from faceflax.labels import EMOTIONS, GENDERS

if TYPE_CHECKING:
    from faceflax.models import create, layer_names, list_models
    from faceflax.pretrained import WeightsInfo, list_weights, load, weights_info
    from faceflax.runtime import Face, FaceAnalyzer, compile
    from faceflax.runtime.video import VideoAnalyzer

__version__ = "0.1.0"

__all__ = [
    "EMOTIONS",
    "GENDERS",
    "Face",
    "FaceAnalyzer",
    "FaceflaxError",
    "VideoAnalyzer",
    "WeightsInfo",
    "compile",
    "create",
    "layer_names",
    "list_models",
    "list_weights",
    "load",
    "weights_info",
]

_HOMES = {
    "faceflax.models": ("create", "layer_names", "list_models"),
    "faceflax.pretrained": ("WeightsInfo", "list_weights", "load", "weights_info"),
    "faceflax.runtime": ("Face", "FaceAnalyzer", "compile"),
    "faceflax.runtime.video": ("VideoAnalyzer",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'faceflax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
