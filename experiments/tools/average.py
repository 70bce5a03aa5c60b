"""The average of two networks' weights: what a later training learned, without all of what it forgot.

Command::

    python -m experiments.tools.average runs/before/weights.safetensors runs/after/weights.safetensors \\
        --share 0.7 --output runs/average.safetensors

Where the second training began with the first one's weights, the average is often right on more images of both kinds
than either: Wortsman et al., "Robust Fine-Tuning of Zero-Shot Models", CVPR 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from faceflax.cli import run
from faceflax.errors import FaceflaxError, renaming


@dataclass(frozen=True)
class Options:
    """Average the weights of two networks of one kind."""

    before: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BEFORE")]
    """Weights: a shipped name or a .safetensors file."""
    after: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="AFTER")]
    """The others, of the same network, labels and image size."""
    output: Path
    """The .safetensors file to write."""
    share: float = 0.5
    """Of the second, from 0 to 1."""


def main(options: Options) -> None:
    """Reads both and writes their average."""
    if not 0 <= options.share <= 1:
        raise FaceflaxError("share", options.share, "is no share", "give a number from 0 to 1")

    import jax

    from faceflax import pretrained

    with renaming(weights="before"):
        first = pretrained.load(options.before)
    with renaming(weights="after"):
        second = pretrained.load(options.after)
    for name in ("arch", "labels", "image_size"):
        one, other = getattr(first.info, name), getattr(second.info, name)
        if one != other:
            raise FaceflaxError("after", options.after, f"has the {name} {other}, the first {one}", "name its like")
    info = pretrained.save(
        options.output,
        jax.tree.map(lambda x, y: (1 - options.share) * x + options.share * y, first.variables, second.variables),
        arch=second.info.arch,
        dataset=second.info.dataset,
        labels=second.info.labels,
        image_size=second.info.image_size,
        crop_margin=second.info.crop_margin,
    )
    print(f"{options.output}  sha256 {info.sha256}")


if __name__ == "__main__":
    run(main, Options)
