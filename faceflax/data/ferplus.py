"""FER+: the faces of FER-2013, each with the emotion that most of ten annotators perceived."""

from __future__ import annotations

import csv
import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int

from faceflax import labels
from faceflax.data import builder, fer2013
from faceflax.data.preparation import Counted, Row
from faceflax.errors import FaceflaxError, said
from faceflax.files import check_file

VOTES_NAME = "fer2013new.csv"
COLUMNS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral", "contempt", "unknown", "NF")
"""FER+'s votes: the seven perceived emotions in this library's order, then what is none of them (NF is no face)."""
LEAST_AGREEMENT = 0.5
"""Share of votes that must agree with FER-2013's labels (64% do; 18% if the rows are not the same images)."""


@dataclass(frozen=True)
class Votes:
    """A line of FER+.

    Attributes:
        file: the file it is of.
        line: where in it.
        usage: Training, PublicTest or PrivateTest; something else where the line is damaged.
        number: the number in the image's name; None where FER+ took the image out, and where the line is damaged.
        counts: votes for each of :data:`COLUMNS`, single votes taken for slips and left out, as the authors do; all 0
            where the line is damaged.
        damaged: the line is no line of FER+.
    """

    file: Path
    line: str
    usage: str
    number: int | None
    counts: Int[np.ndarray, " columns"]
    damaged: bool = False

    @property
    def majority(self) -> str | None:
        """The one of :data:`COLUMNS` that has more than half of the votes, if any."""
        if 2 * self.counts.max() <= self.counts.sum():
            return None
        return COLUMNS[int(self.counts.argmax())]

    def fault(self, field: str) -> FaceflaxError:
        """The error that a damaged line is, for what the caller names the file by."""
        usages = ", ".join(fer2013.SPLIT_OF_USAGE)
        problem = f"{self.line} of {{}} needs a Usage of {usages}, an image's name or nothing, and ten numbers of votes"
        return FaceflaxError(field, self.file, problem, "download the file again")


def read_votes(field: str, file: Path) -> list[Votes]:
    """Reads FER+'s CSV.

    Args:
        field: what the caller names the file by, for an error.
        file: ``fer2013new.csv``.

    Raises:
        FaceflaxError: the file cannot be read or has not FER+'s columns.
    """
    check_file(field, file, most=builder.MOST_BYTES, remedy=f"name its {VOTES_NAME}")
    try:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            rows = csv.DictReader(lines)
            missing = {"Usage", "Image name", *COLUMNS} - set(rows.fieldnames or ())
            if missing:
                problem = f"lacks FER+'s columns {', '.join(sorted(missing))}"
                raise FaceflaxError(field, file, problem, f"name its {VOTES_NAME}")
            return [_parse(row, file, f"line {rows.line_num}") for row in rows]
    except (OSError, csv.Error) as error:
        problem = f"cannot read {{}} as FER+'s votes ({said(error)})"
        raise FaceflaxError(field, file, problem, f"name its {VOTES_NAME}") from None


def _parse(row: Mapping[str, str | None], file: Path, line: str) -> Votes:
    usage = row["Usage"] or ""
    try:
        name = row["Image name"]
        number = int(name.removeprefix("fer").removesuffix(".png")) if name else None
        counts = np.array([int(row[column] or "") for column in COLUMNS])
        if usage not in fer2013.SPLIT_OF_USAGE or (counts < 0).any():
            raise ValueError
    except ValueError:
        return Votes(file, line, usage, None, np.zeros(len(COLUMNS), int), damaged=True)
    return Votes(file, line, usage, number, np.where(counts == 1, 0, counts))


def match(field: str, votes: Sequence[Votes], emotions: Mapping[int, int]) -> dict[int, Votes]:
    """Finds out which votes are whose.

    Copies of FER-2013 order their rows in one of two ways: as FER+ orders its lines, or by the number in FER+'s image
    names, which leaves some lines out. The way in which votes and labels agree better is taken.

    Args:
        field: what the caller names the votes by, for an error.
        votes: all of FER+'s lines, in order.
        emotions: FER-2013's label of each row, by the row's number from 0.

    Returns:
        The votes by number of the row; none of a row that FER+ took out, or whose line is damaged.

    Raises:
        FaceflaxError: votes that disagree with the labels so often that they cannot be of the same images.
    """
    by_line = {i: line for i, line in enumerate(votes) if line.number is not None}
    by_name = {line.number: line for line in votes if line.number is not None}

    def agreement(numbered: Mapping[int, Votes]) -> float:
        agree = [
            line.counts[: len(labels.EMOTIONS)].argmax() == emotions[number]
            for number, line in numbered.items()
            if number in emotions and line.counts[: len(labels.EMOTIONS)].any()
        ]
        return float(np.mean(agree)) if agree else 0.0

    best = max((by_line, by_name), key=agreement)
    if agreement(best) < LEAST_AGREEMENT:
        problem = (
            f"the votes of {{}} agree with {agreement(best):.0%} of FER-2013's labels, so they are not of the same rows"
        )
        raise FaceflaxError(field, votes[0].file, problem, "take the fer2013.csv that they were made for")
    return best


class Ferplus(builder.FaceBuilder):
    """FER+ (Barsoum, Zhang, Canton Ferrer and Zhang, ICMI 2016, https://arxiv.org/abs/1608.01041), by majority vote.

    Faces of FER-2013 on whose perceived emotion more than half of the votes fall, single votes left out, in FER+'s own
    splits. The library's networks predict seven emotions, so the faces voted ``contempt`` (half a per cent) are left
    out and counted in a note, as are those voted unknown or no face.

    The source is a folder with ``fer2013new.csv`` and FER-2013's CSV or archive, in any form that
    :class:`Fer2013` takes.
    """

    CROP_MARGIN = fer2013.Fer2013.CROP_MARGIN
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012
    SPLIT_ALIASES = fer2013.SPLIT_OF_USAGE
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"the source is a folder with FER+'s {VOTES_NAME}, given at https://github.com/microsoft/FERPlus, and "
        f"FER-2013's images: {fer2013.Fer2013.MANUAL_DOWNLOAD_INSTRUCTIONS}"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return builder.Info(
            builder=self,
            description="48x48 grey faces from image search with the emotion that most of ten annotators perceived.",
            homepage="https://github.com/microsoft/FERPlus",
            citation="Barsoum et al. Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label "
            "Distribution. ICMI 2016.",
            features=fer2013.features(),
            supervised_keys=("image", "emotion"),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        source = self.source_path
        found = [parent / VOTES_NAME for parent in (source, source / "fer2013") if (parent / VOTES_NAME).is_file()]
        images = fer2013.find_source(source)
        if not found or not images.is_file():
            lacking = VOTES_NAME if not found else "FER-2013's CSV or its archive"
            raise FaceflaxError("source", source, f"has no {lacking}", self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        votes = read_votes("source", found[0])
        emotions = {
            number: int(row["emotion"] or "")
            for number, row, _ in fer2013.csv_rows(images)
            if (row["emotion"] or "") in map(str, range(len(labels.EMOTIONS)))
        }
        matched = match("source", votes, emotions)
        splits = fer2013.SPLIT_OF_USAGE.values()
        none = sum(line.majority is None for line in matched.values())
        others = {column: 0 for column in COLUMNS[len(labels.EMOTIONS) :]}
        for line in matched.values():
            if line.majority in others:
                others[line.majority] += 1
        self.notes.append(
            f"Left out: {none:,} faces on which no majority of the votes falls; by majority contempt "
            f"{others['contempt']:,}, unknown {others['unknown']:,}, no face {others['NF']:,}."
        )
        return {split: self._generate_examples(split, _rows(images, votes, matched, split)) for split in splits}


def _rows(images: Path, votes: Sequence[Votes], matched: Mapping[int, Votes], split: str) -> Counted:
    damaged = [
        Row(f"{line.line} of {line.file.name}", functools.partial(_refuse, line))
        for line in votes
        if line.damaged and fer2013.SPLIT_OF_USAGE.get(line.usage, "train") == split
    ]
    chosen = {
        number: COLUMNS.index(line.majority)
        for number, line in matched.items()
        if line.majority in COLUMNS[: len(labels.EMOTIONS)] and fer2013.SPLIT_OF_USAGE[line.usage] == split
    }
    rows = (
        Row(str(number), functools.partial(_example, row, place, chosen[number]))
        for number, row, place in fer2013.csv_rows(images)
        if number in chosen
    )
    return Counted(itertools.chain(damaged, rows), len(damaged) + len(chosen))


def _refuse(line: Votes) -> dict[str, Any]:
    raise line.fault("source")


def _example(row: dict[str, str | None], place: fer2013.Place, emotion: int) -> dict[str, Any]:
    return fer2013.parse(row, place) | {"emotion": emotion}
