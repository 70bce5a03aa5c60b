"""Folders, archives and videos into one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faceflax.lazy import attach

if TYPE_CHECKING:
    from faceflax.batch.analysis import Result, analyze
    from faceflax.batch.inputs import Input, find_inputs
    from faceflax.batch.table import Table, journal_of, open_table

__all__ = ["Input", "Result", "Table", "analyze", "find_inputs", "journal_of", "open_table"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "analysis": ["Result", "analyze"],
        "inputs": ["Input", "find_inputs"],
        "table": ["Table", "journal_of", "open_table"],
    },
)
