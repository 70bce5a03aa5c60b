"""Web pages that need no other file: their images are inside. Templates are Jinja's, and escape all they are given."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup
    from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; }
pre { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
.faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: .8rem; }
.faces figure { margin: 0; }
.faces img { width: 100%; }
.words th, .words td { text-align: left; }
.wide { overflow-x: auto; }
.timeline img { min-width: 40rem; }
.small img { image-rendering: pixelated; }
figcaption { font-size: .8rem; line-height: 1.3; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{{ style | safe }}</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
{{ body | safe }}</main>
</body>
</html>
"""
TABLE = """<table><tr>{% for cell in head %}<th scope="col">{{ cell }}</th>{% endfor %}</tr>
{%- for row in rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{%- endfor %}</table>"""
IMAGE = """<img src="data:image/{{ kind }};base64,{{ content }}" alt="{{ alt }}">"""


@cache
def _template(source: str) -> Template:
    from jinja2 import Environment, StrictUndefined

    return Environment(autoescape=True, keep_trailing_newline=True, undefined=StrictUndefined).from_string(source)


def render(template: str, **values: Any) -> Markup:
    """Fills a Jinja template in; values are escaped unless they are markup that this module returned.

    Example:
        >>> render("<p>{{ text }}</p>", text="1 < 2")
        Markup('<p>1 &lt; 2</p>')
    """
    from markupsafe import Markup

    return Markup(_template(template).render(values))


def page(title: str, body: str) -> str:
    """Returns a whole page.

    Args:
        title: plain text.
        body: HTML.
    """
    return str(render(PAGE, title=title, style=STYLE, body=body))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Returns a table of plain text cells.

    Example:
        >>> str(table(["a"], [["1 < 2"]]))
        '<table><tr><th scope="col">a</th></tr>\\n<tr><td>1 &lt; 2</td></tr></table>'
    """
    return render(TABLE, head=head, rows=rows)


def figure(plot: Figure, alt: str) -> Markup:
    """Returns a figure as an image element; ``alt`` says in words what it shows."""
    file = io.BytesIO()
    plot.savefig(file, dpi=110, bbox_inches="tight")
    return image(file.getvalue(), "png", alt)


def image(encoded: bytes, kind: str, alt: str) -> Markup:
    """Returns an encoded image (``kind`` png or jpeg) as an image element; ``alt`` says in words what it shows."""
    return render(IMAGE, kind=kind, content=base64.b64encode(encoded).decode(), alt=alt)
