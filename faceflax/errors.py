"""The one exception that a user's mistake raises, and how the project words it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class FaceflaxError(ValueError):
    """Something the caller gave cannot be used.

    Its text is ``field: value problem; remedy``. Library functions raise it with the names of their own arguments and
    fields; commands spell these as options, print one line, and exit with status 2.

    Args:
        field: what was given, as the caller names it: an argument, a field of a configuration (nested ones with a dot
            between), a column, an environment variable.
        value: what it was; paths and strings are quoted. None stands for nothing to show.
        problem: what is wrong with it, after the value: ``is not a number of epochs``. Where it holds ``{}``, the value
            stands there instead: ``shape {} is not [height, width]``.
        remedy: what to do, as an order: ``give 1 or more``.

    Example:
        >>> print(FaceflaxError("epochs", 0, "is too small", "give 1 or more"))
        epochs: 0 is too small; give 1 or more
        >>> print(FaceflaxError("paths", None, "there are none", "give images or videos"))
        paths: there are none; give images or videos
    """

    def __init__(self, field: str, value: object, problem: str, remedy: str = "") -> None:
        self.field, self.value, self.problem, self.remedy = field, value, problem, remedy
        super().__init__(field, value, problem, remedy)

    @property
    def reason(self) -> str:
        """The text without the field."""
        shown = repr(os.fspath(self.value)) if isinstance(self.value, str | os.PathLike) else str(self.value)
        problem = self.problem if "{}" in self.problem or self.value is None else f"{{}} {self.problem}"
        problem = problem.replace("{}", shown, 1)
        return f"{problem}; {self.remedy}" if self.remedy else problem

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"

    def renamed(self, field: str) -> FaceflaxError:
        """Returns the same error about what an outer caller knows by another name.

        Example:
            >>> print(unknown("weights", "resnet", ["mini_xception-fer2013"]).renamed("emotion"))
            emotion: unknown 'resnet'; choose one of: mini_xception-fer2013
        """
        return FaceflaxError(field, self.value, self.problem, self.remedy)


class MissingExtraError(FaceflaxError):
    """What is asked for needs packages that belong to one of faceflax's extras and are not installed.

    Args:
        extra: the extra's name.
        subject: what needs it, at the beginning of the text.

    Example:
        >>> print(MissingExtraError("train"))
        this needs the extra "train": pip install 'faceflax[train]'
    """

    def __init__(self, extra: str, subject: str = "this") -> None:
        self.extra, self.subject = extra, subject
        super().__init__("extra", extra, "is not installed", f"pip install 'faceflax[{extra}]'")
        self.args = (extra, subject)  # what copies and pickles are made from

    def __str__(self) -> str:
        return f'{self.subject} needs the extra "{self.extra}": {self.remedy}'


EXTRAS = {
    "train": (
        *("array_record", "grain", "h5py", "importlib_resources"),
        *("orbax", "sklearn", "tensorboardX", "tensorflow_datasets"),
    ),
    "tables": ("pandas", "pyarrow"),
    "beam": ("apache_beam",),
    "export": ("onnx", "onnxruntime"),
    "tflite": ("litert_converter",),
    "app": ("fastapi", "gradio", "uvicorn"),
    "hub": ("huggingface_hub",),
    "benchmark": ("captum", "torch"),
}
"""The import names of the packages that come with each extra. The core's packages are not among them."""


def unknown(field: str, value: object, valid: Iterable[str]) -> FaceflaxError:
    """Returns the error for a ``value`` that is not one of the ``valid`` names.

    Example:
        >>> print(unknown("arch", "resnet", ["mini_xception", "sequential_cnn"]))
        arch: unknown 'resnet'; choose one of: mini_xception, sequential_cnn
    """
    return FaceflaxError(field, value, "unknown {}", f"choose one of: {', '.join(valid)}")


def said(error: BaseException, *, kind: bool = False) -> str:
    """Returns what an exception of the system or of a library says, in one line of at most 300 characters.

    Args:
        error: the exception.
        kind: put its kind before that; where it says nothing, its kind is all in any case.

    Example:
        >>> said(OSError(28, "No space left on device", "a.csv")), said(ValueError("one\\ntwo"), kind=True)
        ('No space left on device', 'ValueError: one two')
        >>> said(EOFError())
        'EOFError'
    """
    text = " ".join(str(getattr(error, "strerror", None) or error).split())[:300]
    return ": ".join(filter(None, (type(error).__name__ if kind or not text else "", text)))


def missing_extra(error: ImportError) -> MissingExtraError | None:
    """Returns the error that names the extra whose package could not be imported, or None if it belongs to none.

    Example:
        >>> print(missing_extra(ModuleNotFoundError("No module named 'sklearn'", name="sklearn")))
        this needs the extra "train": pip install 'faceflax[train]'
    """
    package = (error.name or "").partition(".")[0]
    return next((MissingExtraError(extra) for extra, packages in EXTRAS.items() if package in packages), None)


@contextmanager
def needing_extras() -> Iterator[None]:
    """Raises a :class:`MissingExtraError` in place of the ImportError of a package that belongs to an extra.

    Around imports that Python callers reach in an installation without the extra.
    """
    try:
        yield
    except ImportError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        raise missing from error


@contextmanager
def renaming(**names: str) -> Iterator[None]:
    """Raises a :class:`FaceflaxError` about a field in ``names`` again, about what the caller knows by another name.

    Example:
        >>> with renaming(emotion="emotion_weights"):
        ...     raise FaceflaxError("emotion", "resnet", "unknown {}")
        Traceback (most recent call last):
        faceflax.errors.FaceflaxError: emotion_weights: unknown 'resnet'
    """
    try:
        yield
    except FaceflaxError as error:
        if error.field not in names:
            raise
        raise error.renamed(names[error.field]) from error.__cause__
