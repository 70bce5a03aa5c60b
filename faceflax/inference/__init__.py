"""A network folded into a program, and run: by the C++ kernels, or compiled by JAX and kept on disk."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceflax.inference.classifiers import Classifiers
    from faceflax.inference.compiled import BatchFunction, compile
    from faceflax.inference.detection import Detector, load_detector

__all__ = ["BatchFunction", "Classifiers", "Detector", "compile", "load_detector"]

_HOMES = {
    "Classifiers": "classifiers",
    "BatchFunction": "compiled",
    "compile": "compiled",
    "Detector": "detection",
    "load_detector": "detection",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # compiled alone needs JAX and Flax
        return getattr(import_module(f"faceflax.inference.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
