"""From inputs to a table: in this process or in several, and on from where an earlier run was stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from faceflax.batch.analysis import Analyzers, Reading, plan, results_of, tasks_of
from faceflax.batch.inputs import Input, Record
from faceflax.batch.progress import Progress, bar
from faceflax.batch.table import Table
from faceflax.batch.workers import analyze_in_workers
from faceflax.errors import FaceflaxError
from faceflax.media.table import encoder
from faceflax.pipeline import interrupts


def analyze(
    inputs: Sequence[Input],
    table: Table,
    make: Callable[[], Analyzers],
    reading: Reading | None = None,
    *,
    workers: int = 1,
    parts: Path | None = None,
    progress: bool = True,
) -> list[Record]:
    """Writes a row into ``table`` for each face of each input that is not in it yet.

    Inputs that cannot be read are recorded and left out. Memory use depends neither on the number of inputs nor on a
    video's length.

    Args:
        inputs: from :func:`~faceflax.batch.find_inputs`.
        table: from :func:`~faceflax.batch.open_table`.
        make: makes what finds the faces. With several workers it is called in each, and must be a module's function or
            a ``functools.partial`` of one.
        reading: how inputs are read; all frames, in full size, if not given.
        workers: in how many processes; the rows are the same.
        parts: with several workers, a folder that is not there, for rows whose turn has not come.
        progress: show a bar on the terminal.

    Returns:
        What became of each input in this run, in their order.

    Raises:
        FaceflaxError: the table cannot be written, or a number is out of its range.
        KeyboardInterrupt: Ctrl-C, once all that was analysed is written; the analysis can be continued later.
    """
    if workers < 1:
        raise FaceflaxError("workers", workers, "is not a number of processes", "give 1 or more")
    if workers > 1 and parts is None:
        raise FaceflaxError("parts", None, "there is no folder for what the workers write", "give parts_of(table)")
    reading = Reading() if reading is None else reading
    records: list[Record] = []
    encode = encoder(table.suffix)

    def finish(ended: list[Record]) -> None:
        records.extend(ended)
        table.finish(ended)

    with interrupts() as interrupted:
        far = Progress(shown=progress)
        tasks = tasks_of(plan([item for item in inputs if item.name not in table.records], reading, far))
        analyzers = make() if workers == 1 and tasks else None
        with bar(far, workers) as show:
            if workers > 1 and parts is not None:

                def take(path: Path, ended: list[Record]) -> None:
                    table.append(path)
                    finish(ended)
                    show()

                whole = analyze_in_workers(
                    *(tasks, make, reading, workers, table.suffix, parts, take),
                    *(interrupted.is_set, far, show),
                )
            else:
                whole = not interrupted.is_set()
                results = iter(()) if analyzers is None else results_of(tasks, analyzers, reading, far)
                for rows, ended in results:
                    table.write(encode(rows))
                    finish(ended)
                    show()
                    if interrupted.is_set():
                        whole = False
                        break
    if not whole:
        raise KeyboardInterrupt
    return records
