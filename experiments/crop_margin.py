"""How much wider than a Haar box a dataset's pictures are, so that live crops match what a network was trained on.

Command: ``python -m experiments.crop_margin --dataset fer2013`` (or fairface), on the training split.

Result: the crop margin, in shares of the box's side added on each side; it stands in the builder as ``CROP_MARGIN``.
FER-2013: 0.013 (quartiles -0.015 to 0.058) over 1,469 faces; FairFace: 0.016 (-0.010 to 0.049) over 1,403.
FairFace's box centre lies 8.4% of the side above the picture's; FER-2013's is in the middle within 1%.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from faceflax.commands import run


@dataclass(frozen=True)
class Options:
    """Measure, on pictures where Haar finds one face, how far the picture reaches beyond the box."""

    dataset: str = "fer2013"
    """A prepared dataset."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    count: int = 2000
    """Pictures of the training split to measure on."""


def main(options: Options) -> None:
    """Prints the median margin with its quartiles, and where the box lies in the picture."""
    import numpy as np

    from faceflax import data
    from faceflax.training.detected import BORDER, SIDE, find_faces
    from faceflax.vision.detection import HaarDetector

    examples = data.load(options.dataset, "train", image_size=SIDE, data_dir=options.data_dir)
    margins, offsets = [], []
    for boxes in find_faces(examples.images[: options.count], HaarDetector(min_size=SIDE // 3)):
        if len(boxes) == 1:
            x, y, width, height = boxes[0]
            margins.append((SIDE / width - 1) / 2)
            offsets.append([(x + width / 2 - BORDER) / SIDE - 0.5, (y + height / 2 - BORDER) / SIDE - 0.5])
    low, median, high = np.percentile(margins, [25, 50, 75])
    right, down = np.mean(offsets, axis=0)
    print(f"{options.dataset}: one face found in {len(margins)} of {min(options.count, len(examples.images))} pictures")
    print(f"margin {median:.3f} (quartiles {low:.3f} to {high:.3f}); box centre {right:+.3f} right, {down:+.3f} down")


if __name__ == "__main__":
    run(main, Options)
