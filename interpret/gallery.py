"""Draws a figure for each method, for ``interpret/README.md``: ``python -m interpret.gallery``."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from faceflax.cli import Weights, run
from faceflax.errors import unknown
from faceflax.files import replacing, writable_file, writable_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from jaxtyping import UInt8
    from matplotlib.figure import Figure

MAXIMISED = "activation_maximisation"
DPI = 120


@dataclass(frozen=True)
class Options:
    """Draw what each attribution method makes of three faces: a photograph (matplotlib's) and two synthetic ones.

    Methods that need attention are drawn for a small ViT that is taught tags (python -m interpret.shapes).
    """

    weights: Weights = "mini_xception-fer2013"
    """Name or .safetensors file of the network's weights."""
    methods: tuple[str, ...] = ()
    """The methods; all if not given."""
    output: Path = Path("docs/interpret")
    """Folder for METHOD.png."""


def main(options: Options) -> None:
    """Writes the figures."""
    from tqdm import tqdm

    from interpret.methods import METHODS

    names = (*METHODS, MAXIMISED)
    for name in options.methods:
        if name not in names:
            raise unknown("methods", name, names)
    folder = writable_folder("output", options.output)
    files = {name: writable_file("output", folder / f"{name}.png") for name in options.methods or names}
    draw = _figures(options.weights)
    for name, file in tqdm(files.items(), "figures", leave=False):
        with replacing(file) as temporary:
            draw(name).savefig(temporary, dpi=DPI, format="png", pil_kwargs={"optimize": True})
    print(f"figures: {len(files)} in {folder}")


def _figures(weights: str) -> Callable[[str], Figure]:
    """Returns what draws the figure of a method."""
    import jax.numpy as jnp
    import numpy as np
    from matplotlib.figure import Figure

    from faceflax import models, pretrained
    from faceflax.preprocessing import normalize
    from interpret import shapes
    from interpret.attribution import apply
    from interpret.figures import Panel, attribution_grid
    from interpret.maximisation import activation_maximisation
    from interpret.methods import ATTENTION, CAMS, METHODS, UNSIGNED
    from interpret.scenes import scaled

    loaded = pretrained.load(weights)
    (model, variables), info = loaded, loaded.info
    faces = _faces(info.image_size, info.crop_margin)
    images = jnp.asarray(normalize(faces)[..., None])
    target = np.asarray(apply(model, variables, images)[0]).argmax(-1)
    late = models.layer_names(model, info.image_size)[-3]  # finer than the last, where all class activation maps agree

    def attributed(name: str) -> Figure:
        layer = {"layer": late} if name in CAMS else {}
        maps = np.asarray(METHODS[name](model, variables, images, target, **layer))[..., 0]
        perceived = ", ".join(info.labels[k] for k in target)
        at = f", at {late}" if layer else ""
        return attribution_grid(
            {"": np.arange(len(faces))},
            faces,
            [Panel(name, maps)],
            title="",
            caption=f"{info.name}{at}; of what it perceives: {perceived}",
            signed=name not in UNSIGNED,
        )

    def maximised() -> Figure:
        classes = jnp.arange(len(info.labels))
        start = jnp.zeros((len(classes), *images.shape[1:]))
        best = np.asarray(activation_maximisation(model, variables, start, classes))[..., 0]
        figure = Figure((1.05 * len(classes), 1.3), layout="constrained")
        for axes, label, image in zip(figure.subplots(1, len(classes)), info.labels, best, strict=True):
            axes.imshow(image, cmap="gray", vmin=-1, vmax=1)
            axes.set_title(label, fontsize=8, parse_math=False)
            axes.axis("off")
        return figure

    @functools.cache
    def taught() -> shapes.Case:
        return shapes.taught_networks(shapes.Options(samples=3), ["ViT"], ["tag"])["ViT", "tag"]

    def attending(name: str) -> Figure:
        case = taught()
        maps = np.asarray(METHODS[name](case.model, case.variables, scaled(case.scenes.images), case.target))[..., 0]
        return attribution_grid(
            {"": np.arange(len(maps))},
            case.scenes.images,
            [Panel(name, maps)],
            title="",
            caption="a small ViT that knows tags (python -m interpret.shapes)",
            column="picture",
            signed=name not in UNSIGNED,
        )

    def figure(name: str) -> Figure:
        if name == MAXIMISED:
            return maximised()
        return attending(name) if name in ATTENTION else attributed(name)

    return figure


def _faces(size: int, margin: float) -> UInt8[np.ndarray, "3 size size"]:
    import numpy as np

    from faceflax.data.synthetic import render_faces
    from faceflax.faces.crop import crop_face
    from faceflax.faces.haar import HaarDetector
    from faceflax.labels import EMOTIONS
    from faceflax.media.demo import photograph
    from faceflax.opencv import cv2

    photo = photograph()
    portrait = crop_face(
        cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY), HaarDetector()(photo)[0].box.astype(int), margin, size
    )
    synthetic = render_faces(14, seed=0, image_size=size)
    shown = [int(np.flatnonzero(synthetic.emotions == EMOTIONS.index(name))[0]) for name in ("happy", "surprise")]
    return np.stack([portrait, *synthetic.images[shown, ..., 0]])


if __name__ == "__main__":
    run(main, Options)
