"""How a detected face is to be cut out for a network: as the images were that it was trained on, measured.

Commands::

    python -m experiments.crop_margin --dataset fer2013
    python -m experiments.crop_margin --dataset fairface --weights mini_xception-fairface
    python -m experiments.crop_margin --dataset fer2013 --weights mini_xception-fer2013

The first measures, on the training split, how far the images reach beyond a Haar box and where in them the box lies;
the median margin stands in the dataset's builder as ``CROP_MARGIN``, and the spread is what random shifts and zooms in
training have to cover. The others cut the faces that are found out with other margins and further down, and say how
often the weights label these crops right, on the validation split.

Results, in shares of the box's side:

* FER-2013: margin 0.013 (quartiles -0.015 to 0.058) over 1,469 faces, box centre in the middle within 0.01.
* FairFace: margin 0.016 (-0.010 to 0.049) over 1,403 faces; the box's centre lies 0.084 above the image's.
* Accuracy on crops, on the faces found among the first 2,000 of the validation split. ``mini_xception-fairface``, 1,438
  faces: 88.6% to 89.9% at margins 0 to 0.05 and shifts -0.05 to 0.1 down, 89.2% as it is used (0.02, no shift), 89.7%
  on the dataset's own crops; a margin of 0.2 makes it 82.2%. ``mini_xception-fer2013``, 1,503 faces: 64.9% to 66.5%,
  66.3% as it is used, 67.1% on its own crops; 59.1% at 0.2. Within margins of 0.05 all is inconclusive (an
  interval is 3 to 5 points wide), so crops stay centred on the box; training shifts images by a tenth of their side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from faceflax.cli import run
from faceflax.errors import FaceflaxError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int32, UInt8

MARGINS = (0.0, 0.02, 0.05, 0.1, 0.2)
SHIFTS = (-0.05, 0.0, 0.05, 0.1)
"""Downwards, as shares of the box's side."""


@dataclass(frozen=True)
class Options:
    """Measure margins on images in which Haar finds one face, or how often crops of them are labelled right."""

    dataset: str = "fer2013"
    """A prepared dataset."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    weights: str | None = None
    """Weights of that dataset: measure accuracy over margins and shifts on its validation split instead."""
    count: int = 2000
    """Images to measure on."""


def main(options: Options) -> None:
    """Finds the faces and prints what was asked for."""
    from faceflax import data
    from faceflax.evaluation.detected import SIDE, find_faces
    from faceflax.faces.haar import HaarDetector

    split = "validation" if options.weights else "train"
    examples = data.load(options.dataset, split, image_size=SIDE, data_dir=options.data_dir)
    images = examples.images[: options.count]
    boxes = find_faces(images, HaarDetector(min_size=SIDE // 3))
    found = [i for i, faces in enumerate(boxes) if len(faces) == 1]
    print(f"{options.dataset}: one face found in {len(found)} of {len(images)} images")
    if not found:
        raise FaceflaxError("dataset", options.dataset, "no face is found in {}", "give another, or a higher count")
    faces = [boxes[i][0] for i in found]
    if options.weights:
        print(*accuracies(options, images[found], faces, examples.labels[found]), sep="\n")
    else:
        print(*margins(faces), sep="\n")


def margins(boxes: list[Int32[np.ndarray, " 4"]]) -> Iterator[str]:
    """Yields how far images reach beyond the boxes found in them, and where the boxes lie, a line each.

    Args:
        boxes: one in each image's frame (:func:`faceflax.evaluation.detected.frame_of`).
    """
    import numpy as np

    from faceflax.evaluation.detected import BORDER, SIDE

    x, y, width, height = np.array(boxes, float).T
    beyond = (SIDE / width - 1) / 2
    low, median, high = np.percentile(beyond, [25, 50, 75])
    yield f"margin {median:.3f} (quartiles {low:.3f} to {high:.3f})"
    for name, centre in (("right", x + width / 2), ("down", y + height / 2)):
        offset = ((centre - BORDER) / SIDE - 0.5) * SIDE / width
        yield f"box centre {offset.mean():+.3f} {name} of the image's, standard deviation {offset.std():.3f}"
    yield f"box side: standard deviation {(width / width.mean()).std():.3f} of the mean"


def accuracies(
    options: Options,
    images: UInt8[np.ndarray, "n side side 1"],
    boxes: list[Int32[np.ndarray, " 4"]],
    labels: Int32[np.ndarray, " n"],
) -> Iterator[str]:
    """Yields the lines of a table of accuracy over margins and shifts, after that on the dataset's own crops."""
    import numpy as np

    from faceflax import data, pretrained
    from faceflax.evaluation import Share, predict_logits
    from faceflax.evaluation.detected import crop_faces
    from faceflax.preprocessing import resize

    assert options.weights is not None
    loaded = pretrained.load(options.weights)
    (model, variables), info = loaded, loaded.info
    names = data.load(options.dataset, "validation", image_size=48, data_dir=options.data_dir).names
    if names != info.labels:
        problem = f"has other classes than {options.dataset}"
        raise FaceflaxError("weights", options.weights, problem, "name its weights")

    def share(crops: np.ndarray) -> Share:
        return Share.of(predict_logits(model, variables, crops).argmax(-1) == labels)

    own = np.stack([resize(image[:, :, 0], info.image_size) for image in images])[..., None]
    yield f"the dataset's own crops: {share(own)}"
    yield " ".join(["margin", *(f"{shift:+.2f} down" for shift in SHIFTS)])
    for margin in MARGINS:
        cells = []
        for shift in SHIFTS:
            moved = [box + np.array([0, round(shift * box[3]), 0, 0], box.dtype) for box in boxes]
            cells.append(f"{share(crop_faces(images, moved, margin, info.image_size)).value:>10.2%}")
        yield f"{margin:<6} {' '.join(cells)}"


if __name__ == "__main__":
    run(main, Options)
