"""Prints what a bug report needs: versions, engine, cache, weights, cameras, display."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGES = (
    *("jax", "jaxlib", "flax", "numpy", "scipy", "opencv-python", "opencv-python-headless", "opencv-contrib-python"),
    *("opencv-contrib-python-headless", "av", "pillow", "pillow-heif", "matplotlib", "safetensors", "tyro"),
)
CAMERAS = 4
"""Camera indices that are tried, from 0 on."""
CAMERA_SECONDS = 15
"""How long all of them may take to open."""

_PROBE = f"""
import cv2
for index in range({CAMERAS}):
    camera = cv2.VideoCapture(index)
    if camera.isOpened():
        size = [int(camera.get(which)) for which in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
        print(index, *size, flush=True)
    camera.release()
"""


@dataclass(frozen=True)
class Options:
    """Print versions, compute engine, cache, weights, cameras and displays: what a bug report needs.

    It opens each camera for a moment. Nothing is sent anywhere.
    """

    json: bool = False
    """Print it as JSON."""


def main(options: Options) -> None:
    """Prints the sections as they are found; one that fails says why in a line."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, section in SECTIONS.items():
        try:
            found[name] = section()
        except Exception as error:  # whatever is broken here is what the user wants to know of
            found[name] = {"problem": _one_line(error)}
        if not options.json:
            print("\n".join(_lines(name, found[name])), flush=True)
    if options.json:
        print(json.dumps(found, indent=2))


def versions() -> dict[str, Any]:
    """faceflax, Python, the system, the processor, and the packages that matter."""
    import faceflax

    found = {
        "faceflax": faceflax.__version__,
        "installed in": str(Path(faceflax.__file__).parent),
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
    }
    return found | {name: version for name in PACKAGES if (version := _version(name)) is not None}


def extras() -> dict[str, Any]:
    """For each extra whether its packages are there."""
    from faceflax.errors import EXTRAS

    missing = {
        extra: [package for package in packages if importlib.util.find_spec(package) is None]
        for extra, packages in EXTRAS.items()
    }
    return {
        extra: f"lacks {', '.join(names)}: pip install 'faceflax[{extra}]'" if names else "installed"
        for extra, names in missing.items()
    }


def engine() -> dict[str, Any]:
    """What computes the networks."""
    from faceflax import native

    found = {"networks on the CPU": str(native.status())}
    import jax

    return found | {"JAX devices": ", ".join(map(str, jax.devices()))}


def cache() -> dict[str, Any]:
    """The cache folder and its size."""
    from faceflax.files import cache_folder, writable_folder

    folder = cache_folder()
    if folder is None:
        return {"folder": "none: there is no home folder; $FACEFLAX_CACHE_DIR can name one"}
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()] if folder.exists() else []
    found: dict[str, Any] = {"folder": str(folder), "files": len(sizes), "size": f"{sum(sizes) / 2**20:.1f} MiB"}
    try:
        writable_folder("FACEFLAX_CACHE_DIR", folder)
    except ValueError as error:
        return found | {"writable": f"no ({error})"}
    return found | {"writable": "yes"}


def weights() -> dict[str, Any]:
    """The shipped weights, whether their files are whole, and their accuracy."""
    import faceflax

    found = {}
    for name in faceflax.list_weights():
        try:
            info = faceflax.weights_info(name)
            faceflax.load(name)  # which verifies the SHA-256
            accuracy = ", ".join(f"{split} {share:.2%}" for split, share in (info.accuracy or {}).items())
            found[name] = f"SHA-256 {info.sha256[:12]} ok; {accuracy or 'accuracy not recorded'}"
        except Exception as error:
            found[name] = _one_line(error)
    return found


def cameras() -> dict[str, Any]:
    """The cameras that open, by index."""
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=CAMERA_SECONDS, check=False
        )
        lines, end = probe.stdout, ""
        if probe.returncode:
            end = f"looking for cameras ended with status {probe.returncode}"
    except subprocess.TimeoutExpired as expired:
        lines = expired.stdout.decode() if isinstance(expired.stdout, bytes) else expired.stdout or ""
        end = f"a camera did not answer in {CAMERA_SECONDS} s"
    found: dict[str, Any] = {}
    for line in lines.splitlines():
        index, width, height = line.split()
        found[index] = f"{width}x{height}"
    if end:
        found["problem"] = end
    return found or {"found": f"none at the indices 0 to {CAMERAS - 1}"}


def display() -> dict[str, Any]:
    """Whether a window can be opened, and where."""
    from faceflax.media.window import check_window

    named = {name: os.environ[name] for name in ("DISPLAY", "WAYLAND_DISPLAY") if name in os.environ}
    try:
        check_window()
    except ValueError as error:
        return {**named, "window": f"no ({_one_line(error)})"}
    return {**named, "window": "yes"}


def interpretation() -> dict[str, Any]:
    """Whether the package ``interpret`` is ours."""
    from faceflax.cli import plugins

    problem = plugins.shadowed("interpret")
    other = next((name for name in ("interpret-core", "interpret") if _version(name) is not None), None)
    found = {"package interpret": "faceflax's" if problem is None else str(problem)}
    if other is not None:
        found["InterpretML"] = f"{other} {_version(other)} is installed beside it, under the same import name"
    return found


SECTIONS: dict[str, Callable[[], Mapping[str, Any]]] = {
    "versions": versions,
    "extras": extras,
    "engine": engine,
    "cache": cache,
    "weights": weights,
    "cameras": cameras,
    "display": display,
    "attribution": interpretation,
}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _lines(name: str, section: Mapping[str, Any]) -> list[str]:
    width = max(map(len, section), default=0)
    return [name, *(f"  {key:<{width}}  {value}" for key, value in section.items()), ""]


def _one_line(error: Exception) -> str:
    from faceflax.errors import FaceflaxError, said

    return str(error) if isinstance(error, FaceflaxError) else said(error, kind=True)
