"""Images of FER-2013's PublicTest and PrivateTest that are in Training as well, cut or watermarked differently.

Command::

    python -m experiments.near_duplicates --output experiments/near_duplicates_fer2013.json
    python scripts/evaluate.py --weights NAME --dataset fer2013 --without experiments/near_duplicates_fer2013.json

Method: images are band-passed (Gaussian of 1 minus Gaussian of 6 pixels), so that neither lighting nor the grain of
the JPEG counts. At 16x16 pixels the middle of each test image and of its mirror image, at 3 sizes and 9 shifts, is
correlated with the middle of every training image; the 20 best are compared at 48x48: the middle 34x34 pixels, and
their mirror image, at 5 sizes, at every place in the training image. A test image whose highest normalised
correlation reaches the threshold is a near-duplicate.

Threshold: 0.91, in the valley of the histogram of correlations (with 40 images compared: 130 from 0.88 to 0.90,
66 to 0.92, 63 to 0.94, 185 to 0.96, 589 to 0.98, 1,170 to 1). It was set by eye on at most 16 pairs a band, without
looking at accuracy: nearly all pairs seen above 0.92 were one photograph, about two thirds of those from 0.91 to
0.92, few below 0.90. Comparing 40 images instead of 20 finds 0.4% more.

Result: 1,013 of 3,589 PublicTest and 1,013 of 3,589 PrivateTest images (28.2% each) are near-duplicates of training
images; 11.5% of them have another label than the best matching one. Their rows are in
``near_duplicates_fer2013.json``. 1 minute 51 seconds of processor time on an Intel Xeon; 5 minutes where it was busy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from faceflax import files
from faceflax.cli import run
from faceflax.errors import FaceflaxError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32, UInt8

CANDIDATES = 20
SIDE = 48
SMALL, PATCH = 16, 12
TEMPLATE = 34


@dataclass(frozen=True)
class Options:
    """Find the test images of FER-2013 that are in its training set too, and write their row numbers."""

    output: Path
    """JSON file to write: a sorted list of row numbers of fer2013.csv, from 0, for scripts/evaluate.py --without."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    threshold: float = 0.91
    """Normalised correlation from which two images are one, in [0, 1]."""


def main(options: Options) -> None:
    """Compares both test splits with Training, prints how many near-duplicates there are and writes their rows."""
    if not 0 <= options.threshold <= 1:
        raise FaceflaxError("threshold", options.threshold, "is not a correlation", "give a number from 0 to 1")
    files.writable_file("output", options.output)

    import json

    from faceflax import data

    train, *tests = (
        data.load("fer2013", split, image_size=SIDE, data_dir=options.data_dir)
        for split in ("Training", "PublicTest", "PrivateTest")
    )
    if not all(identity.isdigit() for test in tests for identity in test.ids):
        problem = "holds a fer2013 without row numbers"
        raise FaceflaxError("data_dir", options.data_dir or "the default", problem, "prepare it from fer2013.csv")
    rows: list[int] = []
    for name, test in zip(("PublicTest", "PrivateTest"), tests, strict=True):
        score, partner = best_match(test.images[..., 0], train.images[..., 0])
        near = score >= options.threshold
        same_label = (test.labels == train.labels[partner])[near].mean()
        print(f"{name}: {near.sum():,} of {len(near):,} are near-duplicates; {same_label:.1%} have their pair's label")
        rows += (int(test.ids[i]) for i in near.nonzero()[0])
    files.write(options.output, json.dumps(sorted(rows)) + "\n")
    print(f"{options.output}: {len(rows):,} row numbers")


def best_match(
    test: UInt8[np.ndarray, "n 48 48"], train: UInt8[np.ndarray, "m 48 48"]
) -> tuple[Float32[np.ndarray, " n"], np.ndarray]:
    """Returns, for each test image, its highest correlation with a training image, and which one that is."""
    import numpy as np
    from tqdm import tqdm

    from faceflax.opencv import cv2

    train_bands = [_band_pass(image) for image in train]
    middle = (SMALL - PATCH) // 2
    train_patches = _unit(_small(train_bands)[:, middle : middle + PATCH, middle : middle + PATCH])
    scores, partners = np.full(len(test), -1, np.float32), np.zeros(len(test), int)
    with tqdm(total=len(test), unit=" images", leave=False, disable=None) as bar:
        for start in range(0, len(test), 256):
            bands = [_band_pass(image) for image in test[start : start + 256]]
            correlation = np.full((len(bands), len(train)), -1, np.float32)
            for patches in _variants(bands):
                np.maximum(correlation, patches @ train_patches.T, out=correlation)
            candidates = np.argpartition(-correlation, CANDIDATES, axis=1)[:, :CANDIDATES]
            for i, band in enumerate(bands, start):
                templates = list(_templates(band))
                for j in candidates[i - start]:
                    score = max(cv2.matchTemplate(train_bands[j], t, cv2.TM_CCOEFF_NORMED).max() for t in templates)
                    if score > scores[i]:
                        scores[i], partners[i] = score, j
                bar.update()
    return scores, partners


def _band_pass(image: UInt8[np.ndarray, "48 48"]) -> Float32[np.ndarray, "48 48"]:
    from faceflax.opencv import cv2

    smooth = cv2.GaussianBlur(image.astype("float32"), (0, 0), 1)
    return smooth - cv2.GaussianBlur(smooth, (0, 0), 6)


def _small(images: list[np.ndarray]) -> Float32[np.ndarray, "n 16 16"]:
    import numpy as np

    from faceflax.opencv import cv2

    return np.stack([cv2.resize(image, (SMALL, SMALL), interpolation=cv2.INTER_AREA) for image in images])


def _unit(patches: Float32[np.ndarray, "n side side"]) -> Float32[np.ndarray, "n pixels"]:
    """Flattens patches to mean 0 and length 1, so that their dot products are correlations."""
    import numpy as np

    flat = patches.reshape(len(patches), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _resized(band: np.ndarray, scale: float) -> np.ndarray:
    from faceflax.opencv import cv2

    side = round(SIDE * scale)
    return cv2.resize(band, (side, side), interpolation=cv2.INTER_LINEAR)


def _variants(bands: list[np.ndarray]) -> Iterator[Float32[np.ndarray, "n pixels"]]:
    """The middle of small images, mirrored or not, smaller or larger, shifted by up to 3 of the 48 pixels."""
    from faceflax.opencv import cv2

    for mirror in (1, -1):
        for scale in (0.87, 1, 1.15):
            images = [_resized(band[:, ::mirror], scale) for band in bands]
            pad = max(0, -(-(SIDE - len(images[0])) // 2))
            images = [cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE) for image in images]
            cut = (len(images[0]) - SIDE) // 2
            small = _small([image[cut : cut + SIDE, cut : cut + SIDE] for image in images])
            for down in (1, 2, 3):
                for right in (1, 2, 3):
                    yield _unit(small[:, down : down + PATCH, right : right + PATCH])


def _templates(band: np.ndarray) -> Iterator[Float32[np.ndarray, "34 34"]]:
    """The middle of a image, mirrored or not, at five sizes."""
    for mirror in (1, -1):
        for scale in (0.85, 0.92, 1, 1.08, 1.16):
            image = _resized(band[:, ::mirror], scale)
            start = (len(image) - TEMPLATE) // 2
            yield image[start : start + TEMPLATE, start : start + TEMPLATE]


if __name__ == "__main__":
    run(main, Options)
