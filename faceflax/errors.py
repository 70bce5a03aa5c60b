"""The one exception that a user's mistake raises, and how the project words it."""

from __future__ import annotations

import os
from collections.abc import Iterable


class FaceflaxError(ValueError):
    """Something the caller gave cannot be used.

    Its text is ``field: value problem; remedy``. Library functions raise it with the names of their own arguments and
    fields; commands spell these as options, print one line, and exit with status 2.

    Args:
        field: what was given, as the caller names it: an argument, a field of a configuration (nested ones with a dot
            between), a column, an environment variable.
        value: what it was; paths and strings are quoted.
        problem: what is wrong with it, after the value: ``is not a number of epochs``. Where it holds ``{}``, the value
            stands there instead: ``shape {} is not [height, width]``.
        remedy: what to do, as an order: ``give 1 or more``.

    Example:
        >>> print(FaceflaxError("epochs", 0, "is too small", "give 1 or more"))
        epochs: 0 is too small; give 1 or more
    """

    def __init__(self, field: str, value: object = None, problem: str = "", remedy: str = "") -> None:
        self.field, self.value, self.problem, self.remedy = field, value, problem, remedy
        super().__init__(field, value, problem, remedy)

    @property
    def reason(self) -> str:
        """The text without the field."""
        shown = repr(os.fspath(self.value)) if isinstance(self.value, str | os.PathLike) else str(self.value)
        problem = self.problem if "{}" in self.problem else f"{{}} {self.problem}"
        problem = problem.replace("{}", shown, 1)
        return f"{problem}; {self.remedy}" if self.remedy else problem

    def __str__(self) -> str:
        if not self.problem:  # while older callers give the whole text
            return self.field
        return f"{self.field}: {self.reason}"

    def renamed(self, field: str) -> FaceflaxError:
        """Returns the same error about what an outer caller knows by another name.

        Example:
            >>> print(unknown("weights", "resnet", ["mini_xception-fer2013"]).renamed("emotion"))
            emotion: unknown 'resnet'; choose one of: mini_xception-fer2013
        """
        return FaceflaxError(field, self.value, self.problem, self.remedy)


def unknown(field: str, value: object, valid: Iterable[str]) -> FaceflaxError:
    """Returns the error for a ``value`` that is not one of the ``valid`` names.

    Example:
        >>> print(unknown("arch", "resnet", ["mini_xception", "sequential_cnn"]))
        arch: unknown 'resnet'; choose one of: mini_xception, sequential_cnn
    """
    return FaceflaxError(field, value, "unknown {}", f"choose one of: {', '.join(valid)}")
