"""A detector's network measured as it is used: folded, by the kernels, in the search that analyzers make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from faceflax.data.scenes import Scene
from faceflax.evaluation import detection
from faceflax.faces import NetworkDetector
from faceflax.inference.detection import Detector
from faceflax.inference.detector_folding import fold_detector

SMALLEST, FALSE_BOXES = 20, 0.1
"""What is asked for: the faces of 20 pixels and more, at one false box in ten images."""
LEAST_SCORE = 0.05
"""Boxes of a lower score are not looked at."""


def mean_recall(variables: Mapping[str, Any], scenes: Mapping[str, Sequence[Scene]]) -> tuple[float, float]:
    """Returns the recall at :data:`FALSE_BOXES`, and at one false box an image: means over the kinds of pictures.

    Pictures without a face are added to each kind, for their false boxes.

    Args:
        variables: of a ``face_detector``.
        scenes: photographs by kind; those of ``noface`` have no faces.
    """
    network = Detector(fold_detector(flatten_dict(variables, sep="/")))
    detector = NetworkDetector(network, min_score=LEAST_SCORE, min_size=SMALLEST)
    found = {name: [_match(detector, scene) for scene in each] for name, each in scenes.items()}
    empty = found.pop("noface", [])
    few, many = (
        float(np.mean([detection.recall_at([*matches, *empty], allowed) for matches in found.values()]))
        for allowed in (FALSE_BOXES, 1.0)
    )
    return few, many


def _match(detector: NetworkDetector, scene: Scene) -> detection.Matches:
    faces = detector(scene.image)
    boxes = np.array([face.box for face in faces]).reshape(-1, 4)
    counted = ~scene.ignored & (np.sqrt(scene.boxes[:, 2:].prod(1)) >= SMALLEST)
    return detection.match(
        boxes, np.array([face.score for face in faces]), scene.boxes, counted, complete=scene.complete
    )
