"""The command line: what its commands share."""

from faceflax.cli.command import run

__all__ = ["run"]
