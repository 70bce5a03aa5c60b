"""What :class:`faceflax.native.DetectorNetwork` computes, in JAX and NumPy: on a GPU, or without the kernels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int, UInt8

from faceflax.inference.compiled import BatchFunction
from faceflax.inference.detector_folding import DetectorProgram
from faceflax.models.architectures import DETECTOR_STRIDES
from faceflax.models.blocks import FASTEST, Operators
from faceflax.models.face_detector import doubled, patches
from faceflax.native import Region
from faceflax.native.detector import check_search

_BATCH_SIZES = (1, 4, 16)  # each size adds to the start


class InJax:
    """The same searches as :class:`faceflax.native.DetectorNetwork`.

    Args:
        program: the network.
    """

    def __init__(self, program: DetectorProgram) -> None:
        key = f"detector {digest(program)}"
        self._outputs = BatchFunction(lambda images: evaluate(program, images), _BATCH_SIZES, key)

    def outputs(self, images: Float32[np.ndarray, "batch rows columns 3"]) -> Float32[np.ndarray, "batch places 15"]:
        """Computes what the network says of each place; see :meth:`faceflax.native.DetectorNetwork.outputs`."""
        return np.asarray(self._outputs(images))

    def detect(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        regions: Sequence[Region],
        *,
        min_score: float,
        max_overlap: float = 0.4,
        max_faces: int = 1024,
    ) -> Float32[np.ndarray, "faces 16"]:
        """Finds faces; see :meth:`faceflax.native.DetectorNetwork.detect`."""
        image = check_search(image, regions, min_score, max_overlap, max_faces)
        found: list[Float64[np.ndarray, "faces 16"]] = [np.empty((0, 16))] * len(regions)
        for size in {(region.rows, region.columns) for region in regions}:  # those of one size are one batch
            alike = [i for i, region in enumerate(regions) if (region.rows, region.columns) == size]
            images = np.stack([resize(image, regions[i]) for i in alike])
            for i, outputs in zip(alike, self._outputs(images), strict=True):
                found[i] = faces_of(outputs, regions[i], i, min_score)
        faces = np.concatenate([np.empty((0, 16)), *found])
        return faces[best(faces[:, :4], faces[:, 4], max_overlap, max_faces)].astype(np.float32)


def evaluate(
    program: DetectorProgram, images: Float[Array, "batch rows columns 3"], operators: Operators = FASTEST
) -> Float[Array, "batch places 15"]:
    """Computes what the network says of each place, in plain JAX, of whatever type ``images`` has."""
    maps: list[Array] = []
    places: list[Array] = []
    for layer in program:
        x = images if layer.source < 0 else maps[layer.source]
        weights = [jnp.asarray(w, x.dtype) for w in layer.weights]
        bias = weights[-1][None, None, None] if weights else jnp.zeros(())
        match layer.kind:
            case "patches":
                x = patches(x) @ weights[0] + bias
            case "separable":
                x = operators.depthwise_conv(x, weights[0]) @ weights[1] + bias
            case "pointwise" | "places":
                x = x @ weights[0] + bias
            case "max_pool":
                x = operators.max_pool(x)
        if layer.add >= 0:
            x = x + (doubled(maps[layer.add]) if layer.kind == "doubled_sum" else maps[layer.add])
        maps.append(nn.relu(x) if layer.relu else x)
        if layer.kind == "places":
            places.append(x.reshape(x.shape[0], -1, x.shape[-1]))
    return jnp.concatenate(places, 1)


def digest(program: DetectorProgram) -> str:
    """A hash of all layers and weights."""
    total = hashlib.sha256()
    for layer in program:
        total.update(repr((layer.kind, layer.channels, layer.source, layer.add, layer.relu)).encode())
        for weights in layer.weights:
            total.update(np.ascontiguousarray(weights).tobytes())
    return total.hexdigest()


def resize(image: UInt8[np.ndarray, "height width 3"], region: Region) -> Float32[np.ndarray, "rows columns 3"]:
    """Resizes a region of an image into the network's input, in [-1, 1]; 0 outside the image.

    Example:
        >>> resize(np.full((64, 48, 3), 255, np.uint8), Region(0, 0, 64, 64, rows=32, columns=32))[0, [0, 23, 24], 1]
        array([1., 1., 0.], dtype=float32)
    """
    down = samples(region.top, region.height, region.rows, image.shape[0])
    across = samples(region.left, region.width, region.columns, image.shape[1])
    rows, columns = _met(down), _met(across)
    values = np.moveaxis(image[rows, columns] / np.float32(127.5) - 1, 2, 0)
    resized = down[:, rows].astype(np.float32) @ values @ across[:, columns].T.astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(resized, 0, 2))


def samples(begin: float, length: float, count: int, size: int) -> Float64[np.ndarray, "count size"]:
    """By which weight each of an image's ``size`` pixels is part of ``count`` that cover ``length`` from ``begin`` on.

    One that covers more than a pixel of the image is their mean, by the part of each that it covers; else it is
    interpolated between two. Weights of pixels outside the image are left out.

    Example:
        >>> samples(0, 3, 2, 3)
        array([[0.66666667, 0.33333333, 0.        ],
               [0.        , 0.33333333, 0.66666667]])
    """
    step = length / count
    at = np.arange(size)
    starts = begin + np.arange(count)[:, None] * step
    if step >= 1:
        return np.clip(np.minimum(starts + step, at + 1) - np.maximum(starts, at), 0, None) / step
    return np.clip(1 - np.abs(starts + step / 2 - 0.5 - at), 0, None)


def _met(weights: Float64[np.ndarray, "count size"]) -> slice:
    """The pixels that have any weight."""
    met = np.flatnonzero(weights.any(0))
    return slice(met[0], met[-1] + 1) if met.size else slice(0, 0)


def faces_of(
    outputs: Float32[np.ndarray, "places 15"], region: Region, number: int, min_score: float
) -> Float64[np.ndarray, "faces 16"]:
    """Makes faces of what the network says, as :meth:`InJax.detect` returns them, all that are likely enough."""
    with np.errstate(over="ignore"):
        scores = (1 / (1 + np.exp(-outputs[:, 0].astype(np.float64)))).astype(np.float32)
    centres, strides = _places(region.rows, region.columns)
    likely = scores >= min_score
    said, centres, strides = outputs[likely].astype(np.float64), centres[likely], strides[likely, None]
    scale = np.array([region.width / region.columns, region.height / region.rows])
    corner = np.array([region.left, region.top])
    middle = corner + (centres + said[:, 1:3] * strides) * scale
    sides = strides * np.exp(np.clip(said[:, 3:5], -4, 6)) * scale
    points = corner + (centres[:, None] + said[:, 5:].reshape(-1, 5, 2) * strides[..., None]) * scale
    faces = np.concatenate(
        [
            middle - sides / 2,
            sides,
            scores[likely, None],
            points.reshape(-1, 10),
            np.full((len(said), 1), number),
        ],
        1,
    )
    return faces[np.isfinite(faces).all(1)]


def _places(rows: int, columns: int) -> tuple[Float64[np.ndarray, "places 2"], Float64[np.ndarray, " places"]]:
    """The centres x, y and the strides of all places, in the order of the network's output."""
    centres, strides = [], []
    for stride in DETECTOR_STRIDES:
        y, x = np.mgrid[: rows // stride, : columns // stride]
        centres.append((np.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride)
        strides.append(np.full(x.size, float(stride)))
    return np.concatenate(centres), np.concatenate(strides)


def best(
    boxes: Float64[np.ndarray, "faces 4"], scores: Float64[np.ndarray, " faces"], max_overlap: float, most: int
) -> Int[np.ndarray, " kept"]:
    """Which faces are kept, the best score first, an earlier one first among equals.

    Args:
        boxes: x, y, width, height.
        scores: of the boxes.
        max_overlap: with one that is kept, as a share of the union.
        most: how many are kept at most.

    Example:
        >>> boxes = np.array([[0.0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 10, 10]])
        >>> best(boxes, np.array([0.6, 0.7, 0.5]), 0.4, 9)
        array([1, 2])
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    low, high, areas = boxes[:, :2], boxes[:, :2] + boxes[:, 2:], boxes[:, 2:].prod(1)
    while order.size and len(kept) < most:
        first, order = order[0], order[1:]
        kept.append(first)
        common = np.minimum(high[first], high[order]) - np.maximum(low[first], low[order])
        shared = np.clip(common, 0, None).prod(1)
        order = order[shared / (areas[first] + areas[order] - shared) <= max_overlap]
    return np.array(kept, int)
