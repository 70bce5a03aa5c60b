"""A table that grows row by row, and its journal, from which an analysis that was stopped goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from faceflax.errors import FaceflaxError
from faceflax.media.outputs import CSV_COLUMNS, Lines


class Table:
    """A CSV file and, until it is complete, a journal beside it that lists the inputs all of whose rows are in it.

    Made by :func:`open_table`.

    Attributes:
        done: the names of these inputs.
    """

    def __init__(self, rows: Lines, journal: Lines, done: set[str]) -> None:
        self.done = done
        self._rows = rows
        self._journal = journal

    def write(self, rows: str) -> None:
        """Appends whole rows."""
        self._rows.write(rows)

    def finish(self, names: Sequence[str]) -> None:
        """Records in the journal that all rows of these inputs, and no others, were written since the last call."""
        if names:
            self._journal.write(json.dumps({"done": names, "bytes": self._rows.size}) + "\n")


def journal_of(table: Path) -> Path:
    """Returns the path of a table's journal.

    Example:
        >>> str(journal_of(Path("faces.csv")))
        'faces.csv.progress'
    """
    return table.with_name(f"{table.name}.progress")


@contextmanager
def open_table(csv: Path, settings: Mapping[str, Any]) -> Iterator[Table]:
    """Begins a table, or goes on with one that has a journal: rows of unfinished inputs are removed first.

    Args:
        csv: the file.
        settings: what the rows depend on, such as the weights, as JSON values; going on needs the same ones.

    Raises:
        FaceflaxError: a file without a journal, that is, a complete table or something else; or other settings.
    """
    journal = journal_of(csv)
    head = json.dumps({"columns": CSV_COLUMNS, "settings": settings}) + "\n"
    header = ",".join(CSV_COLUMNS) + "\n"
    done: set[str] = set()
    rows_end, journal_end = len(header), len(head)
    if journal.exists():
        lines = [line for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        if lines and lines[0] != head.encode():
            remedy = f"finish it with those, or delete it and {str(journal)!r}"
            raise FaceflaxError("csv", csv, "was begun with other weights or another version", remedy)
        size = csv.stat().st_size if csv.exists() else 0
        for line in lines[1:]:
            entry = json.loads(line)
            if entry["bytes"] > size:  # its rows were lost
                break
            done.update(entry["done"])
            rows_end, journal_end = entry["bytes"], journal_end + len(line)
    elif csv.exists() and csv.stat().st_size:
        raise FaceflaxError("csv", csv, "is there already", "name another file or delete it")
    with ExitStack() as stack:
        files = []
        for file, end, first in ((journal, journal_end, head), (csv, rows_end, header)):
            opened = stack.enter_context(open(file, "r+b" if file.exists() else "w+b", buffering=0))
            opened.truncate(end if done else 0)
            opened.seek(0, os.SEEK_END)
            files.append(Lines("csv", opened))
            if not done:
                files[-1].write(first)
        yield Table(files[1], files[0], done)
