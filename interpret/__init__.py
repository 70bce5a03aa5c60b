"""Attribution: which pixels of an image a network's response depends on.

Pure functions of ``(model, variables, images, target)``; see :mod:`interpret.attribution`. Names are imported on first
use, so that the commands answer ``--help`` at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interpret.attribution import Neuron, deconvnet, gradient, guided_backprop

__all__ = ["Neuron", "deconvnet", "gradient", "guided_backprop"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("interpret.attribution"), name)
    raise AttributeError(f"module 'interpret' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
