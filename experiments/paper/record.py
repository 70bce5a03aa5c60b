"""What a claim's experiment leaves: numbers with intervals, verdicts that follow from them, tables and figures.

A verdict is decided by :func:`above`, :func:`below` or :func:`equal` and by nothing else.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from faceflax import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Answer = Literal["holds", "does not hold", "inconclusive"]
Unit = Literal["", "%", "points", "ms", "x", "kB"]


@dataclass(frozen=True)
class Number:
    """A measured number and its 95% interval; the interval of an exact one is the number itself.

    Attributes:
        name: what was measured.
        value: the number; a share in [0, 1] for ``%`` and ``points``.
        low: the interval's lower end.
        high: its upper end.
        unit: how it is printed: ``points`` are percentage points.
        interval: what the interval is over.
    """

    name: str
    value: float
    low: float
    high: float
    unit: Unit = ""
    interval: str = ""

    @classmethod
    def exact(cls, name: str, value: float, unit: Unit = "") -> Number:
        """A number that was counted."""
        return cls(name, float(value), float(value), float(value), unit, "exact")

    def __str__(self) -> str:
        if self.interval == "exact":
            return f"{_digits(self.value, self.unit)}{_SUFFIXES[self.unit]}"
        value, low, high = (_digits(number, self.unit) for number in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]{_SUFFIXES[self.unit]}"


_SUFFIXES: dict[Unit, str] = {"": "", "%": "%", "points": " points", "ms": " ms", "x": " times", "kB": " kB"}


def _digits(value: float, unit: Unit) -> str:
    if unit in ("%", "points"):
        return f"{100 * value:+.2f}" if unit == "points" else f"{100 * value:.2f}"
    return f"{value:,.0f}" if value == round(value) and abs(value) >= 1000 else f"{value:.3g}"


@dataclass(frozen=True)
class Verdict:
    """One sentence about one statement.

    Attributes:
        statement: what the paper says, or what follows from it, in our words.
        answer: whether it holds.
        number: what decides.
        comparison: on which side of the threshold the number must be.
        threshold: in the number's units.
    """

    statement: str
    answer: Answer
    number: Number
    comparison: Literal["above", "below", "at"]
    threshold: float

    def __str__(self) -> str:
        rule = f"holds {self.comparison} {Number.exact('', self.threshold, self.number.unit)}"
        return f"{self.statement}: {self.answer} ({self.number.name} {self.number}; {rule})."


def above(statement: str, number: Number, threshold: float) -> Verdict:
    """Holds if the whole interval is above the threshold, does not hold if it is below, else inconclusive.

    Example:
        >>> gain = Number("gain", 0.02, -0.01, 0.05, "points", "bootstrap")
        >>> print(above("It helps", gain, 0).answer)
        inconclusive
    """
    answer: Answer = "inconclusive"
    if number.low > threshold:
        answer = "holds"
    elif number.high <= threshold:
        answer = "does not hold"
    return Verdict(statement, answer, number, "above", threshold)


def below(statement: str, number: Number, threshold: float) -> Verdict:
    """The reverse of :func:`above`.

    Example:
        >>> print(below("At most 3 ms", Number("time", 2.0, 1.9, 2.1, "ms"), 3).answer)
        holds
    """
    answer: Answer = "inconclusive"
    if number.high < threshold:
        answer = "holds"
    elif number.low >= threshold:
        answer = "does not hold"
    return Verdict(statement, answer, number, "below", threshold)


def equal(statement: str, number: Number, expected: float) -> Verdict:
    """Holds if an exact number is the expected one.

    Example:
        >>> print(equal("58,423 parameters", Number.exact("parameters", 58_423), 58_423).answer)
        holds
    """
    answer: Answer = "holds" if number.value == expected else "does not hold"
    return Verdict(statement, answer, number, "at", expected)


@dataclass(frozen=True)
class Table:
    """A table of text cells."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, title: str, numbers: Sequence[Number]) -> Table:
        """A row for each number."""
        rows = tuple((n.name, str(n), n.interval) for n in numbers)
        return cls(title, ("", "value [95% interval]", "interval over"), rows)


@dataclass(frozen=True)
class Picture:
    """A PNG picture.

    Attributes:
        alt: what it shows, in words.
        png: the file, base64.
    """

    alt: str
    png: str

    @classmethod
    def of(cls, figure: Figure, alt: str) -> Picture:
        """Draws a figure."""
        file = io.BytesIO()
        figure.savefig(file, dpi=110, bbox_inches="tight")
        return cls(alt, base64.b64encode(file.getvalue()).decode())


@dataclass(frozen=True)
class Result:
    """What a claim's function returns."""

    verdicts: tuple[Verdict, ...]
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """A finished claim, as it is kept.

    Attributes:
        key: a hash of all that the result depends on.
        name: the claim's name on the command line.
        title: its heading.
        claim: what the paper says, in our words.
        command: what makes it again.
        quick: whether it was only a rehearsal on synthetic faces.
        seconds: how long it took here.
        result: what was found.
    """

    key: str
    name: str
    title: str
    claim: str
    command: str
    quick: bool
    seconds: float
    result: Result

    @property
    def answer(self) -> Answer:
        """The claim's: it holds if all its parts do, and does not if one does not."""
        answers = {verdict.answer for verdict in self.result.verdicts}
        if answers == {"holds"}:
            return "holds"
        return "does not hold" if "does not hold" in answers else "inconclusive"

    @property
    def sentence(self) -> str:
        """The answer, the statements that decide it, and how many have another answer."""
        deciding = [v for v in self.result.verdicts if v.answer == self.answer]
        others = Counter(v.answer for v in self.result.verdicts if v.answer != self.answer)
        parts = [f"{v.statement[0].lower()}{v.statement[1:]} ({v.number})" for v in deciding]
        parts += [f"{count} other{'s' * (count > 1)}: {answer}" for answer, count in others.items()]
        return f"{self.answer.capitalize()}: {'; '.join(parts)}."

    def save(self, folder: Path) -> None:
        """Writes ``NAME.json`` in one step."""
        files.write(folder / f"{self.name}.json", json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, name: str) -> Record | None:
        """Reads what :meth:`save` wrote; None where there is no record, or one of another version of this file."""
        try:
            found = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            return cls(**found | {"result": _result(found["result"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _result(found: dict[str, Any]) -> Result:
    return Result(
        verdicts=tuple(Verdict(**v | {"number": Number(**v["number"])}) for v in found["verdicts"]),
        tables=tuple(
            Table(t["title"], tuple(t["head"]), tuple(tuple(row) for row in t["rows"])) for t in found["tables"]
        ),
        pictures=tuple(Picture(**p) for p in found["pictures"]),
        remarks=tuple(found["remarks"]),
    )
