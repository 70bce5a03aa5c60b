"""A network as an ONNX graph, written layer by layer from the folded program: what no exporter makes smaller."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from faceflax import pretrained
from faceflax.errors import FaceflaxError, needing_extras
from faceflax.inference import folding
from faceflax.inference.detector_folding import DetectorProgram, fold_detector
from faceflax.inference.folding import Program
from faceflax.models.architectures import DETECTOR_CHANNELS, DETECTOR_PATCH

if TYPE_CHECKING:  # slow to import, and only annotations need it
    import onnx

    from faceflax.pretrained import WeightsInfo

OPSET = 17
IR_VERSION = 8
"""Both are of 2022, so that old runtimes read the file too."""

Shape = Sequence[int | str | None]


def onnx_model(weights: str | Path, *, normalize: bool = False) -> onnx.ModelProto:
    """Makes an ONNX model of a network's weights.

    Its input is ``images``, ``[batch, 1, height, width]``, of any batch and size, and its outputs are ``logits`` and
    ``probabilities``, ``[batch, classes]``: the softmax of the logits divided by the record's temperature. That of a
    face detector takes ``[batch, 3, height, width]``, blue first, whose sides are multiples of 32, and gives ``places``
    ``[batch, places, 15]``, as :func:`faceflax.inference.detector_in_jax.evaluate` does. What the record says of the
    weights is in the model's metadata.

    Args:
        weights: one of ``faceflax.list_weights()``, or the path of a ``.safetensors`` file with its record.
        normalize: the images are uint8, 0 to 255, and the graph scales them to [-1, 1]; otherwise they are float32 in
            [-1, 1].

    Raises:
        FaceflaxError: as :func:`faceflax.load` does, weights of a network that has no folded form, or onnx is not
            installed.

    Example:
        >>> model = onnx_model("mini_xception-fer2013")
        >>> [output.name for output in model.graph.output]
        ['logits', 'probabilities']
    """
    with needing_extras():
        import onnx
    info = pretrained.weights_info(weights)
    graph = _Graph()
    if info.arch == "face_detector":
        program = fold_detector(pretrained.read(weights)[1])
        shape: Shape = ["batch", DETECTOR_CHANNELS, "height", "width"]
        graph.detector(graph.scaled("images", normalize), program)
        outputs = {"places": ["batch", "places", program[-1].channels]}
    else:
        info, layers = folding.load(weights)
        if layers is None:
            remedy = "choose weights of another network"
            raise FaceflaxError("weights", Path(weights), f"{{}} are of {info.arch}, which has no folded form", remedy)
        shape = ["batch", 1, "height", "width"]
        graph.classifier(graph.scaled("images", normalize), layers, info.temperature)
        outputs = {name: ["batch", len(info.labels)] for name in ("logits", "probabilities")}
    model = graph.model(info, shape, outputs, normalize=normalize)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """The nodes so far. Images are ``[batch, channels, height, width]``, as ONNX has them."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        output = output or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, values: np.ndarray | np.float32) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def scaled(self, x: str, normalize: bool) -> str:
        if not normalize:
            return x
        from onnx import TensorProto

        x = self.node("Div", self.node("Cast", x, to=TensorProto.FLOAT), self.constant(np.float32(127.5)))
        return self.node("Sub", x, self.constant(np.float32(1)))

    def convolution(
        self,
        x: str,
        kernel: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        stride: int = 1,
        same: bool = True,
        group: int = 1,
    ) -> str:
        """``kernel`` is ``[size, size, inputs, outputs]``."""
        size = len(kernel)
        inputs = [x, self.constant(kernel.transpose(3, 2, 0, 1)), *([] if bias is None else [self.constant(bias)])]
        pads = [size // 2 if same else 0] * 4
        return self.node("Conv", *inputs, kernel_shape=[size] * 2, strides=[stride] * 2, pads=pads, group=group)

    def separable(self, x: str, depthwise: np.ndarray, pointwise: np.ndarray, bias: np.ndarray) -> str:
        x = self.convolution(x, depthwise, group=depthwise.shape[-1])
        return self.convolution(x, pointwise[None, None], bias)

    def pool(self, x: str, operator: str, size: int, **attributes: Any) -> str:
        return self.node(operator, x, kernel_shape=[size] * 2, strides=[2] * 2, auto_pad="SAME_UPPER", **attributes)

    def blurred(self, x: str, channels: int) -> str:
        """Every second pixel, smoothed by (1, 2, 1) / 4 both ways, the edge repeated outwards."""
        x = self.node("Pad", x, self.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1])), mode="edge")
        kernel = np.tile(np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32)[..., None, None] / 16, (1, 1, 1, channels))
        return self.convolution(x, kernel, stride=2, same=False, group=channels)

    def classifier(self, x: str, program: Program, temperature: float) -> None:
        """Adds the layers of :mod:`faceflax.inference.folding`."""
        shortcut = None
        channels = 0
        for layer in program:
            weights = layer.weights
            if layer.kind in ("convolution", "separable"):
                channels = len(weights[-1])
            match layer.kind:
                case "convolution":
                    x = self.convolution(x, *weights, same=layer.padding == "SAME")
                case "separable":
                    x = self.separable(x, *weights)
                case "shortcut":
                    shortcut = self.convolution(x, weights[0][None, None], weights[1], stride=2, same=False)
                case "blurred_shortcut":
                    shortcut = self.convolution(self.blurred(x, channels), weights[0][None, None], weights[1])
                case "blurred_max_pool":
                    x = self.node("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
                    x = self.blurred(x, channels)
                    x = x if shortcut is None else self.node("Add", x, shortcut)
                case "max_pool":
                    x = self.pool(x, "MaxPool", 3)
                    x = x if shortcut is None else self.node("Add", x, shortcut)
                case "average_pool":
                    x = self.pool(x, "AveragePool", 2, count_include_pad=1)
                case "head" if len(weights[0]) == 1:  # as linear as the mean, and cheaper behind it
                    x = self.convolution(self.node("GlobalAveragePool", x), *weights)
                case "head":
                    x = self.node("GlobalAveragePool", self.convolution(x, *weights))
            if layer.relu:
                x = self.node("Relu", x)
        logits = self.node("Flatten", x, output="logits")
        divided = self.node("Div", logits, self.constant(np.float32(temperature)))
        self.node("Softmax", divided, output="probabilities", axis=1)

    def detector(self, x: str, program: DetectorProgram) -> None:
        """Adds the layers of :mod:`faceflax.inference.detector_folding`."""
        images = x
        maps: list[str] = []
        places: list[str] = []
        for layer in program:
            x = images if layer.source < 0 else maps[layer.source]
            weights = layer.weights
            match layer.kind:
                case "patches":
                    kernel = weights[0].reshape(DETECTOR_PATCH, DETECTOR_PATCH, DETECTOR_CHANNELS, -1)
                    x = self.convolution(x, kernel, weights[1], stride=DETECTOR_PATCH, same=False)
                case "separable":
                    x = self.separable(x, *weights)
                case "pointwise" | "places":
                    x = self.convolution(x, weights[0][None, None], weights[1])
                case "max_pool":
                    x = self.pool(x, "MaxPool", 3)
            if layer.add >= 0:
                other = maps[layer.add]
                x = self.node("Add", x, self.doubled(other) if layer.kind == "doubled_sum" else other)
            maps.append(self.node("Relu", x) if layer.relu else x)
            if layer.kind == "places":
                rows = self.node("Transpose", x, perm=[0, 2, 3, 1])
                places.append(self.node("Reshape", rows, self.constant(np.array([0, -1, layer.channels]))))
        self.node("Concat", *places, output="places", axis=1)

    def doubled(self, x: str) -> str:
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.node("Resize", x, "", scales, **modes)

    def model(
        self, info: WeightsInfo, shape: Shape, outputs: dict[str, list[Any]], *, normalize: bool
    ) -> onnx.ModelProto:
        from onnx import TensorProto, helper

        kind = TensorProto.UINT8 if normalize else TensorProto.FLOAT
        graph = helper.make_graph(
            self._nodes,
            info.name,
            [helper.make_tensor_value_info("images", kind, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in outputs.items()],
            self._constants,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="faceflax",
        )
        helper.set_model_props(model, metadata(info, normalize=normalize))
        return model


def metadata(info: WeightsInfo, *, normalize: bool) -> dict[str, str]:
    """Returns what a file says about itself, as text; lists are JSON.

    Example:
        >>> metadata(pretrained.weights_info("mini_xception-fairface"), normalize=True)["labels"]
        '["woman", "man"]'
    """
    return {
        "name": info.name,
        "arch": info.arch,
        "dataset": info.dataset,
        "labels": json.dumps(info.labels),
        "image_size": str(info.image_size),
        "crop_margin": str(info.crop_margin),
        "temperature": str(info.temperature),
        "sha256": info.sha256,
        "channels": "blue, green, red" if info.arch == "face_detector" else "grey",
        "scale": "uint8, 0 to 255" if normalize else "float32, pixel / 127.5 - 1",
    }
