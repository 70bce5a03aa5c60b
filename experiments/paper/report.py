"""The finished claims as one web page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from experiments.paper.record import Picture, Record, Verdict
from faceflax import files, html

QUICK = (
    "This is a rehearsal on synthetic faces, with networks that were hardly trained or not at all. It shows that the "
    "experiments run; its numbers and verdicts say nothing about the study."
)
INTRODUCTION = (
    "The claims of the study (Arriaga, Valdenegro-Toro and Plöger, 2017), each with the number that decides it. "
    "Brackets hold 95% intervals. A verdict follows from its number, its interval and the rule beside it. "
    "Labels are what annotators perceived."
)


BODY = """<p>{{ introduction }}</p>
{% if quick %}<p><strong>{{ quick }}</strong></p>
{% endif %}{{ table(("claim", "answer", "computed in"), answers) }}
{%- for record in records %}{% set made = "<p>Made by <code>%s</code></p>\n" | safe | format(record.command) -%}
<h2 id="{{ record.name }}">{{ record.title }}</h2>
<p>The study: {{ record.claim }}</p>
<ul>
{%- for verdict in record.result.verdicts %}{% set before, after = parts(verdict) -%}
<li>{{ before }}<strong>{{ verdict.answer }}</strong>{{ after }}</li>
{%- endfor %}</ul>
{% for found in record.result.tables %}<h3>{{ found.title }}</h3>
{{ table(found.head, found.rows) }}
{{ made }}{% endfor %}
{%- for picture in record.result.pictures %}<p>{{ image(picture) }}</p>
{{ made }}{% endfor %}
{%- for remark in record.result.remarks %}<p>{{ remark }}</p>
{% endfor %}<p><strong>In a sentence.</strong> {{ record.sentence }}</p>
{% endfor %}"""


def write(file: Path, records: Sequence[Record]) -> None:
    """Writes the page in one step."""
    files.write(file, html.page("The study, reproduced", body(records)))


def body(records: Sequence[Record]) -> str:
    """Returns the page's content."""
    return html.render(
        BODY,
        introduction=INTRODUCTION,
        quick=QUICK if any(record.quick for record in records) else "",
        answers=[(record.title, record.answer, f"{record.seconds:.0f} s") for record in records],
        records=records,
        table=html.table,
        image=_image,
        parts=_around_answer,
    )


def _image(picture: Picture) -> str:
    return html.image(base64.b64decode(picture.png), "png", picture.alt)


def _around_answer(verdict: Verdict) -> tuple[str, str]:
    before, _, after = str(verdict).partition(f": {verdict.answer} (")
    return f"{before}: ", f" ({after}"
