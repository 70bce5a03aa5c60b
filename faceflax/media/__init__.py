"""Pixels in and out: images, videos and cameras; annotated copies, tables, the window, the timeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faceflax.lazy import attach

if TYPE_CHECKING:
    from faceflax.media.drawing import Overlay, draw_faces
    from faceflax.media.images import read_image
    from faceflax.media.outputs import check_output, check_table, write_image
    from faceflax.media.sources import Source, open_file, open_source
    from faceflax.media.table import COLUMNS, INPUT_COLUMNS, SCHEMA, read_rows
    from faceflax.media.timeline import FaceHistory, plot_emotions, read_histories, write_page
    from faceflax.media.window import check_window

__all__ = [
    "COLUMNS",
    "INPUT_COLUMNS",
    "SCHEMA",
    "FaceHistory",
    "Overlay",
    "Source",
    "check_output",
    "check_table",
    "check_window",
    "draw_faces",
    "open_file",
    "open_source",
    "plot_emotions",
    "read_histories",
    "read_image",
    "read_rows",
    "write_image",
    "write_page",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "drawing": ["Overlay", "draw_faces"],
        "images": ["read_image"],
        "outputs": ["check_output", "check_table", "write_image"],
        "sources": ["Source", "open_file", "open_source"],
        "table": ["COLUMNS", "INPUT_COLUMNS", "SCHEMA", "read_rows"],
        "timeline": ["FaceHistory", "plot_emotions", "read_histories", "write_page"],
        "window": ["check_window"],
    },
)
