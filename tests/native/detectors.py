"""A face detector of random weights that finds something, and the regions to search in."""

from __future__ import annotations

import functools

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from faceflax import models
from faceflax.inference.detector_folding import fold_detector
from faceflax.models.face_detector import FaceDetector
from faceflax.native import Region


@functools.cache
def variables(seed=0):
    """Of a FaceDetector; scores are spread over 0 to 1, and boxes are some strides wide."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        names = [key.key for key in path]
        if names[-1] in ("var", "scale"):
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        if names[-1] in ("mean", "bias"):
            return rng.normal(0, 0.3, leaf.shape).astype(np.float32)
        shape = leaf.shape[:-1] if names[-1] != "depthwise" else leaf.shape[:2]
        return rng.normal(0, 1 / np.sqrt(np.prod(shape)), leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(lambda: models.init(FaceDetector(), jax.random.key(0), image_size=32))
    made = jax.tree.map_with_path(draw, shapes)
    for stride in (8, 16, 32):
        made["params"][f"output{stride}"]["kernel"][:, 1:] /= 20
        made["params"][f"output{stride}"]["bias"] = np.array([-1.0, 0, 0, 1, 1, *[0.0] * 10], np.float32)
    return made


def program(seed=0):
    return fold_detector(flatten_dict(variables(seed), sep="/"))


def image(height, width, seed=0):
    """Blobs of several sizes and colours."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for size in (1, 4, 16):
        part = rng.normal(0, 40, (height // size + 1, width // size + 1, 3)).repeat(size, 0).repeat(size, 1)
        total += part[:height, :width]
    return np.clip(total + 128, 0, 255).astype(np.uint8)


REGIONS = (
    Region(0, -12, 320, 192, 96, 160),  # shrunk by two, beyond the image above and below
    Region(0, 0, 320, 168, 168 // 32 * 32, 320),  # not the same scale both ways
    Region(100.25, 40.5, 50, 50, 64, 64),  # enlarged
    Region(-30, -30, 96, 96, 96, 96),  # pixel for pixel, beyond a corner
    Region(280.5, 100.125, 173, 173, 64, 64),  # shrunk by no whole number, beyond the other corner
    Region(5000, 5000, 64, 64, 64, 64),  # far away
    Region(-4000, -4000, 9000, 9000, 32, 32),  # the image is a pixel or two
)
