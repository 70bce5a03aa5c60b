"""A table that grows row by row, and its journal, from which an analysis that was stopped goes on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from faceflax import files
from faceflax.batch.inputs import Record
from faceflax.errors import FaceflaxError
from faceflax.media.outputs import Lines
from faceflax.media.table import COLUMNS, INPUT_COLUMNS, SCHEMA, lines_to_parquet, write_table

_FINISHED = ("done", "no face", "damaged")


class Table:
    """A file of rows and, until it is complete, a journal beside it of the inputs all of whose rows are in it.

    Made by :func:`open_table`.

    Attributes:
        records: what became of the inputs that are finished, by their names.
        rows: the file that the rows go to.
        suffix: the format of its lines: ``.csv`` or ``.jsonl``.
    """

    def __init__(self, path: Path, rows: Path, lines: Lines, journal: Lines, records: dict[str, Record]) -> None:
        self.records = records
        self.rows = rows
        self.suffix = ".csv" if path.suffix.lower() == ".csv" else ".jsonl"
        self._path = path
        self._lines = lines
        self._journal = journal

    def write(self, rows: str) -> None:
        """Appends whole rows."""
        self._lines.write(rows)

    def append(self, part: Path) -> None:
        """Appends the rows in another file, and deletes that."""
        self._lines.copy(part)
        part.unlink()

    def finish(self, records: Sequence[Record]) -> None:
        """Records in the journal that all rows of these inputs, and no others, were written since the last call.

        Inputs of which nothing could be read are tried again when the analysis goes on.
        """
        finished = [record for record in records if record.status in _FINISHED]
        self.records |= {record.input: record for record in finished}
        if finished:
            entry = {"inputs": [list(vars(record).values()) for record in finished], "bytes": self._lines.size}
            self._journal.write(json.dumps(entry) + "\n")

    def complete(self, records: Sequence[Record]) -> None:
        """Ends the table: writes that of the inputs beside it, and turns the rows into Parquet where that is asked for.

        Args:
            records: of all inputs.

        Raises:
            FaceflaxError: one of the files cannot be written.
        """
        try:
            if self.rows != self._path:
                lines_to_parquet(self.rows, self._path)
            write_table(inputs_of(self._path), (record.row() for record in records), INPUT_COLUMNS)
        except OSError as error:
            field = self._path.suffix[1:].lower()
            problem = f"cannot write {{}} ({error.strerror or error})"
            raise FaceflaxError(field, self._path, problem, "make room and run the same command again") from None
        if self.rows != self._path:
            self.rows.unlink()
        journal_of(self._path).unlink()


def journal_of(table: Path) -> Path:
    """Returns the path of a table's journal.

    Example:
        >>> str(journal_of(Path("faces.csv")))
        'faces.csv.progress'
    """
    return table.with_name(f"{table.name}.progress")


def inputs_of(table: Path) -> Path:
    """Returns the path of the table of the inputs beside the one of the faces.

    Example:
        >>> str(inputs_of(Path("faces.csv")))
        'faces.inputs.csv'
    """
    return table.with_name(f"{table.stem}.inputs{table.suffix}")


@contextmanager
def open_table(path: Path, settings: Mapping[str, Any]) -> Iterator[Table]:
    """Begins a table, or goes on with one that has a journal: rows of unfinished inputs are removed first.

    Until the end of the block no other process can write the same table.

    Args:
        path: the file; .csv, .jsonl or .parquet, whose rows are in another file beside it until it is complete.
        settings: what the rows depend on, such as the weights, as JSON values; going on needs the same ones.

    Raises:
        FaceflaxError: a file without a journal, that is, a complete table or something else; other settings; or
            another process is writing it.
    """
    suffix = path.suffix.lower()
    field = suffix[1:]
    place = path.with_name(f"{path.name}.rows") if suffix == ".parquet" else path
    with ExitStack() as stack:
        journal = _locked_journal(field, path, stack)
        head = json.dumps({"schema": SCHEMA, "columns": COLUMNS.names, "settings": settings}) + "\n"
        header = COLUMNS.header() if suffix == ".csv" else ""
        records: dict[str, Record] = {}
        rows_end, journal_end = len(header), len(head)
        lines = [line for line in journal.read().splitlines(keepends=True) if line.endswith(b"\n")]
        if lines and lines[0] != head.encode():
            remedy = f"finish it with those, or delete it and {str(journal_of(path))!r}"
            raise FaceflaxError(field, path, "was begun with other options, weights or another version", remedy)
        size = place.stat().st_size if place.exists() else 0
        for line in lines[1:]:
            try:
                entry = json.loads(line)
            except ValueError:  # zeros, which a lost write leaves behind
                break
            if entry["bytes"] > size:  # its rows were lost
                break
            records |= {values[0]: Record(*values) for values in entry["inputs"]}
            rows_end, journal_end = entry["bytes"], journal_end + len(line)
        try:
            rows = stack.enter_context(place.open("r+b" if place.exists() else "w+b", buffering=0))
        except OSError as error:
            raise FaceflaxError(field, place, f"cannot write {{}} ({error.strerror})", "name another file") from None
        opened = []
        for file, end, first in ((journal, journal_end, head), (rows, rows_end, header)):
            file.truncate(end if records else 0)
            file.seek(0, os.SEEK_END)
            opened.append(Lines(field, file))
            if not records:
                opened[-1].write(first)
        yield Table(path, place, opened[1], opened[0], records)


def parts_of(table: Path) -> Path:
    """Returns the folder in which workers leave rows until their turn; what an earlier run left in it is removed."""
    folder = table.with_name(f"{table.name}.parts")
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _locked_journal(field: str, path: Path, stack: ExitStack) -> BinaryIO:
    journal = journal_of(path)
    busy = FaceflaxError(field, path, "is being written by another run", "wait for it or name another file")
    fresh = not journal.exists()
    if fresh and path.exists() and path.stat().st_size:
        raise FaceflaxError(field, path, "is there already", "name another file or delete it")
    try:
        file = stack.enter_context(journal.open("a+b", buffering=0))
    except OSError as error:
        raise FaceflaxError(field, journal, f"cannot write {{}} ({error.strerror})", "name another file") from None
    if not files.lock(file):
        raise busy
    try:
        ours = os.path.samestat(os.fstat(file.fileno()), journal.stat())
    except OSError:
        ours = False
    if not ours:  # the other run has just ended
        raise busy
    file.seek(0)
    return file
