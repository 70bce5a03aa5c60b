"""faceflax: real-time networks for perceived facial emotion and gender, in JAX/Flax.

Names are imported on first use, so that ``import faceflax`` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from faceflax._version import __version__
from faceflax.errors import FaceflaxError
from faceflax.labels import EMOTIONS, GENDERS

if TYPE_CHECKING:
    from faceflax.batch.frames import analyze, iter_rows
    from faceflax.exporting.files import export
    from faceflax.faces.analyzer import FaceAnalyzer
    from faceflax.faces.face import Face
    from faceflax.faces.video import VideoAnalyzer
    from faceflax.inference import compile
    from faceflax.media.timeline import plot_emotions
    from faceflax.models import create, layer_names, list_models
    from faceflax.pretrained import LoadedModel, WeightsInfo, list_weights, load, push_to_hub, weights_info

__all__ = [
    "EMOTIONS",
    "GENDERS",
    "Face",
    "FaceAnalyzer",
    "FaceflaxError",
    "LoadedModel",
    "VideoAnalyzer",
    "WeightsInfo",
    "__version__",
    "analyze",
    "compile",
    "create",
    "export",
    "iter_rows",
    "layer_names",
    "list_models",
    "list_weights",
    "load",
    "plot_emotions",
    "push_to_hub",
    "weights_info",
]

_HOMES = {
    "faceflax.models": ("create", "layer_names", "list_models"),
    "faceflax.pretrained": ("LoadedModel", "WeightsInfo", "list_weights", "load", "push_to_hub", "weights_info"),
    "faceflax.inference": ("compile",),
    "faceflax.exporting.files": ("export",),
    "faceflax.faces.face": ("Face",),
    "faceflax.faces.analyzer": ("FaceAnalyzer",),
    "faceflax.faces.video": ("VideoAnalyzer",),
    "faceflax.batch.frames": ("analyze", "iter_rows"),
    "faceflax.media.timeline": ("plot_emotions",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'faceflax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
