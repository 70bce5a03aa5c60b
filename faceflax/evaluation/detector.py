"""A detector's network measured as it is used: folded, by the kernels, over a dataset's photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from faceflax.data.scenes import Scene
from faceflax.evaluation import detection
from faceflax.inference.detection import Detector
from faceflax.inference.detector_folding import fold_detector
from faceflax.native import Region

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
    detector = Detector(fold_detector(flatten_dict(variables, sep="/")))
    found = {name: [_match(detector, scene) for scene in each] for name, each in scenes.items()}
    empty = found.pop("noface", [])
    few, many = (
        float(np.mean([detection.recall_at([*matches, *empty], allowed) for matches in found.values()]))
        for allowed in (FALSE_BOXES, 1.0)
    )
    return few, many


def _match(detector: Detector, scene: Scene) -> detection.Matches:
    height, width = scene.image.shape[:2]
    rows, columns = (-(-side // 64) * 64 for side in (height, width))  # few sizes
    region = Region(0, 0, columns, rows, rows=rows, columns=columns)
    faces = detector.detect(scene.image, [region], min_score=LEAST_SCORE)
    counted = ~scene.ignored & (np.sqrt(scene.boxes[:, 2:].prod(1)) >= SMALLEST)
    return detection.match(faces[:, :4], faces[:, 4], scene.boxes, counted, complete=scene.complete)
