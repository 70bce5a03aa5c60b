"""The finished claims as one web page."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from pathlib import Path

from experiments.paper.record import Record
from faceflax.html import image, page, table

QUICK = (
    "This is a rehearsal on drawn faces, with networks that were hardly trained or not at all. It shows that the "
    "experiments run; its numbers and verdicts say nothing about the study."
)
INTRODUCTION = (
    "The claims of the study (Arriaga, Valdenegro-Toro and Plöger, 2017), each with the number that decides it. "
    "Brackets hold 95% intervals. A verdict follows from its number, its interval and the rule beside it. "
    "Labels are what annotators perceived."
)


def write(file: Path, records: Sequence[Record]) -> None:
    """Writes the page in one step."""
    partial = file.with_suffix(".partial")
    partial.write_text(page("The study, reproduced", body(records)), encoding="utf-8")
    os.replace(partial, file)


def body(records: Sequence[Record]) -> str:
    """Returns the page's content."""
    parts = [f"<p>{html.escape(INTRODUCTION)}</p>\n"]
    if any(record.quick for record in records):
        parts.append(f"<p><strong>{html.escape(QUICK)}</strong></p>\n")
    rows = [(record.title, record.answer, f"{record.seconds:.0f} s") for record in records]
    parts.append(table(("claim", "answer", "computed in"), rows))
    return "".join(parts) + "\n".join(map(section, records))


def section(record: Record) -> str:
    """Returns a claim's section."""
    result = record.result
    command = f"<p>Made by <code>{html.escape(record.command)}</code></p>\n"
    parts = [
        f'<h2 id="{record.name}">{html.escape(record.title)}</h2>\n<p>The study: {html.escape(record.claim)}</p>\n'
    ]
    parts.append("<ul>" + "".join(f"<li>{_verdict(str(v), v.answer)}</li>" for v in result.verdicts) + "</ul>\n")
    for found in result.tables:
        parts.append(f"<h3>{html.escape(found.title)}</h3>\n{table(found.head, found.rows)}\n{command}")
    for picture in result.pictures:
        parts.append(f"<p>{image(base64.b64decode(picture.png), 'png', picture.alt)}</p>\n{command}")
    parts += [f"<p>{html.escape(remark)}</p>\n" for remark in result.remarks]
    parts.append(f"<p><strong>In a sentence.</strong> {html.escape(record.sentence)}</p>\n")
    return "".join(parts)


def _verdict(sentence: str, answer: str) -> str:
    return html.escape(sentence).replace(f": {answer} (", f": <strong>{answer}</strong> (", 1)
