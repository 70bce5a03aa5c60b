"""Serves the browser app and the REST interface: ``faceflax app``."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from faceflax.cli.detection import DetectionOptions, PresetName, make_analyzer, networks
from faceflax.cli.metavars import Weights

if TYPE_CHECKING:
    import socket

FAST: PresetName = "fast"
"""The networks of the camera and of videos."""


@dataclass(frozen=True)
class Options:
    """Open a page for pictures, the camera, videos and explanations in the browser; POST /v1/analyze answers programs.

    Everything is computed here: no request leaves this machine, and no upload is kept. Ctrl-C ends it. docs/app.md says
    more.
    """

    port: int = 7860
    """Where it listens; 0 takes any port that is free."""
    host: str = "127.0.0.1"
    """The address it listens at; one that other machines reach needs --token."""
    token: Annotated[str | None, tyro.conf.arg(metavar="SECRET")] = None
    """What each request has to bring, 16 characters or more: as ?token=SECRET once, or as Authorization: Bearer."""
    browser: bool = True
    """Open the page in this machine's browser."""
    megabytes: float = 20.0
    """Largest file that is taken."""
    upload_seconds: float = 30.0
    """Longest time for a picture to arrive at /v1/analyze."""
    video_seconds: float = 60.0
    """How much of a video is analyzed."""
    preset: PresetName = "accurate"
    """Which networks pictures get: fast, or accurate. The camera and videos get the fast ones."""
    emotion_weights: Weights | None = None
    """Weights for perceived emotion in place of the preset's: a shipped name or a .safetensors file."""
    gender_weights: Weights | None = None
    """Weights for perceived gender in place of the preset's: a shipped name or a .safetensors file."""
    task_weights: Weights | None = None
    """Weights for a task of your own, with any labels: a .safetensors file that faceflax train has made."""
    quiet: bool = False
    """Print the address alone."""
    detection: Annotated[DetectionOptions, tyro.conf.arg(name="")] = field(default_factory=DetectionOptions)


def main(options: Options) -> None:
    """Takes the port, makes all that requests need, and serves until Ctrl-C."""
    options.detection.check()

    import faceflax
    from faceflax import app
    from faceflax.cli import plugins

    limits = app.Limits(options.megabytes, options.upload_seconds, options.video_seconds)
    taken = app.bind(options.host, options.port, options.token)  # what is in use is said before the networks are made
    with taken, app.scratch():
        emotion = networks(FAST, options.emotion_weights, options.gender_weights).emotion
        weights = options.emotion_weights, options.gender_weights
        pictures, camera = (
            make_analyzer(preset, *weights, options.detection.for_images(preset), options.task_weights)
            for preset in (options.preset, FAST)
        )
        application = app.make_app(
            pictures,
            camera,
            limits,
            task_labels=pictures.task_labels,
            version=faceflax.__version__,
            workbench=lambda: plugins.workbench(emotion, options.task_weights),
            token=options.token,
        )
        address = address_of(options.host, taken)
        print(
            address if options.quiet else f"faceflax is at {address} (REST: {address}docs); Ctrl-C ends it", flush=True
        )
        if options.browser:
            _open(address, options.token)
        app.serve(application, taken)


def address_of(host: str, taken: socket.socket) -> str:
    """Returns the address of a port that was taken."""
    port = taken.getsockname()[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _open(address: str, token: str | None) -> threading.Timer:
    """Opens the browser as soon as the server answers; without one, says that the address has to do."""
    import webbrowser

    def open_it() -> None:
        if not webbrowser.open(address if token is None else f"{address}?token={token}"):
            said = f"no browser could be opened here: open {address} in one, or start with --no-browser"
            print(said, file=sys.stderr, flush=True)

    timer = threading.Timer(1.0, open_it)
    timer.start()
    return timer
