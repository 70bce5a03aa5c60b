"""Counts of one detector: on the validation photographs, under each condition, and its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.detection.conditions import SIZES, Condition
from faceflax.data import Scene
from faceflax.evaluation import detection
from faceflax.faces.detection import Detection

SMALLEST = 20
"""Faces whose sides have a geometric mean of fewer pixels are neither asked for nor held against a detector."""
ALLOWED = (0.0, 0.1, 1.0)
"""False boxes an image at which recall is measured."""

Detect = Callable[[np.ndarray], Sequence[Any]]
"""From a BGR frame to :class:`~faceflax.faces.Detection`\\ s, those of the lowest scores included."""


@dataclass(frozen=True)
class Found:
    """What a detector found in scenes.

    Attributes:
        matches: of each scene.
        landmark_errors: of each found face whose landmarks are known, in shares of the distance between its eyes.
    """

    matches: Sequence[detection.Matches]
    landmark_errors: np.ndarray


def search(detect: Detect, scenes: Sequence[Scene]) -> list[list[Detection]]:
    """Runs a detector over scenes."""
    return [list(detect(scene.image)) for scene in scenes]


def compare(
    detections: Sequence[Sequence[Detection]],
    scenes: Sequence[Scene],
    smallest: float = SMALLEST,
    largest: float = np.inf,
) -> Found:
    """Compares what was found with what is there; faces of other sizes count neither way."""
    matches, errors = [], []
    for found, scene in zip(detections, scenes, strict=True):
        boxes = np.array([face.box for face in found], np.float64).reshape(-1, 4)
        side = np.sqrt(scene.boxes[:, 2:].prod(1))
        counted = ~scene.ignored & (side >= smallest) & (side < largest)
        match = detection.match(
            boxes, np.array([face.score for face in found]), scene.boxes, counted, complete=scene.complete
        )
        matches.append(match)
        for index, face in zip(match.order, match.faces, strict=True):
            known = scene.landmarks[face] if face >= 0 else np.full((5, 2), np.nan)
            if np.isfinite(known).all() and found[index].landmarks is not None:
                errors.append(detection.landmark_error(np.asarray(found[index].landmarks)[None], known[None])[0])
    return Found(matches, np.array(errors))


@dataclass(frozen=True)
class Results:
    """All that is measured of one detector.

    Attributes:
        groups: for each kind of picture: recall at each of :data:`ALLOWED` false boxes an image and at as many as Haar
            has, recall and false boxes at the detector's own threshold, landmark error, and the faces counted.
        thresholds: the scores at which there are so many false boxes an image in all photographs of people and in those
            without a face together.
        sizes: recall by the size of the face, at each threshold.
        conditions: recall of portraits by condition and its value, at each threshold.
        alarms: share of the pictures without a face in which something is found at the detector's own threshold.
    """

    groups: Mapping[str, Mapping[str, float]]
    thresholds: Sequence[float]
    sizes: Mapping[str, Sequence[float]]
    conditions: Mapping[str, Mapping[str, Sequence[float]]]
    alarms: float


def measure(
    name: str,
    detect: Detect,
    min_score: float,
    validation: Mapping[str, Sequence[Scene]],
    changed: Sequence[Condition],
    like: Mapping[str, float],
) -> tuple[Results, Mapping[str, Found]]:
    """Measures one detector.

    Args:
        name: for the progress bar.
        detect: gives all scores.
        min_score: the detector's own threshold.
        validation: the photographs.
        changed: portraits under conditions.
        like: another detector's false boxes an image, at which recall is measured too.
    """
    detections = {
        group: search(detect, scenes)
        for group, scenes in tqdm(validation.items(), f"{name}: photographs", unit=" groups", leave=False)
    }
    found = {group: compare(each, validation[group]) for group, each in detections.items()}
    groups = {}
    for group, each in found.items():
        if group == "noface":
            continue
        row = {f"recall at {n:g}": detection.recall_at(each.matches, n) for n in ALLOWED}
        if group in like:
            row["recall at Haar's"] = detection.recall_at(each.matches, like[group])
        row["recall"] = detection.share_found(each.matches, min_score)
        row["false boxes"] = detection.false_boxes(each.matches, min_score)
        row["landmark error"] = float(each.landmark_errors.mean()) if each.landmark_errors.size else np.nan
        row["faces"] = float(sum(match.counted.sum() for match in each.matches))
        groups[group] = row
    people = [*found["wider"].matches, *(found["noface"].matches if "noface" in found else [])]
    thresholds = [detection.threshold_at(people, n) for n in ALLOWED]
    sizes = {}
    for low, high in SIZES:
        each = compare(detections["wider"], validation["wider"], low, high)
        label = f"{low} to {high} px" if high < 10_000 else f"{low} px and more"
        sizes[label] = [detection.share_found(each.matches, score) for score in thresholds]
    by_condition: dict[str, dict[str, list[float]]] = {}
    for condition in tqdm(changed, f"{name}: conditions", unit=" conditions", leave=False):
        each = compare(search(detect, condition.scenes), condition.scenes)
        recalls = [detection.share_found(each.matches, score) for score in thresholds]
        by_condition.setdefault(condition.name, {})[condition.value] = recalls
    alarms = [(match.scores >= min_score).any() for match in found["noface"].matches] if "noface" in found else [np.nan]
    return Results(groups, thresholds, sizes, by_condition, float(np.mean(alarms))), found


def seconds(detectors: Mapping[str, Detect], frames: Sequence[np.ndarray], rounds: int) -> dict[str, list[float]]:
    """Times all detectors on the same frames, one after the other in each round.

    Returns:
        For each detector the median of each round, in seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in detectors}
    for detect in detectors.values():
        detect(frames[0])
    for _ in range(rounds):
        for name, detect in detectors.items():
            own = []
            for frame in frames:
                start = time.perf_counter()
                detect(frame)
                own.append(time.perf_counter() - start)
            times[name].append(float(np.median(own)))
    return times
