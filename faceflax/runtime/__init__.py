"""Compiled inference: a network as a plain NumPy function, and the analyzer of whole frames."""

from faceflax.runtime.analyzer import Face, FaceAnalyzer
from faceflax.runtime.compiled import compile

__all__ = ["Face", "FaceAnalyzer", "compile"]
