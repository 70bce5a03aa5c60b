"""Where a face's eyes are, by OpenCV's eye cascade, and faces moved so that their eyes are in one place."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8
from tqdm import tqdm

from experiments.paper.study import Images, Study, digest
from faceflax.opencv import cv2, load_cascade

ENLARGED = 192
"""Pixels a side at which eyes are searched: the cascade was made for eyes of 20."""
STANDARD = np.array([[0.30, 0.40], [0.70, 0.40]])
"""Centres of the eyes that are taken where none are found, x and y as shares of the side, left of the image first."""


def find(study: Study, images: Images) -> tuple[Float[np.ndarray, "n 2 2"], Bool[np.ndarray, " n"]]:
    """Returns the eyes' centres, x and y in pixels, and whether both were found; where not, the median place.

    Args:
        study: keeps what was found.
        images: ``[n, size, size, 1]``.
    """

    def search() -> dict[str, np.ndarray]:
        cascade = load_cascade("haarcascade_eye")
        found = [_pair(cascade, image[:, :, 0]) for image in tqdm(images, "eyes", unit=" images", leave=False)]
        seen = np.array([pair is not None for pair in found])
        pairs = np.array([pair for pair in found if pair is not None]).reshape(-1, 2, 2)
        usual = np.median(pairs, 0) if len(pairs) else STANDARD
        centres = np.array([usual if pair is None else pair for pair in found])
        return {"centres": centres * images.shape[1], "seen": seen}

    kept = study.kept(f"eyes-{digest(images, STANDARD)}", search)
    return kept["centres"], kept["seen"]


def _pair(cascade: cv2.CascadeClassifier, image: UInt8[np.ndarray, "size size"]) -> Float[np.ndarray, "2 2"] | None:
    """One hit in each upper quarter, the most certain ones, if they make a plausible pair."""
    large = cv2.equalizeHist(cv2.resize(image, (ENLARGED, ENLARGED), interpolation=cv2.INTER_CUBIC))
    upper = large[: int(0.62 * ENLARGED)]
    boxes, counts = cascade.detectMultiScale2(upper, 1.1, 3, minSize=(28, 28), maxSize=(80, 80))
    if not len(boxes):
        return None
    centres = (np.array(boxes)[:, :2] + np.array(boxes)[:, 2:] / 2) / ENLARGED
    hits = np.ravel(np.array(counts))
    pair = []
    for side in (centres[:, 0] < 0.5, centres[:, 0] >= 0.5):
        if not side.any():
            return None
        pair.append(centres[side][hits[side].argmax()])
    left, right = pair
    plausible = 0.22 < right[0] - left[0] < 0.62 and abs(right[1] - left[1]) < 0.15
    return np.array(pair) if plausible else None


def align(
    images: Images, centres: Float[np.ndarray, "n 2 2"], seen: Bool[np.ndarray, " n"], place: Float[np.ndarray, "2 2"]
) -> Images:
    """Turns, scales and moves each face whose eyes were seen so that they lie at ``place``; others stay as they are.

    Args:
        images: ``[n, size, size, 1]``.
        centres: the eyes', x and y in pixels.
        seen: which faces' eyes were found.
        place: where they go.
    """
    size = images.shape[1]
    moved = images.copy()
    for i in np.flatnonzero(seen):
        matrix = _similarity(centres[i], place)
        moved[i, :, :, 0] = cv2.warpAffine(
            images[i, :, :, 0], matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    return moved


def _similarity(source: Float[np.ndarray, "2 2"], target: Float[np.ndarray, "2 2"]) -> Float[np.ndarray, "2 3"]:
    """The turn, scaling and shift that takes two points to two others."""
    a, b = (points[1] - points[0] for points in (source, target))
    ratio = complex(*b) / complex(*a)
    linear = np.array([[ratio.real, -ratio.imag], [ratio.imag, ratio.real]])
    return np.column_stack([linear, target[0] - linear @ source[0]])
