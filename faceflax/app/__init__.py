"""faceflax in a browser and over HTTP: a page with pictures, camera, videos and explanations, and a REST interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faceflax.lazy import attach

if TYPE_CHECKING:
    from faceflax.app.explaining import Explained, Workbench
    from faceflax.app.limits import Limits
    from faceflax.app.rest import make_api
    from faceflax.app.server import bind, make_app, scratch, serve

__all__ = ["Explained", "Limits", "Workbench", "bind", "make_api", "make_app", "scratch", "serve"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "explaining": ["Explained", "Workbench"],
        "limits": ["Limits"],
        "rest": ["make_api"],
        "server": ["bind", "make_app", "scratch", "serve"],
    },
)
