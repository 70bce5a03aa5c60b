"""The table of what was found: its columns, and its rows as CSV, JSON Lines and Parquet.

``docs/tables.md`` says what each column means.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceflax.errors import needing_extras
from faceflax.faces.face import FACE_COLUMNS, Face
from faceflax.faces.frame import Frame
from faceflax.files import replacing

if TYPE_CHECKING:  # only annotations need it
    import pyarrow

SCHEMA = 1
"""Version of the columns: another number where one of them changes its name or meaning."""

SUFFIXES: tuple[str, ...] = (".csv", ".jsonl", ".parquet")
"""Of the formats."""

_DIGITS = {"time": 3, "score": 4, "size": 1, "sharpness": 1}
_BOOLS = "false", "true"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Row = dict[str, Any]
"""A row by its columns; None where there is nothing to say."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table.

    Attributes:
        kinds: by name, the type of their values.
    """

    kinds: dict[str, type]

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(self.kinds)

    def digits(self, name: str) -> int:
        """Returns how many decimals a number is written with."""
        return _DIGITS.get(name, 1 if name.endswith(("_x", "_y")) else 4)

    def header(self) -> str:
        """Returns the first line of a CSV file."""
        return ",".join(self.kinds) + "\n"

    def csv(self, rows: Iterable[Row]) -> str:
        """Returns rows as lines of a CSV file.

        Text that a spreadsheet would take for a formula has an apostrophe before it.
        """
        lines = (",".join(self._cell(name, row[name]) for name in self.kinds) for row in rows)
        return "".join(f"{line}\n" for line in lines)

    def json(self, rows: Iterable[Row]) -> str:
        """Returns rows as JSON objects, each on a line of its own."""
        return "".join(json.dumps(self.written(row)) + "\n" for row in rows)

    def written(self, row: Row) -> Row:
        """Returns a row as tables have it: numbers rounded, text that can be encoded."""
        return {name: self.value(name, row[name]) for name in self.kinds}

    def value(self, name: str, value: Any) -> Any:
        """Returns a value as tables have it."""
        if value is None:
            return None
        kind = self.kinds[name]
        if kind is str:
            return readable(value)
        return round(float(value), self.digits(name)) if kind is float else kind(value)

    def _cell(self, name: str, value: Any) -> str:
        if value is None:
            return ""
        kind = self.kinds[name]
        if kind is float:
            return f"{value:.{self.digits(name)}f}"
        if kind is bool:
            return _BOOLS[bool(value)]
        return _quoted(harmless(readable(value))) if kind is str else str(int(value))

    def parse(self, row: dict[str, str]) -> Row:
        """Returns a row of a CSV file with its values' types."""

        def parsed(kind: type, value: str) -> Any:
            return None if not value else value == _BOOLS[True] if kind is bool else kind(value)

        return {name: parsed(self.kinds[name], value) for name, value in row.items() if name in self.kinds}

    def arrow(self) -> pyarrow.Schema:
        """Returns the columns as Parquet has them, with the version as ``faceflax.schema`` in the metadata."""
        with needing_extras():
            import pyarrow

        types = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
        fields = [pyarrow.field(name, types[kind]) for name, kind in self.kinds.items()]
        return pyarrow.schema(fields, {"faceflax.schema": str(SCHEMA)})


COLUMNS = Columns({"schema": int, "input": str, "kind": str, "frame": int, "time": float, "face": int} | FACE_COLUMNS)
"""Columns of the table with a row for each face."""

INPUT_COLUMNS = Columns(
    {
        **{"schema": int, "input": str, "kind": str, "status": str, "reason": str},
        **{"frames": int, "faces": int, "seconds": float},
    }
)
"""Columns of the table with a row for each input."""


def rows_of(
    frame: Frame,
    faces: Sequence[Face],
    kind: str,
    scale: tuple[float, float] = (1.0, 1.0),
    *,
    every_frame: bool = False,
) -> list[Row]:
    """Returns a row for each face of a frame.

    Args:
        frame: where they are.
        faces: what was found in it.
        kind: of the input: ``image``, ``video`` or ``camera``.
        scale: how many of the input's pixels one of the frame's is, in x and in y.
        every_frame: a frame without a face has a row too, whose face is empty.
    """
    place: Row = {"schema": SCHEMA, "input": frame.name, "kind": kind, "frame": frame.index, "time": frame.time}
    rows = [place | {"face": number} | face.to_dict(scale) for number, face in enumerate(faces)]
    if not rows and every_frame:
        rows = [dict.fromkeys(COLUMNS.kinds) | place]
    return rows


def readable(text: str) -> str:
    """Returns text that every program can read: bytes of a name that are not UTF-8 become escapes.

    Example:
        >>> readable("caf\\udce9.jpg")
        'caf\\\\udce9.jpg'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def harmless(text: str) -> str:
    """Returns text with an apostrophe before it if a spreadsheet would take it for a formula.

    Example:
        >>> harmless("=1+1.jpg"), harmless("a=1.jpg")
        ("'=1+1.jpg", 'a=1.jpg')
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def _quoted(text: str) -> str:
    """A field of a CSV file; the standard library's writer leaves a carriage return bare where lines end without it."""
    return '"' + text.replace('"', '""') + '"' if any(each in text for each in ',"\r\n') else text


def encoder(suffix: str, columns: Columns = COLUMNS) -> Callable[[Iterable[Row]], str]:
    """Returns what makes lines of rows; those of ``.parquet`` are JSON until it is written as a whole."""
    return columns.csv if suffix == ".csv" else columns.json


def read_rows(table: Path, columns: Columns = COLUMNS) -> Iterator[Row]:
    """Yields the rows of a table of any format, whose suffix tells it.

    Raises:
        MissingExtraError: a Parquet file, and pyarrow is not installed.
    """
    suffix = table.suffix.lower()
    if suffix == ".parquet":
        with needing_extras():
            import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(table) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    else:
        with table.open(newline="", encoding="utf-8") as lines:
            if suffix == ".csv":
                yield from map(columns.parse, csv.DictReader(lines))
            else:
                yield from map(json.loads, lines)


def write_table(path: Path, rows: Iterable[Row], columns: Columns) -> None:
    """Writes a whole table in one step; its suffix gives the format.

    Raises:
        OSError: it cannot be written.
        MissingExtraError: a Parquet file, and pyarrow is not installed.
    """
    with replacing(path) as temporary:
        if path.suffix.lower() == ".parquet":
            _write_parquet(temporary, map(columns.written, rows), columns)
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            if path.suffix.lower() == ".csv":
                file.write(columns.header())
            encode = encoder(path.suffix.lower(), columns)
            for row in rows:
                file.write(encode([row]))


def lines_to_parquet(lines: Path, path: Path, columns: Columns = COLUMNS) -> None:
    """Turns a file of JSON Lines into a Parquet file, in memory for some thousand rows.

    Raises:
        OSError: it cannot be written.
        MissingExtraError: pyarrow is not installed.
    """
    with replacing(path) as temporary, lines.open(encoding="utf-8") as file:
        _write_parquet(temporary, map(json.loads, file), columns)


def _write_parquet(path: Path, rows: Iterable[Row], columns: Columns) -> None:
    with needing_extras():
        import pyarrow.parquet

    schema = columns.arrow()
    iterator = iter(rows)
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while True:
            some = list(islice(iterator, 10_000))
            writer.write_table(pyarrow.Table.from_pylist(some, schema))
            if len(some) < 10_000:
                return
