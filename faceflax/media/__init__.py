"""Pixels in and out: images, videos and cameras; annotated copies, tables, the window, the timeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faceflax.lazy import attach

if TYPE_CHECKING:
    from faceflax.media.drawing import Overlay, draw_faces
    from faceflax.media.images import read_image
    from faceflax.media.outputs import CSV_COLUMNS, check_output, check_table, csv_lines, json_lines, write_image
    from faceflax.media.sources import Source, open_file, open_source
    from faceflax.media.timeline import FaceHistory, read_histories, write_page
    from faceflax.media.window import check_window

__all__ = [
    "CSV_COLUMNS",
    "FaceHistory",
    "Overlay",
    "Source",
    "check_output",
    "check_table",
    "check_window",
    "csv_lines",
    "draw_faces",
    "json_lines",
    "open_file",
    "open_source",
    "read_histories",
    "read_image",
    "write_image",
    "write_page",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "drawing": ["Overlay", "draw_faces"],
        "images": ["read_image"],
        "outputs": ["CSV_COLUMNS", "check_output", "check_table", "csv_lines", "json_lines", "write_image"],
        "sources": ["Source", "open_file", "open_source"],
        "timeline": ["FaceHistory", "read_histories", "write_page"],
        "window": ["check_window"],
    },
)
