"""Folders, archives and many videos into one table, in one process or several; a run that stopped goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faceflax.lazy import attach

if TYPE_CHECKING:
    from faceflax.batch.analysis import Analyzers, Reading, opened
    from faceflax.batch.frames import iter_rows
    from faceflax.batch.inputs import Input, Record, find_inputs, reasons
    from faceflax.batch.run import analyze
    from faceflax.batch.table import Table, inputs_of, journal_of, open_table, parts_of

__all__ = [
    "Analyzers",
    "Input",
    "Reading",
    "Record",
    "Table",
    "analyze",
    "find_inputs",
    "inputs_of",
    "iter_rows",
    "journal_of",
    "open_table",
    "opened",
    "parts_of",
    "reasons",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "analysis": ["Analyzers", "Reading", "opened"],
        "frames": ["iter_rows"],
        "inputs": ["Input", "Record", "find_inputs", "reasons"],
        "run": ["analyze"],
        "table": ["Table", "inputs_of", "journal_of", "open_table", "parts_of"],
    },
)
