"""Web pages that need no other file: their pictures are inside."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
.faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: .8rem; }
.faces figure { margin: 0; }
.faces img { width: 100%; }
.small img { image-rendering: pixelated; }
figcaption { font-size: .8rem; line-height: 1.3; }
"""


def page(title: str, body: str) -> str:
    """Returns a whole page.

    Args:
        title: plain text.
        body: HTML.
    """
    heading = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{heading}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n<h1>{heading}</h1>\n{body}</main>\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table of plain text cells.

    Example:
        >>> table(["a"], [["1 < 2"]])
        '<table><tr><th scope="col">a</th></tr>\\n<tr><td>1 &lt; 2</td></tr></table>'
    """
    lines = ["".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def figure(drawn: Figure, alt: str) -> str:
    """Returns a figure as an image element; ``alt`` says in words what it shows."""
    file = io.BytesIO()
    drawn.savefig(file, dpi=110, bbox_inches="tight")
    return image(file.getvalue(), "png", alt)


def image(encoded: bytes, kind: str, alt: str) -> str:
    """Returns an encoded picture (``kind`` png or jpeg) as an image element; ``alt`` says in words what it shows."""
    content = base64.b64encode(encoded).decode()
    return f'<img src="data:image/{kind};base64,{content}" alt="{html.escape(alt)}">'
