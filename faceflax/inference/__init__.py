"""A network folded into a program, compiled, kept on disk."""

from faceflax.inference.compiled import compile

__all__ = ["compile"]
