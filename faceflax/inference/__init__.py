"""A network folded into a program, compiled, kept on disk."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceflax.inference.compiled import compile

__all__ = ["compile"]


def __getattr__(name: str) -> Any:
    if name == "compile":  # only then JAX and Flax are needed
        return import_module("faceflax.inference.compiled").compile
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
