"""What a command says at its end: a sentence and the files, JSON for programs, or nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from faceflax.errors import FaceflaxError

_OUT: ContextVar[TextIO | None] = ContextVar("out", default=None)
_ERR: ContextVar[TextIO | None] = ContextVar("err", default=None)


@dataclass(frozen=True)
class ReportOptions:
    """How much a command says.

    Raises:
        FaceflaxError: both are given.
    """

    quiet: bool = False
    """Say nothing but errors: no progress bar and no summary."""
    json: bool = False
    """Say the summary as one line of JSON, the only one on the standard output."""

    def __post_init__(self) -> None:
        if self.quiet and self.json:
            raise FaceflaxError("json", None, "is said, and --quiet says nothing", "leave one of them out")

    @contextlib.contextmanager
    def speaking(self) -> Iterator[None]:
        """Keeps what the block prints on the way out of what :meth:`say` and :func:`complain` print.

        With ``json`` it goes to the standard error; with ``quiet`` nowhere, and neither do progress bars.
        """
        logger = logging.getLogger("faceflax")
        level = logger.level
        with contextlib.ExitStack() as stack:
            for variable, stream in ((_OUT, sys.stdout), (_ERR, sys.stderr)):
                stack.callback(variable.reset, variable.set(stream))
            if self.json:
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            if self.quiet:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
                stack.callback(logger.setLevel, level)
                logger.setLevel(logging.ERROR)
            yield

    def say(
        self, text: str, numbers: dict[str, Any], written: Sequence[Path | str | None], *, then: str | None = None
    ) -> None:
        """Prints the summary.

        Args:
            text: in words.
            numbers: the same for programs.
            written: the files that the command was to write, and addresses; of files those that are there are named.
            then: the command that may come next.
        """
        files = [str(file) for file in written if file is not None and (isinstance(file, str) or file.exists())]
        if self.json:
            found = numbers | {"files": files} | ({} if then is None else {"next": then})
            print(json.dumps(found), file=_OUT.get())
        elif not self.quiet:
            print(text, *(f"wrote {printable(file)}" for file in files), sep="\n")
            if then is not None:
                print(f"next: {then}")


def options_of(options: object) -> ReportOptions:
    """Returns how much a command with these options says; all where they do not tell."""
    found = [value for value in getattr(options, "__dict__", {}).values() if isinstance(value, ReportOptions)]
    return found[0] if found else ReportOptions()


def counted(number: int, word: str) -> str:
    """Says a number of things.

    Example:
        >>> counted(1, "image"), counted(1200, "image")
        ('1 image', '1,200 images')
    """
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def complain(*lines: str) -> None:
    """Prints what is wrong on the standard error, with ``--quiet`` too."""
    print(*lines, sep="\n", file=_ERR.get() or sys.stderr)


def printable(text: str) -> str:
    """Text as one line that any terminal takes: names may hold line ends, colours, and bytes that are not UTF-8.

    Example:
        >>> printable("two\\nlines of caf\\udce9.jpg")
        'two\\\\nlines of caf\\\\udce9.jpg'
    """
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
