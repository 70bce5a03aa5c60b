"""How many faces a detector finds, and how many of its boxes are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Bool, Float, Int

MIN_IOU = 0.35
"""Intersection over union from which on a box is of a face: sources frame faces differently."""


@dataclass(frozen=True)
class Matches:
    """What the boxes of one image are.

    Attributes:
        scores: of the boxes, the highest first.
        faces: the face that each box is of, -1 for a false one, -2 for one that counts neither way.
        order: where each box was in what was given.
        counted: which of the image's faces count.
    """

    scores: Float[np.ndarray, " boxes"]
    faces: Int[np.ndarray, " boxes"]
    order: Int[np.ndarray, " boxes"]
    counted: Bool[np.ndarray, " faces"]


def match(
    boxes: Float[np.ndarray, "boxes 4"],
    scores: Float[np.ndarray, " boxes"],
    faces: Float[np.ndarray, "faces 4"],
    counted: Bool[np.ndarray, " faces"],
    min_iou: float = MIN_IOU,
    complete: bool = True,
) -> Matches:
    """Gives each box the face it overlaps most with, of those that no better box has.

    Args:
        boxes: x, y, width, height of what was found.
        scores: of the boxes.
        faces: x, y, width, height of what is there.
        counted: which faces count; a box of another one is neither right nor wrong.
        min_iou: the least overlap of a box with its face.
        complete: all faces are known; where not, a box that meets none of those that are counts neither way.

    Example:
        >>> found = np.array([[0.0, 0, 10, 10], [1, 0, 10, 10], [50, 50, 9, 9]])
        >>> matches = match(found, np.array([0.9, 0.8, 0.7]), found[:1], np.array([True]))
        >>> matches.faces
        array([ 0, -1, -1])
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    overlap = _iou(np.asarray(boxes, np.float64).reshape(-1, 4)[order], np.asarray(faces, np.float64).reshape(-1, 4))
    answers = np.full(len(order), -1)
    free = np.ones(len(faces), bool)
    for row, values in enumerate(overlap):
        own = np.where(free & counted, values, 0.0)
        if len(own) and own.max() >= min_iou:
            answers[row] = int(own.argmax())
            free[answers[row]] = False
        elif (values[~counted] >= min_iou).any() or not (complete or values.any()):
            answers[row] = -2
    return Matches(np.asarray(scores)[order], answers, order, counted)


def threshold_at(matches: Sequence[Matches], false_boxes: float) -> float:
    """Returns the least score at which there are at most so many false boxes an image; infinity if there is none.

    Args:
        matches: of each image.
        false_boxes: the mean number of false boxes an image that is allowed.
    """
    scores = np.concatenate([m.scores for m in matches] or [np.zeros(0)])
    false = np.concatenate([m.faces == -1 for m in matches] or [np.zeros(0, bool)])
    wrong = np.sort(scores[false])[::-1]
    allowed = int(np.floor(false_boxes * len(matches) + 1e-9))
    if len(wrong) <= allowed:
        return float(scores.min()) if len(scores) else np.inf
    above = scores[scores > wrong[allowed]]
    return float(above.min()) if len(above) else np.inf


def found_at(matches: Sequence[Matches], min_score: float) -> list[Bool[np.ndarray, " faces"]]:
    """Returns which faces of each image have a box of at least this score."""
    found = []
    for m in matches:
        hit = np.zeros(len(m.counted), bool)
        hit[m.faces[(m.faces >= 0) & (m.scores >= min_score)]] = True
        found.append(hit)
    return found


def recall_at(matches: Sequence[Matches], false_boxes: float) -> float:
    """Returns the share of counted faces found where at most so many false boxes an image are allowed.

    Example:
        >>> found = np.array([[0.0, 0, 10, 10], [50, 50, 9, 9]])
        >>> image = match(found, np.array([0.9, 0.8]), found[:1], np.array([True]))
        >>> recall_at([image], 0)
        1.0
    """
    return share_found(matches, threshold_at(matches, false_boxes))


def share_found(matches: Sequence[Matches], min_score: float) -> float:
    """Returns the share of counted faces with a box of at least this score; NaN where no face counts."""
    counted = np.concatenate([m.counted for m in matches])
    return float(np.concatenate(found_at(matches, min_score))[counted].mean()) if counted.any() else np.nan


def false_boxes(matches: Sequence[Matches], min_score: float) -> float:
    """Returns the mean number of false boxes of at least this score an image."""
    return float(np.mean([((m.faces == -1) & (m.scores >= min_score)).sum() for m in matches]))


def landmark_error(
    found: Float[np.ndarray, "faces 5 2"], known: Float[np.ndarray, "faces 5 2"]
) -> Float[np.ndarray, " faces"]:
    """Returns the mean distance of each face's landmarks from where they are, as a share of that between the eyes.

    Example:
        >>> known = np.array([[[0.0, 0], [10, 0], [5, 5], [2, 9], [8, 9]]])
        >>> landmark_error(known + [1, 0], known)
        array([0.1])
    """
    between = np.linalg.norm(known[:, 1] - known[:, 0], axis=-1)
    return np.linalg.norm(found - known, axis=-1).mean(-1) / np.maximum(between, 1e-6)


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum((boxes[:, :2] + boxes[:, 2:])[:, None], (others[:, :2] + others[:, 2:]))
    common = np.maximum(high - low, 0).prod(-1)
    return common / np.maximum(boxes[:, 2:].prod(-1)[:, None] + others[:, 2:].prod(-1) - common, 1e-9)
