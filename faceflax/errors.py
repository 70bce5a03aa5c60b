"""The one exception that a user's mistake raises, and how the project words it."""

from __future__ import annotations

from collections.abc import Iterable


class FaceflaxError(ValueError):
    """Something the caller gave cannot be used; the message says what, its value, and what to do.

    Library functions raise it; commands print it after ``error:`` and exit with status 2.
    """


def unknown(argument: str, value: object, valid: Iterable[str]) -> FaceflaxError:
    """Returns the error for a ``value`` that is not one of the ``valid`` names.

    Example:
        >>> str(unknown("--arch", "resnet", ["mini_xception", "sequential_cnn"]))
        "--arch: unknown 'resnet'; choose one of: mini_xception, sequential_cnn"
    """
    return FaceflaxError(f"{argument}: unknown {value!r}; choose one of: {', '.join(valid)}")
