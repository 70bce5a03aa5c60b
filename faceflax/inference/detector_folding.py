"""The face detector's network as a list of layers, BatchNorm folded into the weights; see :mod:`~.folding`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from faceflax.inference.folding import Variables
from faceflax.models.architectures import (
    DETECTOR_CHANNELS,
    DETECTOR_OUTPUTS,
    DETECTOR_PATCH,
    DETECTOR_UNITS,
    DETECTOR_WIDTHS,
)
from faceflax.native import DetectorKind, DetectorLayer

if TYPE_CHECKING:  # slow to import, and only annotations need it
    import numpy as np
    from jaxtyping import Float64

DetectorProgram = tuple[DetectorLayer, ...]


def fold_detector(tensors: Mapping[str, Any]) -> DetectorProgram:
    """Writes the variables of :class:`~faceflax.models.face_detector.FaceDetector` as layers.

    Args:
        tensors: by their place in the tree, such as ``params/unit4_1/conv1/depthwise``; float arrays.

    Returns:
        The layers, computed in float64 and rounded to float32.

    Raises:
        FaceflaxError: as :func:`faceflax.inference.folding.fold` does.

    Example:
        >>> import jax
        >>> from flax.traverse_util import flatten_dict
        >>> from faceflax import models
        >>> from faceflax.models.face_detector import FaceDetector
        >>> variables = models.init(FaceDetector(), jax.random.key(0), image_size=32)
        >>> program = fold_detector(flatten_dict(variables, sep="/"))
        >>> [layer.kind for layer in program][:4], len(program)
        (['patches', 'separable', 'separable', 'max_pool'], 30)
    """
    patch = DETECTOR_PATCH**2 * DETECTOR_CHANNELS
    variables = Variables("face_detector", tensors, None, patch)
    layers = _Layers(variables)
    kernel = variables.take("params/stem/kernel", 1, 1, patch, DETECTOR_WIDTHS[0])
    top = layers.add("patches", "stem", -1, kernel[0, 0], norm="stem_bn")
    maps = []
    for stage, (width, units) in enumerate(zip(DETECTOR_WIDTHS, DETECTOR_UNITS, strict=True)):
        stride = DETECTOR_PATCH << stage
        if stage > 0:
            top = layers.separable(f"down{stride}", layers.add("max_pool", "", top), width)
        for unit in range(1, units + 1):
            name = f"unit{stride}_{unit}"
            inner = layers.separable(f"{name}/conv1", top, width, norm=f"{name}/bn1")
            top = layers.separable(f"{name}/conv2", inner, width, norm=f"{name}/bn2", add=top)
        maps.append(top)
    _, stride8, stride16, stride32 = maps

    top16 = layers.separable("merge16", layers.add("doubled_sum", "", stride16, add=stride32), DETECTOR_WIDTHS[2])
    kernel = variables.take("params/lateral8/kernel", 1, 1, DETECTOR_WIDTHS[2], DETECTOR_WIDTHS[1])
    lateral = layers.add("pointwise", "lateral8", top16, kernel[0, 0], norm="lateral8_bn", relu=False)
    top8 = layers.separable("merge8", layers.add("doubled_sum", "", stride8, add=lateral), DETECTOR_WIDTHS[1])
    for stride, y in ((8, top8), (16, top16), (32, stride32)):
        width = layers.program[y].channels
        head = layers.separable(f"head{stride}", y, width)
        kernel = variables.take(f"params/output{stride}/kernel", width, DETECTOR_OUTPUTS)
        bias = variables.take(f"params/output{stride}/bias", DETECTOR_OUTPUTS)
        layers.add("places", f"output{stride}", head, kernel, offset=bias, relu=False)
    variables.finish()
    return tuple(layers.program)


class _Layers:
    """The program so far; each method appends a layer and returns its place."""

    def __init__(self, variables: Variables) -> None:
        self.program: list[DetectorLayer] = []
        self._variables = variables

    def separable(self, name: str, source: int, width: int, *, norm: str | None = None, add: int = -1) -> int:
        inputs = self.program[source].channels
        depthwise = self._variables.take(f"params/{name}/depthwise", 3, 3, 1, inputs)
        pointwise = self._variables.take(f"params/{name}/pointwise", inputs, width)
        return self.add("separable", name, source, depthwise, pointwise, norm=norm or f"{name}_bn", add=add)

    def add(
        self,
        kind: DetectorKind,
        name: str,
        source: int,
        *kernels: Float64[np.ndarray, "..."],
        norm: str | None = None,
        offset: Float64[np.ndarray, " width"] | None = None,
        add: int = -1,
        relu: bool = True,
    ) -> int:
        """``norm`` names the BatchNorm behind the last kernel; without one, ``offset`` is what is added."""
        width = kernels[-1].shape[-1] if kernels else self.program[source].channels
        if norm is not None:
            self._variables.width = width
            factor, offset = self._variables.batch_norm(norm)
            kernels = (*kernels[:-1], kernels[-1] * factor)
        weights = self._variables.rounded(name, *kernels, *([] if offset is None else [offset]))
        self.program.append(DetectorLayer(kind, width, source, add, weights, relu and bool(kernels)))
        return len(self.program) - 1
