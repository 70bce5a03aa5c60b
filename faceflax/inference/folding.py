"""A trained network as a short list of layers: BatchNorm folded into the weights before it, nothing left but inference.

The rule that folds a network is also the description of its tensors: it takes each of them once, by name, in the shape
that the layer before it leaves, and refuses what is missing, superfluous or of another shape. It needs neither JAX nor
Flax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from faceflax import pretrained
from faceflax.errors import FaceflaxError
from faceflax.models.architectures import (
    EPSILON,
    MINI_XCEPTION_BLOCKS,
    MINI_XCEPTION_STEM,
    SEQUENTIAL_CNN_STAGES,
    SEQUENTIAL_CNN_TOP,
    VGG_STAGES,
)
from faceflax.native import Kind, Layer

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float32, Float64

Program = tuple[Layer, ...]


def fold(
    arch: str, tensors: Mapping[str, Any], *, num_classes: int | None = None, channels: int | None = None
) -> Program | None:
    """Writes a network's variables as layers.

    Args:
        arch: the network's name, as in ``faceflax.list_models()``.
        tensors: its variables by their place in the tree, such as ``params/block1/conv1/depthwise``; float arrays.
        num_classes: how many logits it has to have; as many as its last convolution gives, if None.
        channels: how many channels its images have to have; as many as its first convolution takes, if None.

    Returns:
        The layers, computed in float64 and rounded to float32; or None for a network that these layers cannot express.
        Its tensors are not looked at.

    Raises:
        FaceflaxError: one of ``tensors`` is missing, superfluous, of another shape than its place in the network needs,
            or holds a negative variance; or the folded values are too large for float32 or not numbers.

    Example:
        >>> info, tensors = pretrained.read("mini_xception-fer2013")
        >>> program = fold(info.arch, tensors)
        >>> [layer.kind for layer in program][:6]
        ['convolution', 'convolution', 'shortcut', 'separable', 'separable', 'max_pool']
        >>> [weights.shape for weights in program[0].weights]
        [(3, 3, 1, 8), (8,)]
    """
    rules: dict[str, Callable[[Variables], list[Layer]]] = {
        "mini_xception": _mini_xception,
        "mini_xception_antialiased": partial(_mini_xception, blurred=True),
        "sequential_cnn": _sequential_cnn,
        "vgg": _vgg,
    }
    if arch not in rules:
        return None
    variables = Variables(arch, tensors, num_classes, channels)
    program = tuple(rules[arch](variables))
    variables.finish()
    return program


def load(weights: str | Path) -> tuple[pretrained.WeightsInfo, Program | None]:
    """Reads and verifies weights, and folds them; like :func:`faceflax.load`, without JAX and Flax.

    Args:
        weights: one of ``faceflax.list_weights()``, or the path of a ``.safetensors`` file with its record.

    Returns:
        The record, and the layers, or None for a network that these cannot express.

    Raises:
        FaceflaxError: as :func:`faceflax.load` does.

    Example:
        >>> info, program = load("mini_xception-fairface")
        >>> info.labels, program[-1].weights[1].shape
        (('woman', 'man'), (2,))
    """
    info, tensors = pretrained.read(weights)
    try:
        return info, fold(info.arch, tensors, num_classes=len(info.labels), channels=1)
    except FaceflaxError as error:
        raise FaceflaxError("weights", Path(weights), f"in {{}}, {error.reason}") from None


class Variables:
    """A network's tensors, each to be taken once; ``width`` is how many channels the last layer gave."""

    def __init__(self, arch: str, tensors: Mapping[str, Any], num_classes: int | None, channels: int | None) -> None:
        self._network = arch if num_classes is None else f"{arch} with {num_classes} classes"
        self._left = dict(tensors)
        self._classes = num_classes
        self.width = channels

    def take(self, name: str, *shape: int | None) -> Float64[np.ndarray, "..."]:
        """Takes a tensor, which must have this shape; None stands for any size above 0."""
        wanted = tuple("any" if size is None else size for size in shape)
        if name not in self._left:
            raise self._error(name, f"tensor {{}} {_text(wanted)} of {self._network} is missing")
        tensor = np.asarray(self._left.pop(name), np.float64)
        if tensor.ndim != len(shape) or not all(
            found > 0 and size in (None, found) for size, found in zip(shape, tensor.shape, strict=True)
        ):
            raise self._error(name, f"tensor {{}} is {tensor.shape}, in {self._network} it is {_text(wanted)}")
        return tensor

    def finish(self) -> None:
        """Refuses what was not taken."""
        for name in sorted(self._left):
            raise self._error(name, f"{self._network} has no tensor {{}} {np.shape(self._left[name])}")

    def batch_norm(self, name: str) -> tuple[Float64[np.ndarray, " width"], Float64[np.ndarray, " width"]]:
        """BatchNorm of the last layer's channels with running statistics, as factor and offset."""
        scale, bias = (self.take(f"params/{name}/{leaf}", self.width) for leaf in ("scale", "bias"))
        mean, variance = (self.take(f"batch_stats/{name}/{leaf}", self.width) for leaf in ("mean", "var"))
        if (variance < 0).any():
            raise self._error(f"batch_stats/{name}/var", "tensor {} holds a negative variance")
        factor = scale / np.sqrt(variance + EPSILON)
        return factor, bias - mean * factor

    def convolution(self, name: str, width: int, size: int, *, bias: bool, relu: bool, padding: str = "SAME") -> Layer:
        """A convolution and its BatchNorm."""
        kernel = self.take(f"params/{name}/kernel", size, size, self.width, width)
        self.width = width
        start = self.take(f"params/{name}/bias", width) if bias else None
        factor, offset = self.batch_norm(f"{name}_bn")
        if start is not None:
            offset = start * factor + offset
        return self.layer("convolution", name, kernel * factor, offset, relu=relu, padding=padding)

    def separable(self, block: str, half: int, width: int, *, relu: bool) -> Layer:
        """A separable convolution and its BatchNorm."""
        name = f"{block}/conv{half}"
        depthwise = self.take(f"params/{name}/depthwise", 3, 3, 1, self.width)
        pointwise = self.take(f"params/{name}/pointwise", self.width, width)
        self.width = width
        factor, offset = self.batch_norm(f"{block}/bn{half}")
        return self.layer("separable", name, depthwise, pointwise * factor, offset, relu=relu)

    def shortcut(self, block: str, width: int, blurred: bool) -> Layer:
        """The 1x1 convolution beside a block, and its BatchNorm; the block itself starts from the channels before."""
        kernel = self.take(f"params/{block}/shortcut/kernel", 1, 1, self.width, width)
        before, self.width = self.width, width
        factor, offset = self.batch_norm(f"{block}/shortcut_bn")
        self.width = before
        kind: Kind = "blurred_shortcut" if blurred else "shortcut"
        return self.layer(kind, f"{block}/shortcut", kernel[0, 0] * factor, offset)

    def head(self) -> Layer:
        """The last convolution."""
        kernel = self.take("params/last_conv/kernel", 3, 3, self.width, self._classes)
        return self.layer("head", "last_conv", kernel, self.take("params/last_conv/bias", kernel.shape[-1]))

    def dense(self, name: str) -> Layer:
        """A dense layer of the mean over pixels: a convolution of one pixel before it."""
        kernel = self.take(f"params/{name}/kernel", self.width, self._classes)
        return self.layer("head", name, kernel[None, None], self.take(f"params/{name}/bias", kernel.shape[-1]))

    def layer(
        self, kind: Kind, name: str, *weights: Float64[np.ndarray, "..."], relu: bool = False, padding: str = "SAME"
    ) -> Layer:
        """A layer of weights rounded to float32."""
        return Layer(kind, self.rounded(name, *weights), relu, padding)

    def rounded(self, name: str, *weights: Float64[np.ndarray, "..."]) -> tuple[Float32[np.ndarray, "..."], ...]:
        """A layer's weights in float32."""
        with np.errstate(over="ignore"):  # infinity is refused below
            rounded = tuple(array.astype(np.float32) for array in weights)
        if not all(np.isfinite(array).all() for array in rounded):
            raise FaceflaxError(
                "tensors",
                name,
                f"with its BatchNorm, layer {{}} of {self._network} has weights that are no finite float32 numbers",
                "train or convert the weights again",
            )
        return rounded

    def _error(self, name: str, problem: str) -> FaceflaxError:
        return FaceflaxError("tensors", name, problem, "use the weights and record of one and the same network")


def _text(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _mini_xception(variables: Variables, blurred: bool = False) -> list[Layer]:
    layers = [
        variables.convolution(name, MINI_XCEPTION_STEM, 3, bias=False, relu=True, padding="VALID")
        for name in ("stem1", "stem2")
    ]
    for index, width in enumerate(MINI_XCEPTION_BLOCKS, start=1):
        block = f"block{index}"
        layers += [
            variables.shortcut(block, width, blurred),
            variables.separable(block, 1, width, relu=True),
            variables.separable(block, 2, width, relu=False),
            Layer("blurred_max_pool" if blurred else "max_pool"),
        ]
    return [*layers, variables.head()]


def _sequential_cnn(variables: Variables) -> list[Layer]:
    layers = []
    for stage, (width, size) in enumerate(SEQUENTIAL_CNN_STAGES, start=1):
        layers += [
            variables.convolution(f"stage{stage}a", width, size, bias=True, relu=False),
            variables.convolution(f"stage{stage}b", width, size, bias=True, relu=True),
            Layer("average_pool"),
        ]
    top = variables.convolution("stage5a", SEQUENTIAL_CNN_TOP, 3, bias=True, relu=False)
    return [*layers, top, variables.head()]


def _vgg(variables: Variables) -> list[Layer]:
    layers: list[Layer] = []
    for stage, (width, depth) in enumerate(VGG_STAGES, start=1):
        if stage > 1:
            layers.append(Layer("max_pool"))
        for number in range(1, depth + 1):
            layers.append(variables.convolution(f"conv{stage}_{number}", width, 3, bias=False, relu=True))
    return [*layers, variables.dense("classifier")]
