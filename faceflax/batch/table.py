"""A table that grows row by row, and its journal, from which an analysis that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from faceflax import files
from faceflax.batch.inputs import Record
from faceflax.errors import FaceflaxError, said
from faceflax.media.outputs import Lines
from faceflax.media.table import COLUMNS, INPUT_COLUMNS, SCHEMA, lines_to_parquet, write_table

_log = logging.getLogger("faceflax")

_FINISHED = ("done", "no face", "damaged")


class Table:
    """A file of rows and, until it is complete, a journal beside it of the inputs all of whose rows are in it.

    Made by :func:`open_table`.

    Attributes:
        records: what became of the inputs that are finished, by their names.
        rows: the file that the rows go to.
        suffix: the format of its lines: ``.csv`` or ``.jsonl``.
    """

    def __init__(
        self, path: Path, rows: Path, lines: Lines, journal: Lines, records: dict[str, Record], entries: int
    ) -> None:
        self.records = records
        self.rows = rows
        self.suffix = ".csv" if path.suffix.lower() == ".csv" else ".jsonl"
        self._path = path
        self._lines = lines
        self._journal = journal
        self._entries = entries

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
            entry = {
                "inputs": [list(vars(record).values()) for record in finished],
                "bytes": self._lines.size,
                "sha256": self._lines.digest(),
            }
            self._entries += 1
            self._journal.write(_sealed(self._entries, entry))

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
            problem = f"cannot write {{}} ({said(error)})"
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
        head = _sealed(0, {"schema": SCHEMA, "columns": COLUMNS.names, "settings": settings})
        header = COLUMNS.header() if suffix == ".csv" else ""
        lines = journal.read().splitlines(keepends=True)
        entries = _verified(lines, field, path)
        size = place.stat().st_size if place.exists() else 0
        if not entries and size > len(header):
            problem = f"is there, but {str(journal_of(path))!r}, from which it could be gone on with, is damaged"
            raise FaceflaxError(field, path, problem, "delete both to begin again")
        if entries and lines[0] != head.encode():
            remedy = f"finish it with those, or delete it and {str(journal_of(path))!r}"
            raise FaceflaxError(field, path, "was begun with other options, weights or another version", remedy)
        whole = _whole(place, entries[1:])
        records = {values[0]: Record(*values) for entry in whole for values in entry["inputs"]}
        lost = sum(len(entry["inputs"]) for entry in entries[1:]) - sum(len(entry["inputs"]) for entry in whole)
        if lost:
            _log.warning(
                "faceflax: rows of %d inputs in %s were lost or changed; these are analysed again", lost, place
            )
        rows_end = whole[-1]["bytes"] if whole else len(header)
        journal_end = sum(map(len, lines[: 1 + len(whole)])) if entries else len(head)
        try:
            rows = stack.enter_context(place.open("r+b" if place.exists() else "w+b", buffering=0))
        except OSError as error:
            raise FaceflaxError(field, place, f"cannot write {{}} ({said(error)})", "name another file") from None
        opened = []
        for file, end, first in ((journal, journal_end, head), (rows, rows_end, header)):
            file.truncate(end if records else 0)
            file.seek(0, os.SEEK_END)
            opened.append(Lines(field, file))
            if not records:
                opened[-1].write(first)
        yield Table(path, place, opened[1], opened[0], records, len(whole))


def _sealed(index: int, entry: Mapping[str, Any]) -> str:
    """A line of the journal: its digest, and JSON with its number, so that no line can be changed, lost or doubled."""
    text = json.dumps({"entry": index, **entry})
    return f"{hashlib.sha256(text.encode()).hexdigest()} {text}\n"


def _opened(line: bytes) -> dict[str, Any] | None:
    """What :func:`_sealed` wrote, or None where it is damaged."""
    digest, _, text = line.removesuffix(b"\n").partition(b" ")
    right = line.endswith(b"\n") and hashlib.sha256(text).hexdigest().encode() == digest
    return json.loads(text) if right else None


def _verified(lines: Sequence[bytes], field: str, path: Path) -> list[dict[str, Any]]:
    """The entries of a journal up to those that were lost with the end of the file, as when the power fails.

    Raises:
        FaceflaxError: it is damaged before its end.
    """
    entries = [_opened(line) for line in lines]
    count = next((i for i, entry in enumerate(entries) if entry is None or entry["entry"] != i), len(entries))
    if any(entry is not None for entry in entries[count:]):
        problem = f"has a journal, {str(journal_of(path))!r}, that is damaged in line {count + 1}"
        raise FaceflaxError(field, path, problem, "restore that, or delete both to begin again")
    return [entry for entry in entries[:count] if entry is not None]


def _whole(rows: Path, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries, from the first one on, whose rows are what was written."""
    found: list[dict[str, Any]] = []
    if not entries or not rows.exists():
        return found
    with rows.open("rb") as file:
        for entry in entries:
            part = file.read(entry["bytes"] - file.tell())
            if hashlib.sha256(part).hexdigest() != entry["sha256"]:
                break
            found.append(entry)
    return found


def parts_of(table: Path) -> Path:
    """Returns the folder in which workers leave rows until their turn; what an earlier run left in it is removed."""
    folder = table.with_name(f"{table.name}.parts")
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _locked_journal(field: str, path: Path, stack: ExitStack) -> BinaryIO:
    journal = journal_of(path)
    fresh = not journal.exists()
    if fresh and path.exists() and path.stat().st_size:
        raise FaceflaxError(field, path, "is there already", "name another file or delete it")
    file = stack.enter_context(files.exclusively(field, path, journal, keep=True))
    file.seek(0)
    return file
