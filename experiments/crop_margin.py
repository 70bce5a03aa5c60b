"""How a detected face is to be cut out for a network: as the images were that it was trained on, measured.

Commands::

    python -m experiments.crop_margin --dataset fer2013
    python -m experiments.crop_margin --dataset fairface --weights mini_xception-fairface
    python -m experiments.crop_margin --dataset fer2013 --weights mini_xception-fer2013 --detector faceflax
    python -m experiments.crop_margin --dataset fer2013 --landmarks FILE.onnx
    python -m experiments.crop_margin --dataset fer2013 --landmarks FILE.onnx --weights mini_xception-fer2013

The first measures, on the training split, how far the images reach beyond a Haar box, or with ``--detector faceflax``
beyond the square that its landmarks give, and where in them it lies; the dataset's builder has the median margin, or
one as good, as ``CROP_MARGIN``, and the spread is what random shifts and zooms in training have to cover. The others
cut the faces that are found out with other margins and further down, and say how often the weights label these crops
right, on the validation split. The fourth compares Haar's square with the landmarks and boxes that another detector
finds in the same images, a YuNet file or ``faceflax``: the medians stand in ``faceflax.faces.square``, by which faces
with landmarks are cut as Haar's are. The last turns the images and says how often the faces are found and labelled
right, cut at Haar's boxes and at the other detector's landmarks.

Results, in shares of the box's side:

* FER-2013: margin 0.013 (quartiles -0.015 to 0.058) over 1,469 faces, box centre in the middle within 0.01.
* FairFace: margin 0.016 (-0.010 to 0.049) over 1,403 faces; the box's centre lies 0.084 above the image's. Both
  datasets' builders have 0.016, so that a face is cut out once for both networks.
* Accuracy on crops, on the faces found among the first 2,000 of the validation split. ``mini_xception-fairface``, 1,438
  faces: 88.6% to 89.9% at margins 0 to 0.05 and shifts -0.05 to 0.1 down, 89.2% as it is used (0.02, no shift), 89.7%
  on the dataset's own crops; a margin of 0.2 makes it 82.2%. ``mini_xception-fer2013``, 1,503 faces: 64.9% to 66.5%,
  66.3% as it is used, 67.1% on its own crops; 59.1% at 0.2. Within margins of 0.05 all is inconclusive (an
  interval is 3 to 5 points wide), so crops stay centred on the box; training shifts images by a tenth of their side.
* Haar's square from the landmarks of YuNet (face_detection_yunet_2026may), medians over 1,438 faces of FER-2013 and
  1,364 of FairFace: the side is 2.69 and 2.72 means of the eyes' distance and that from eyes to mouth (quartiles 2.51
  to 2.85, 2.60 to 2.87), the centre lies 0.118 and 0.111 of it below the eyes' middle and 0.005 to its right; from
  YuNet's box, the side is 0.954 and 0.958 of its height (0.88 to 1.03, 0.90 to 1.02) about the same centre within 0.01.
* Tilt, ``mini_xception-fairface`` with YuNet's landmarks (``--count 400``, 287 faces): labelled right of all, Haar's
  90.6% upright, 67.9% and 67.6% at 15 degrees either way, 2.1% and 4.9% at 30, 3.1% and 1.4% at 45; with landmarks
  89.9%, 85.0% and 86.8%, 61.0% and 61.7%, 15.0% and 16.7%. Of the faces that YuNet finds 91.2% are labelled right
  upright, 91% at 15 degrees, 89% at 30: what is lost then is not found. ``mini_xception-fer2013``, 322 faces: Haar's
  66.1%, 49.7% and 45.0%, 9.0% and 6.5%, 1.9% and 1.2%; with landmarks 67.4%, 62.1% and 61.5%, 44.4% and 42.2%, 15.2%
  and 14.3%; of those found 68.5% upright, 66% at 15 degrees, 69% at 30.
* The same with ``--detector faceflax`` (``face_detector-faces``): margin 0.026 on FER-2013 (-0.017 to 0.092) over
  1,663 faces, centre in the middle within 0.01, tilt 5.8 degrees (standard deviation); 0.025 on FairFace (-0.001 to
  0.055) over 1,556 faces, 0.084 above the image's centre. Accuracy at margins 0 to 0.05 and shifts 0 to 0.1 down:
  ``mini_xception-fer2013``, 1,687 faces, 65.4% to 67.0%, 66.8% as it is used, 66.5% on its own crops;
  ``mini_xception-fairface``, 1,596 faces, 88.6% to 89.7%, 89.7% as it is used, 88.5% on its own crops.
* Tilt, ``mini_xception-fer2013`` with ``--landmarks faceflax --count 300`` (239 faces): found 97.5% upright, 95% to
  96% at 15 degrees, 96% to 98% at 30, 88% to 93% at 45, 38% to 40% at 60 (Haar: 100%, 70% to 72%, 13% to 15%, 4% to
  5%, 2% to 3%); of the found 69.5% are right upright, 69.0% to 73.5% at 15 to 45 degrees; and 87% to 89% have the
  label that they have upright at 15 and 30 degrees, 85% to 86% at 45.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from faceflax.cli import run
from faceflax.errors import FaceflaxError, renaming

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int32, UInt8

    from faceflax.evaluation.detected import View
    from faceflax.faces.detection import Detection, Detector

MARGINS = (0.0, 0.02, 0.05, 0.1, 0.2)
SHIFTS = (-0.05, 0.0, 0.05, 0.1)
"""Downwards, as shares of the box's side."""
TILTS = (-60, -45, -30, -15, 0, 15, 30, 45, 60)
"""Degrees, clockwise as seen."""


@dataclass(frozen=True)
class Options:
    """Measure margins on images in which one face is found, or how often crops of them are labelled right."""

    dataset: str = "fer2013"
    """A prepared dataset."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    weights: str | None = None
    """Weights of that dataset: measure accuracy over margins and shifts on its validation split instead."""
    detector: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "haar"
    """What finds the faces: haar, faceflax or a YuNet file."""
    landmarks: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE")] = None
    """A detector with landmarks: compare with them where Haar finds the same face of the training split."""
    count: int = 2000
    """Images to measure on."""


def main(options: Options) -> None:
    """Finds the faces and prints what was asked for."""
    from faceflax import data
    from faceflax.evaluation.detected import SIDE, View, frame_of, search_frames
    from faceflax.faces import make_detector

    split = "validation" if options.weights else "train"
    examples = data.load(options.dataset, split, image_size=SIDE, data_dir=options.data_dir)
    images = examples.images[: options.count]
    everything = search_frames(images, make_detector(options.detector, min_face=SIDE // 3))
    found = [i for i, faces in enumerate(everything) if len(faces) == 1]
    print(f"{options.dataset}: one face found in {len(found)} of {len(images)} images")
    if not found:
        raise FaceflaxError("dataset", options.dataset, "no face is found in {}", "give another, or a higher count")
    views = [View(frame_of(images[i, :, :, 0])[:, :, 0], everything[i][0]) for i in found]
    if options.landmarks:
        with renaming(detector="landmarks"):
            detector = make_detector(options.landmarks)
        if options.weights:
            print(*tilts(options, images[found], examples.labels[found], detector), sep="\n")
            return
        others = [each[0] if len(each) == 1 else None for each in search_frames(images[found], detector)]
        print(*squares([view.face for view in views], others), sep="\n")
    elif options.weights:
        print(*accuracies(options, images[found], views, examples.labels[found]), sep="\n")
    else:
        print(*margins(views), sep="\n")


def squares(faces: list[Detection], others: list[Detection | None]) -> Iterator[str]:
    """Yields how Haar's squares lie to the landmarks and boxes of another detector: quartiles, a line each.

    Args:
        faces: found by Haar, one in each image's frame.
        others: found by the other detector, None where it does not find one face.

    Raises:
        FaceflaxError: no face with landmarks that lies where Haar's does.
    """
    import numpy as np

    from faceflax.faces.detection import boxes_of

    pairs = [(face, other) for face, other in zip(faces, others, strict=True) if other and other.landmarks is not None]
    haar, boxes = boxes_of([face for face, _ in pairs]), boxes_of([other for _, other in pairs])
    centers, side = haar[:, :2] + haar[:, 2:] / 2, haar[:, 2]
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    same = np.abs(middles - centers).max(1) < 0.4 * side
    if not same.any():
        raise FaceflaxError("landmarks", None, "no face is found where Haar finds one", "give another detector")
    points = np.array([other.landmarks for _, other in pairs], np.float64)
    eyes, mouth, across = points[:, :2].mean(1), points[:, 3:].mean(1), points[:, 1] - points[:, 0]
    down = mouth - eyes
    right = across + np.stack([down[:, 1], -down[:, 0]], 1)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    below = np.stack([-right[:, 1], right[:, 0]], 1)
    width, height = np.linalg.norm(across, axis=1), np.linalg.norm(down, axis=1)
    yield f"the same face in {same.sum()} of {len(faces)} images"
    for name, values in {
        "from eyes to mouth, in distances of the eyes": height / width,
        "side, in means of these two": side / ((width + height) / 2),
        "centre right of the eyes' middle, in sides": ((centers - eyes) * right).sum(1) / side,
        "centre below the eyes' middle, in sides": ((centers - eyes) * below).sum(1) / side,
        "box's width, in its heights": boxes[:, 2] / boxes[:, 3],
        "side, in heights of the box": side / boxes[:, 3],
        "centre below the box's, in its heights": (centers - middles)[:, 1] / boxes[:, 3],
    }.items():
        low, median, high = np.percentile(values[same], [25, 50, 75])
        yield f"{name}: {median:.3f} ({low:.3f} to {high:.3f})"


def margins(views: list[View]) -> Iterator[str]:
    """Yields how far images reach beyond the squares found in them, and where these lie, a line each."""
    import numpy as np

    from faceflax.evaluation.detected import BORDER, SIDE

    x, y, side, roll = np.array([view.square for view in views]).T
    beyond = (SIDE / side - 1) / 2
    low, median, high = np.percentile(beyond, [25, 50, 75])
    yield f"margin {median:.3f} (quartiles {low:.3f} to {high:.3f})"
    for name, centre in (("right", x), ("down", y)):
        offset = ((centre - BORDER) / SIDE - 0.5) * SIDE / side
        yield f"its centre {offset.mean():+.3f} {name} of the image's, standard deviation {offset.std():.3f}"
    yield f"its side: standard deviation {(side / side.mean()).std():.3f} of the mean"
    yield f"its tilt: standard deviation {roll.std():.1f} degrees"


def tilts(
    options: Options, images: UInt8[np.ndarray, "n side side 1"], labels: Int32[np.ndarray, " n"], detector: Detector
) -> Iterator[str]:
    """Yields the lines of a table over the head's tilt: faces found, those labelled right of all, and how many of those
    found are labelled as they are upright.
    """
    import numpy as np

    from faceflax import compile, pretrained
    from faceflax.evaluation import Share
    from faceflax.evaluation.detected import frame_of
    from faceflax.faces.crop import crop_face
    from faceflax.faces.detection import search
    from faceflax.faces.haar import HaarDetector
    from faceflax.opencv import cv2
    from faceflax.preprocessing import normalize

    assert options.weights is not None
    loaded = pretrained.load(options.weights)
    predict, info = compile(*loaded), loaded.info
    ways = {"Haar": HaarDetector(min_size=images.shape[1] // 3), "landmarks": detector}
    yield f"tilt{''.join(f' | {name}: found | right | of the found: right | as upright' for name in ways)}"
    upright: dict[str, np.ndarray] = {}
    for degrees in sorted(TILTS, key=abs):
        cells = [f"{degrees:+4d}"]
        for name, way in ways.items():
            crops, kept = [], []
            for index, image in enumerate(images):
                frame = frame_of(image[:, :, 0])
                center = frame.shape[0] / 2 - 0.5
                turn = cv2.getRotationMatrix2D((center, center), -degrees, 1)
                frame = cv2.warpAffine(frame, turn, frame.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
                for face in search(way, frame)[:1]:
                    box = np.rint(face.box).astype(int)
                    crops.append(crop_face(frame[:, :, 0], box, info.crop_margin, info.image_size, face.landmarks))
                    kept.append(index)
            found = np.full(len(images), -1)
            if kept:
                found[kept] = predict(normalize(np.stack(crops)[..., None])).argmax(-1)
            known = found >= 0
            upright.setdefault(name, found)
            both = known & (upright[name] >= 0)
            right, same = (found == labels) & known, found == upright[name]
            shares = Share.of(known), Share.of(right), Share.of(right[known]), Share.of(same[both])
            cells += [f"{share.value:.1%}" for share in shares]
        yield " | ".join(cells)


def accuracies(
    options: Options,
    images: UInt8[np.ndarray, "n side side 1"],
    views: list[View],
    labels: Int32[np.ndarray, " n"],
) -> Iterator[str]:
    """Yields the lines of a table of accuracy over margins and shifts, after that on the dataset's own crops."""
    import numpy as np

    from faceflax import data, pretrained
    from faceflax.evaluation import Share, predict_logits
    from faceflax.faces.crop import crop_square
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
            squares = [v.square._replace(y=v.square.y + shift * v.square.side) for v in views]
            pairs = zip(views, squares, strict=True)
            crops = np.stack([crop_square(view.image, square, margin, info.image_size) for view, square in pairs])
            cells.append(f"{share(crops[..., None]).value:>10.2%}")
        yield f"{margin:<6} {' '.join(cells)}"


if __name__ == "__main__":
    run(main, Options)
