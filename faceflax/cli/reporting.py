"""What a command says at its end: a sentence and the files, JSON for programs, or nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceflax.errors import FaceflaxError


@dataclass(frozen=True)
class ReportOptions:
    """How much a command says."""

    quiet: bool = False
    """Say nothing but errors: no progress bar and no summary."""
    json: bool = False
    """Say the summary as one line of JSON."""

    def check(self) -> None:
        """Silences what is said on the way, where that was asked for.

        Raises:
            FaceflaxError: both are given.
        """
        if self.quiet and self.json:
            raise FaceflaxError("json", None, "is said, and --quiet says nothing", "leave one of them out")
        if self.quiet:
            logging.getLogger("faceflax").setLevel(logging.ERROR)

    def say(self, text: str, numbers: dict[str, Any], written: Sequence[Path | str | None]) -> None:
        """Prints the summary.

        Args:
            text: in words.
            numbers: the same for programs.
            written: the files that the command was to write, and addresses; of files those that are there are named.
        """
        files = [str(file) for file in written if file is not None and (isinstance(file, str) or file.exists())]
        if self.json:
            print(json.dumps(numbers | {"files": files}))
        elif not self.quiet:
            print(text, *(f"wrote {printable(file)}" for file in files), sep="\n")


def printable(text: str) -> str:
    """Text as one line that any terminal takes: names may hold line ends, colours, and bytes that are not UTF-8.

    Example:
        >>> printable("two\\nlines of caf\\udce9.jpg")
        'two\\\\nlines of caf\\\\udce9.jpg'
    """
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
