"""How right a network stays on faces that the detector finds, when something happens to the picture.

Each image stands in the middle of a frame (:mod:`faceflax.evaluation.detected`), the detector finds its face, and the
network sees it turned upright, as :class:`faceflax.FaceAnalyzer` cuts it out. Then the frame is corrupted, and the
detector looks again where the face was, as it does in a video; where it does not find the face again, the place it had
is taken. So all rows are of the same faces. Choices between networks are made by :attr:`Robustness.score`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from tqdm import tqdm

from faceflax.errors import FaceflaxError
from faceflax.evaluation.calibration import calibrate
from faceflax.evaluation.corruptions import CORRUPTIONS, SIDE, Corruption, moved, scaled
from faceflax.evaluation.detected import FoundFaces, View
from faceflax.evaluation.shares import Share, group_shares
from faceflax.faces.detection import Detection, Detector, FollowingDetector, boxes_of, iou, search
from faceflax.opencv import cv2

Groups = Mapping[str, tuple[Sequence[str], Int[np.ndarray, " n"]]]
"""What divides the images, such as race: the groups' names, and for each image an index into them."""

JITTERS = {"moved by 2%": 0.02, "moved by 5%": 0.05}
"""By which share of its side a square is moved, in any direction, to see whether the label changes."""
_SAME = 0.3
"""Least intersection over union of a face with where it was, from a detector that cannot follow."""


@dataclass(frozen=True)
class Row:
    """One corruption.

    Attributes:
        corruption: what was done.
        right: the share of the faces labelled right.
        again: the share that the detector found again.
        change: how many labels differ from those of the clean faces, as a share.
    """

    corruption: Corruption
    right: Share
    again: Share
    change: Share


@dataclass(frozen=True)
class Robustness:
    """What was measured.

    Attributes:
        found: the share of the images whose face the detector found; all else is of these.
        clean: the share labelled right as they were found.
        rows: the same of corrupted ones.
        changes: the share whose label changes when the face is mirrored, or its square moved.
        calibration_error: expected calibration error, clean and of all common corruptions together.
        groups: for each thing that divides the images (the classes first), for each group the share labelled right,
            clean and of all common corruptions together.
    """

    found: Share
    clean: Share
    rows: tuple[Row, ...]
    changes: Mapping[str, Share]
    calibration_error: tuple[float, float]
    groups: Mapping[str, Mapping[str, tuple[Share, Share]]]

    @property
    def mean(self) -> float:
        """Mean corruption accuracy: the mean of the shares of the common corruptions, in [0, 1]."""
        return float(np.mean([row.right.value for row in self.rows if row.corruption.common]))

    @property
    def score(self) -> float:
        """What networks are chosen by, on validation images: the mean of clean and mean corruption accuracy."""
        return (self.clean.value + self.mean) / 2

    def __str__(self) -> str:
        lines = [f"{'corruption':<12} {'right':>7} {'found again':>12} {'label changes':>14}"]
        lines.append(f"{'none':<12} {self.clean.value:7.1%}")
        for row in self.rows:
            name = row.corruption.name + "*" * row.corruption.common
            lines.append(f"{name:<12} {row.right.value:7.1%} {row.again.value:12.1%} {row.change.value:14.1%}")
        clean, hurt = self.calibration_error
        changes = ", ".join(f"{name} {share.value:.1%}" for name, share in self.changes.items())
        return "\n".join(
            [
                *lines,
                f"mCA, the mean of those with a star: {self.mean:.2%}; score, its mean with none: {self.score:.2%}",
                f"the label changes when the face is {changes}",
                f"expected calibration error: {clean:.2%}; of all corruptions with a star: {hurt:.2%}",
            ]
        )


def measure(
    predict: Callable[[UInt8[np.ndarray, "n size size 1"]], Float[np.ndarray, "n classes"]],
    faces: FoundFaces,
    labels: Int[np.ndarray, " n"],
    groups: Groups,
    detector: Detector,
    *,
    margin: float,
    size: int,
    temperature: float = 1.0,
    corruptions: Sequence[Corruption] = CORRUPTIONS,
    seed: int = 0,
) -> Robustness:
    """Measures a network on found faces.

    Args:
        predict: the network: logits of uint8 images.
        faces: of the dataset, from :func:`faceflax.evaluation.detected.find_faces`.
        labels: of all its images.
        groups: what divides all its images; the classes first.
        detector: looks again at corrupted frames.
        margin: share of the square's side to add on each side.
        size: of the network's images in pixels.
        temperature: of its softmax.
        corruptions: which to measure.
        seed: of all randomness; a corruption does the same to a face whatever others there are.

    Raises:
        FaceflaxError: no face was found.
    """
    if not faces.views:
        problem = "has no face that the detector finds, in {} images"
        raise FaceflaxError("dataset", faces.count, problem, "name a dataset of photographs of faces")
    wanted = labels[faces.index]
    clean_images = faces.cut(margin, size)
    clean = predict(clean_images)
    label = clean.argmax(1)
    changes = {"mirrored": Share.of(predict(clean_images[:, :, ::-1]).argmax(1) != label)}
    for name, share in JITTERS.items():
        random = np.random.default_rng((seed, round(1000 * share)))
        images = np.stack([_jittered(view, share, random).cut(margin, size) for view in faces.views])[..., None]
        changes[name] = Share.of(predict(images).argmax(1) != label)

    rows, common = [], []
    bar = tqdm(corruptions, "corrupting", unit=" kinds", leave=False, disable=None)
    for corruption in bar:
        images, again = corrupted(faces, corruption, detector, margin=margin, size=size, seed=seed)
        logits = predict(images)
        found = logits.argmax(1)
        rows.append(Row(corruption, Share.of(found == wanted), Share.of(again), Share.of(found != label)))
        if corruption.common:
            common.append(logits)
    together = np.concatenate(common) if common else clean[:0]
    repeated = np.tile(wanted, len(common))
    by_group = {}
    for kind, (names, members) in groups.items():
        plain = group_shares(label == wanted, names, members[faces.index])
        hurt = group_shares(together.argmax(1) == repeated, names, np.tile(members[faces.index], len(common)))
        by_group[kind] = {name: (share, hurt.get(name, Share(0, 0))) for name, share in plain.items()}
    hurt_error = calibrate(together, repeated, temperature).error if common else float("nan")
    return Robustness(
        Share(len(faces.index), faces.count),
        Share.of(label == wanted),
        tuple(rows),
        changes,
        (calibrate(clean, wanted, temperature).error, hurt_error),
        by_group,
    )


def corrupted(
    faces: FoundFaces, corruption: Corruption, detector: Detector, *, margin: float, size: int, seed: int = 0
) -> tuple[UInt8[np.ndarray, "faces size size 1"], np.ndarray]:
    """Corrupts each face's frame, finds the face again, and cuts it out.

    Returns:
        What the network sees, and which faces were found again.
    """
    key = [seed, *corruption.name.encode()]

    def one(number: int) -> tuple[np.ndarray, bool]:
        random = np.random.default_rng([*key, int(faces.index[number])])
        view = corruption(scaled(faces.views[number], SIDE), random)
        seen = _again(detector, view)
        return (view if seen is None else view._replace(face=seen)).cut(margin, size), seen is not None

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = list(pool.map(one, range(len(faces.views))))
    finally:
        cv2.setNumThreads(threads)
    return np.stack([image for image, _ in done])[..., None], np.array([again for _, again in done])


def _again(detector: Detector, view: View) -> Detection | None:
    """The face, found once more where it was, or None."""
    frame = cv2.cvtColor(view.image, cv2.COLOR_GRAY2BGR)
    if isinstance(detector, FollowingDetector):
        return detector.follow(frame, [view.face])[0]
    found = search(detector, frame)
    overlaps = iou(boxes_of([view.face]), boxes_of(found))[0]
    return found[int(overlaps.argmax())] if found and overlaps.max() >= _SAME else None


def _jittered(view: View, share: float, random: np.random.Generator) -> View:
    """The face moved in any direction, the frame staying where it is."""
    angle = random.uniform(0, 2 * np.pi)
    shift = share * view.square.side * np.array([np.cos(angle), np.sin(angle)])
    return view._replace(face=moved(view.face, np.column_stack([np.eye(2), shift])))
