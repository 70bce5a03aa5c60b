"""Makes the page that runs the networks in a visitor's browser, from ``docs/browser``; see ``docs/browser.md``.

Commands::

    npm install --prefix docs/browser
    python -m experiments.tools.browser_page --output out/browser
    python -m http.server --bind 127.0.0.1 --directory out/browser
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from faceflax.cli import run
from faceflax.errors import FaceflaxError
from faceflax.files import writable_folder, write

PAGE = Path(__file__).resolve().parents[2] / "docs/browser"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
NETWORKS = {
    "detector": "face_detector-faces",
    "emotion": "mini_xception_antialiased-fer2013",
    "gender": "mini_xception_antialiased-fairface",
}
"""Those of the preset ``fast``."""


@dataclass(frozen=True)
class Options:
    """Make a folder that any file server can serve: page, onnxruntime-web, three networks as ONNX."""

    output: Path = Path("out/browser")
    """The folder."""
    runtime: Path = PAGE / "node_modules/onnxruntime-web/dist"
    """Where onnxruntime-web is."""


def main(options: Options) -> None:
    """Writes the folder."""
    for name in RUNTIME:
        if not (options.runtime / name).is_file():
            remedy = "run: npm install --prefix docs/browser"
            raise FaceflaxError("runtime", options.runtime, f"has no {name}: {{}} is not onnxruntime-web", remedy)
    output = writable_folder("output", options.output)

    import faceflax

    records = {}
    for name, weights in NETWORKS.items():
        info = faceflax.weights_info(weights)
        faceflax.export(weights, output / f"{weights}.onnx", normalize=True)
        records[name] = {
            "file": f"{weights}.onnx",
            "labels": info.labels,
            "image_size": info.image_size,
            "crop_margin": info.crop_margin,
            "sure": info.sure["confidence"] if info.sure is not None else None,
        }
    for file in [*(options.runtime / name for name in RUNTIME), PAGE / "index.html", PAGE / "faces.js"]:
        shutil.copyfile(file, output / file.name)
    write(output / "networks.json", json.dumps(records, indent=2))
    print(f"page: {output}\nnext: python -m http.server --bind 127.0.0.1 --directory {output}")


if __name__ == "__main__":
    run(main, Options)
