"""A trained detector's scores, fitted to whole photographs: the last step of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Bool, Float, Float64
from scipy.optimize import minimize
from scipy.special import expit
from tqdm import tqdm

from faceflax.data.scenes import Scene
from faceflax.evaluation import detection
from faceflax.evaluation.detector import SMALLEST
from faceflax.inference.detection import Detector
from faceflax.inference.detector_folding import fold_detector
from faceflax.inference.detector_in_jax import best
from faceflax.models.architectures import DETECTOR_OUTPUTS, DETECTOR_STRIDES
from faceflax.preprocessing import normalize
from faceflax.training.detection.loss import decode, places

LEAST_SCORE = 0.2
"""Boxes of a lower score are far from any threshold."""
MAX_OVERLAP = 0.4
"""Of two boxes with a larger intersection over union the one with the higher score is kept, as in use."""
MOST_SCENES = 600
"""Pictures of one face, of each kind, that are looked at; photographs of several and pictures without one all are."""
CROPS, CROP = 4000, 5.0
"""How many training crops are looked at besides, and how many times as much a box in them counts."""
MULTIPLE = 64
"""Sides of what the network is shown are multiples of so many pixels."""
EMPTY = 20.0
"""How many times as much a box counts in a picture without a face, which most of what cameras see is."""
SEEN = (0, 3, 4)
"""What the regression is by: the score and the logarithms of the box's width and height. By the rest as well recall
rises more, but of the places of a face one with worse landmarks then has the highest score."""
RIDGE = 0.1
"""Weight of the squared distance from the scores as they were."""


class Candidates(NamedTuple):
    """Boxes that a detector finds in photographs: what it says at their places, and what they are.

    Attributes:
        outputs: of the network.
        strides: of their places.
        faces: which of them are faces.
        counts: how much each counts.
    """

    outputs: Float64[np.ndarray, "boxes 15"]
    strides: Float64[np.ndarray, " boxes"]
    faces: Bool[np.ndarray, " boxes"]
    counts: Float64[np.ndarray, " boxes"]


def fit_scores(
    variables: Mapping[str, Any],
    scenes: Mapping[str, Sequence[Scene]],
    crops: Sequence[Scene] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Fits the scores to what the network finds in whole photographs, and leaves boxes and landmarks as they are.

    In training, a score is taught the overlap of its place's box, on crops that are scaled, covered, blurred. Here the
    network searches the photographs as they are, besides some such crops, so that blurred and grey faces do not lose by
    it, and a logistic regression of whether a box that is kept is a face, by its score and size, is fitted for
    each stride. It is linear in what the last layer computes, so that layer takes it in, and the network's time is the
    same. The score becomes the probability that a box is a face, where :data:`EMPTY` times as many pictures
    show none.

    Args:
        variables: of a ``face_detector``.
        scenes: training photographs by kind.
        crops: as training draws them.
        seed: of the choice of pictures, where there are many of one face.

    Returns:
        The variables with another column in the kernels and biases of ``output8`` to ``output32``.
    """
    detector = Detector(fold_detector(flatten_dict(dict(variables), sep="/")))
    random = np.random.default_rng(seed)
    chosen = [scene for each in scenes.values() for scene in _some(each, random)]
    counts = [1.0 if len(scene.boxes) else EMPTY for scene in chosen] + [CROP] * len(crops)
    found = search(detector, [*chosen, *crops], counts)
    tensors = dict(flatten_dict(dict(variables), sep="/"))
    for stride in DETECTOR_STRIDES:
        own = found.strides == stride
        weights, bias = fit(found.outputs[own], found.faces[own], found.counts[own])
        for name, offset in (("kernel", 0.0), ("bias", bias)):
            name = f"params/output{stride}/{name}"
            values = np.array(tensors[name], np.float64)
            values[..., 0] = values @ weights + offset
            tensors[name] = values.astype(np.float32)
    return unflatten_dict(tensors, sep="/")


def fit(
    outputs: Float[np.ndarray, "boxes 15"], faces: Bool[np.ndarray, " boxes"], counts: Float[np.ndarray, " boxes"]
) -> tuple[Float64[np.ndarray, " 15"], float]:
    """Returns the weights and the constant of the regression; of the logit alone, as it is, without any example.

    Example:
        >>> weights, constant = fit(np.zeros((0, 15)), np.zeros(0, bool), np.zeros(0))
        >>> float(weights[0]), float(abs(weights[1:]).max()), constant
        (1.0, 0.0, 0.0)
    """
    start = np.eye(len(SEEN) + 1)[0]
    design = np.column_stack([outputs[:, SEEN], np.ones(len(outputs))])

    def loss(weights: Float64[np.ndarray, " weights"]) -> tuple[float, Float64[np.ndarray, " weights"]]:
        logits = design @ weights
        change = weights - start
        value = counts @ (np.logaddexp(0, logits) - logits * faces) + RIDGE * change @ change
        return float(value), design.T @ (counts * (expit(logits) - faces)) + 2 * RIDGE * change

    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x
    weights = np.zeros(DETECTOR_OUTPUTS)
    weights[[*SEEN]] = found[:-1]
    return weights, float(found[-1])


def search(detector: Detector, scenes: Sequence[Scene], counts: Sequence[float]) -> Candidates:
    """Searches pictures and says of each box that is kept whether it is a face; those that count neither way go.

    Args:
        detector: what searches.
        scenes: the pictures.
        counts: how much the boxes of each count.
    """
    found = []
    for scene in tqdm(scenes, "scores", unit=" images", leave=False):
        image = np.asarray(normalize(scene.image))
        image = np.pad(image, [(0, -side % MULTIPLE) for side in image.shape[:2]] + [(0, 0)])
        outputs = detector.outputs(image[None])[0]
        likely = expit(outputs[:, 0]) >= LEAST_SCORE
        found.append([each[likely] for each in (outputs, *places(*image.shape[:2]))])
    outputs, centres, strides = (np.concatenate(each) for each in zip(*found, strict=True))
    corners = np.asarray(decode(*map(jnp.asarray, (outputs, centres, strides)))[1], np.float64)
    boxes, scores = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]]), expit(outputs[:, 0])
    rows, labels, weights, first = [], [], [], 0
    for scene, (own, _, _), count in zip(scenes, found, counts, strict=True):
        some = slice(first, first + len(own))
        kept = first + best(boxes[some], scores[some], MAX_OVERLAP, len(own))
        counted = ~scene.ignored & (np.sqrt(scene.boxes[:, 2:].prod(1)) >= SMALLEST)
        match = detection.match(boxes[kept], scores[kept], scene.boxes, counted, complete=scene.complete)
        known = match.faces != -2
        rows.append(kept[match.order[known]])
        labels.append(match.faces[known] >= 0)
        weights.append(np.full(known.sum(), count))
        first += len(own)
    places_of = np.concatenate(rows)
    return Candidates(
        outputs[places_of].astype(np.float64), strides[places_of], *map(np.concatenate, (labels, weights))
    )


def _some(scenes: Sequence[Scene], random: np.random.Generator) -> list[Scene]:
    """All photographs but, of pictures of one face, not more than :data:`MOST_SCENES`."""
    single = [i for i, scene in enumerate(scenes) if len(scene.boxes) == 1]
    left_out = set(random.permutation(single)[MOST_SCENES:].tolist())
    return [scene for i, scene in enumerate(scenes) if i not in left_out]
