"""The rows of a dataset read by the workers of an Apache Beam pipeline: needs the extra ``beam``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from faceflax.data.preparation import Row, outcome
from faceflax.errors import FaceflaxError, needing_extras

with needing_extras():
    import apache_beam as beam


class Examples(beam.PTransform):
    """The examples of a split, each with its id.

    Args:
        rows: of the split; their files are where all workers find them.
        skipped: where the ids of damaged rows are written; if None, the first of them ends the pipeline.
    """

    def __init__(self, rows: Sequence[Row], skipped: Path | None) -> None:
        super().__init__()
        self._rows, self._skipped = rows, skipped

    def expand(self, begin: Any) -> Any:
        """Builds the steps."""
        rows = begin | "Rows" >> beam.Create(list(enumerate(self._rows))) | "Spread" >> beam.Reshuffle()
        read = rows | "Read" >> beam.ParDo(_Read(self._skipped is not None)).with_outputs("skipped", main="examples")
        if self._skipped is not None:
            read.skipped | "Write skipped" >> beam.io.WriteToText(str(self._skipped))
        return read.examples


class _Read(beam.DoFn):
    def __init__(self, skip: bool) -> None:
        self._skip = skip

    def process(self, numbered: tuple[int, Row]) -> Iterator[Any]:
        number, row = numbered
        identity, example = outcome(row)
        if not isinstance(example, FaceflaxError):
            yield identity, example
        elif self._skip:
            yield beam.pvalue.TaggedOutput("skipped", json.dumps([number, identity]))
        else:
            raise RuntimeError(str(example))  # Beam puts words of its own into an exception's first argument


def skipped(written: Path) -> list[str]:
    """Returns the ids of the rows that a pipeline has left out, in the rows' order.

    Args:
        written: what :class:`Examples` was given.
    """
    lines = [line for part in written.parent.glob(f"{written.name}-*-of-*") for line in part.read_text().splitlines()]
    return [identity for _, identity in sorted(map(json.loads, lines))]
