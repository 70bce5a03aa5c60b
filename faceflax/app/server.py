"""The server: the page and the REST interface behind one guard, on one port."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from faceflax.app.guard import Application, Guard, is_loopback
from faceflax.app.limits import Limits
from faceflax.app.rest import make_api
from faceflax.errors import FaceflaxError, said

if TYPE_CHECKING:  # only annotations need it
    from faceflax.app.answers import Analyzer
    from faceflax.app.explaining import Workbench

MOST_WAITING = 64
"""Connections that are open at the same time; a browser has six."""


def bind(host: str, port: int, token: str | None = None) -> socket.socket:
    """Takes a port.

    Args:
        host: the address to listen at.
        port: 0 for any that is free.
        token: has to be given for a host that other machines reach.

    Raises:
        FaceflaxError: the port is in use or not allowed, there is no such host, or there is no token for it.
    """
    if not 0 <= port <= 65535:
        raise FaceflaxError("port", port, "is not a port", "give a number from 0 to 65535")
    if token is not None and len(token) < 16:
        raise FaceflaxError("token", None, "is too short to be a secret", "give 16 characters or more")
    if token is None and not is_loopback(host):
        problem = "is reached by other machines"
        raise FaceflaxError("host", host, problem, "add --token SECRET, or leave --host out")
    try:
        ((family, kind, protocol, _, address), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise FaceflaxError("host", host, f"is no address of this machine ({said(error)})") from None
    taken = socket.socket(family, kind, protocol)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind(address)
        taken.listen()
    except OSError as error:
        taken.close()
        if isinstance(error, PermissionError):
            raise FaceflaxError("port", port, "is for the administrator", "give one from 1024 on") from None
        if error.errno in (98, 48, 10048):  # EADDRINUSE on Linux, macOS and Windows
            raise FaceflaxError("port", port, "is in use", "give another, or 0 for any that is free") from None
        raise FaceflaxError("host", host, f"cannot be listened at ({said(error)})") from None
    return taken


def make_app(
    analyzer: Analyzer,
    camera: Analyzer,
    limits: Limits,
    *,
    version: str,
    task_labels: Sequence[str] = (),
    workbench: Callable[[], Workbench] | None = None,
    token: str | None = None,
) -> Application:
    """Makes the whole application, for any ASGI server.

    Args:
        analyzer: of pictures, such as ``faceflax.FaceAnalyzer()``.
        camera: of the camera's pictures and of videos, a faster one.
        limits: what is too much.
        version: what ``/healthz`` says.
        task_labels: of the analyzers' third task, if they have one.
        workbench: makes what explains; without it the page has no such tab.
        token: what a request has to bring; None only where no other machine reaches the server.
    """
    from faceflax.app.page import mount

    api = make_api(analyzer, limits, version)
    mount(api, analyzer, camera, limits, None if workbench is None else workbench(), task_labels)
    return Guard(api, token)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what the page keeps while it runs, gone afterwards; no other place gets an upload."""
    folder = Path(tempfile.mkdtemp(prefix="faceflax-app-"))
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before


def serve(application: Application, taken: socket.socket) -> None:
    """Answers requests until Ctrl-C.

    Args:
        application: from :func:`make_app`.
        taken: from :func:`bind`; closed at the end.
    """
    config = uvicorn.Config(
        application,
        log_level="warning",
        ws="none",
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
        limit_concurrency=MOST_WAITING,
    )
    uvicorn.Server(config).run(sockets=[taken])
