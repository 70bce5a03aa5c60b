"""How the rows of a publisher's files become examples: some at a time, and kept until the last of them is there."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

import faceflax
from faceflax import files
from faceflax.errors import FaceflaxError

TOGETHER = 64
"""Rows that a thread reads at once, and that are kept in one file."""

Example = dict[str, Any]


class Row(NamedTuple):
    """A row of a publisher's files.

    Attributes:
        id: the example's.
        read: reads the example; it raises FaceflaxError where the row is damaged. Other processes can be sent it.
        file: the row's own file, if it has one.
    """

    id: str
    read: partial[Example]
    file: Path | None = None


Outcome = tuple[str, Example | FaceflaxError]
"""A row's id, and its example or why there is none."""


@dataclass(frozen=True)
class Preparation:
    """How a dataset is prepared; what is prepared does not depend on it.

    Attributes:
        workers: how many threads read and shrink images; as many as there are processors, 16 at the most, if 0.
        runner: of Apache Beam, by name, if not this process.
        runner_options: what the runner needs, as ``direct_num_workers=4``.
    """

    workers: int = 0
    runner: str | None = None
    runner_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise FaceflaxError("workers", self.workers, "is too small", "give 1 or more, or 0 for all processors")
        if self.runner is None and self.runner_options:
            raise FaceflaxError("runner_options", self.runner_options[0], "is for --runner", "add --runner NAME")
        if self.runner is not None and self.workers:
            remedy = "use --runner-options, such as direct_num_workers=4"
            raise FaceflaxError("workers", self.workers, "is not for --runner", remedy)

    @property
    def threads(self) -> int:
        """How many read."""
        return self.workers or min(os.cpu_count() or 1, 16)


class Counted:
    """An iterable that knows how long it is, so that whoever shows its progress knows the total.

    Example:
        >>> len(Counted(iter("abc"), 3)), list(Counted(iter("abc"), 3))
        (3, ['a', 'b', 'c'])
    """

    def __init__(self, items: Iterable[Any], count: int) -> None:
        self._items, self._count = items, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


def outcome(row: Row) -> Outcome:
    """Reads a row."""
    try:
        return row.id, row.read() | {"id": row.id}
    except FaceflaxError as error:
        return row.id, error


def outcomes(
    rows: Iterable[Row], threads: int, read: Callable[[Sequence[Row]], Sequence[Outcome]]
) -> Iterator[Outcome]:
    """Reads rows in several threads, a little ahead; yields what became of them in their order.

    Args:
        rows: in any number: few of them are held.
        threads: how many.
        read: reads some.

    Example:
        >>> rows = [Row(str(i), partial(dict, square=i * i)) for i in range(3)]
        >>> list(outcomes(rows, 2, lambda some: [outcome(row) for row in some]))
        [('0', {'square': 0, 'id': '0'}), ('1', {'square': 1, 'id': '1'}), ('2', {'square': 4, 'id': '2'})]
    """
    left = iter(rows)
    ahead: deque[Future[Sequence[Outcome]]] = deque()
    with ThreadPoolExecutor(threads, "faceflax-prepare") as pool:
        try:
            while some := list(itertools.islice(left, TOGETHER)):
                ahead.append(pool.submit(read, some))
                if len(ahead) > 2 * threads:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            for each in ahead:
                each.cancel()


class Kept:
    """Examples that have been read, on disk until their dataset is complete: a preparation that ended early goes on.

    A file holds the examples of :data:`TOGETHER` rows. It is named after all that they depend on: the rows, what reads
    them, the size and time of each row's file, and the version of this package. So what has changed is read again.

    Args:
        folder: where the files are; it is made with the first of them.
        salt: what else the examples depend on.
    """

    def __init__(self, folder: Path, salt: str = "") -> None:
        self._folder, self._salt = folder, f"{faceflax.__version__} {salt}"

    def read(self, rows: Sequence[Row]) -> list[Outcome]:
        """Takes what is kept of some rows, reads the others, and keeps those; rows without files of their own are not.

        The last rows of a split, which are fewer, are not kept either.
        """
        if len(rows) < TOGETHER or any(row.file is None for row in rows):
            return [outcome(row) for row in rows]
        place = self._folder / f"{self._key(rows)}.examples"
        kept = _unpacked(place)
        found = [(row.id, kept[i]) if i in kept else outcome(row) for i, row in enumerate(rows)]
        examples = {i: example for i, (_, example) in enumerate(found) if not isinstance(example, FaceflaxError)}
        if len(examples) > len(kept):
            self._folder.mkdir(exist_ok=True)
            files.write(place, _packed(examples))
        return found

    def _key(self, rows: Sequence[Row]) -> str:
        hashed = hashlib.sha256(os.fsencode(self._salt))
        for row in rows:
            read = row.read.func.__qualname__, row.read.args, sorted(row.read.keywords.items())
            hashed.update(os.fsencode(repr((row.id, read, _state(row.file)))))
        return hashed.hexdigest()[:32]


def _state(file: Path | None) -> tuple[int, int] | None:
    try:
        state = os.stat(file or "")
    except (OSError, ValueError):
        return None
    return state.st_size, state.st_mtime_ns


def _packed(examples: dict[int, Example]) -> bytes:
    """Images and other arrays as safetensors, all else in its header; the SHA-256 of it comes before."""
    arrays, texts = {}, {}
    for i, example in examples.items():
        values = {}
        for key, value in example.items():
            if isinstance(value, io.BytesIO):
                arrays[f"{i}/image/{key}"] = np.frombuffer(value.getvalue(), np.uint8)
            elif isinstance(value, np.ndarray):
                arrays[f"{i}/array/{key}"] = value
            else:
                values[key] = value
        texts[str(i)] = json.dumps(values)
    content = safetensors.numpy.save(arrays, texts)
    return hashlib.sha256(content).digest() + content


def _unpacked(file: Path) -> dict[int, Example]:
    """The examples in a file; none if there is no such file, or it is damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return {}
    digest, content = content[:32], content[32:]
    if hashlib.sha256(content).digest() != digest:
        return {}
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    examples: dict[int, Example] = {int(i): json.loads(values) for i, values in header["__metadata__"].items()}
    for name, value in safetensors.numpy.load(content).items():
        i, kind, key = name.split("/", 2)
        examples[int(i)][key] = io.BytesIO(value.tobytes()) if kind == "image" else value
    return examples
