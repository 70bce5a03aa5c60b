"""The window of the live loop, and its keys."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from faceflax.errors import FaceflaxError
from faceflax.faces.face import Face
from faceflax.faces.frame import Frame, Image
from faceflax.media.drawing import Overlay, draw_status
from faceflax.media.outputs import write_image
from faceflax.opencv import cv2

Keys = Mapping[str, tuple[str, Callable[[], str | None]]]
"""For each character its meaning in a word or two, and what to call, which may return a message to show."""

_TITLE = "faceflax"


def check_window() -> None:
    """Checks that a window can be opened here, in another process, because Qt ends the one in which it fails.

    Raises:
        FaceflaxError: no display, or an OpenCV without windows.
    """
    probe = [sys.executable, "-c", "import cv2; cv2.namedWindow('faceflax tries')"]
    try:
        subprocess.run(probe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=30)
    except subprocess.SubprocessError:
        display = os.environ.get("DISPLAY", "")
        problem = "a window cannot be opened (no display, with DISPLAY {}, or a headless OpenCV)"
        remedy = "run without a window, with an output, csv or jsonl file for the results"
        raise FaceflaxError("window", display, problem, remedy) from None


@contextmanager
def screen(kind: str, overlay: Overlay, keys: Keys, snapshots: Path) -> Iterator[Screen]:
    """Yields a :class:`Screen`, and closes the window at the end of the block."""
    try:
        yield Screen(kind, overlay, keys, snapshots)
    finally:
        cv2.destroyAllWindows()


class Screen:
    """A window that shows a video at its own speed, a camera as it comes, an image until a key is pressed.

    p or space pauses, s saves what is shown, q or Escape or the close button ends it. Use it in the main thread.

    Args:
        kind: of the source.
        overlay: draws a frame that stands still again when one of ``keys`` was pressed.
        keys: more keys.
        snapshots: the folder for the images that s saves.
    """

    def __init__(self, kind: str, overlay: Overlay, keys: Keys, snapshots: Path) -> None:
        self._kind = kind
        self._overlay = overlay
        self._snapshots = snapshots
        self._keys: dict[str, tuple[str, Callable[[], str | None]]] = {
            **{"q": ("quit", self._quit), "p": ("pause", self._pause), "s": ("save", self._save)},
            **keys,
        }
        self._switches = keys  # what they change is seen at once, even on a frame that stands still
        self._still = kind in ("image", "folder")
        self._drawn: Image | None = None
        self._open, self._paused = True, False
        self._origin = 0.0  # when a frame of time 0 would have been shown
        self._message, self._message_until = "", 0.0

    def idle(self) -> bool:
        """Handles keys while there is nothing new to show; False once the user wants to stop."""
        if self._drawn is not None:
            self._press(0.001)
        return self._open

    def show(self, frame: Frame, faces: Sequence[Face], drawn: Image, status: str, stop: threading.Event) -> bool:
        """Shows a frame until the next one is due; False once the user wants to stop.

        Args:
            frame: as it came.
            faces: what was found in it.
            drawn: the frame with its overlay.
            status: the line of text below it.
            stop: set by another thread to stop.
        """
        if self._drawn is None:
            height, width = drawn.shape[:2]
            shrink = min(1.0, 1280 / width, 720 / height)
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            cv2.resizeWindow(_TITLE, max(160, round(width * shrink)), max(90, round(height * shrink)))
            self._origin = time.perf_counter() - frame.time
        self._drawn = drawn
        while self._open and not stop.is_set():
            self._draw(status)
            began = time.perf_counter()
            waits = self._paused or self._still
            left = 0.0 if self._kind == "camera" else self._origin + frame.time - began
            pressed = self._press(0.05 if waits else left)
            if waits and pressed in self._switches:
                self._drawn = self._overlay(frame, faces)
            if self._paused:
                self._origin += time.perf_counter() - began
            elif pressed and pressed not in self._keys if self._still else left <= 0.05:
                break
        return self._open

    def _draw(self, status: str) -> None:
        assert self._drawn is not None
        shown = self._drawn.copy()
        keys = "   ".join(f"{key}: {meaning}" for key, (meaning, _) in self._keys.items())
        said = self._message if time.perf_counter() < self._message_until else keys
        draw_status(shown, f"{'paused' if self._paused else status}   {said}")
        cv2.imshow(_TITLE, shown)

    def _press(self, seconds: float) -> str:
        """Waits for a key, at most 50 ms, and does what it means; returns it, or nothing."""
        key = cv2.waitKey(max(1, min(50, round(1000 * seconds))))
        if not _visible():
            self._open = False
        if key == -1:
            return ""
        name = {" ": "p", "\x1b": "q"}.get(chr(key & 0xFF), chr(key & 0xFF))
        if name in self._keys:
            message = self._keys[name][1]()
            if message:
                self._message, self._message_until = message, time.perf_counter() + 3
        return name

    def _quit(self) -> None:
        self._open = False

    def _pause(self) -> None:
        self._paused = not self._paused

    def _save(self) -> str:
        assert self._drawn is not None
        file = self._snapshots / f"faceflax-{datetime.now():%Y%m%d-%H%M%S-%f}.png"
        try:
            write_image(file, self._drawn)
        except FaceflaxError as error:
            return f"not saved: {error.reason}"
        return f"saved {file}"


def _visible() -> bool:
    try:
        return cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:  # Qt raises once the last window is closed
        return False
