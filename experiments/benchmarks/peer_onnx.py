"""ONNX Runtime on an ordinary graph of each network, made of our shared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from experiments.benchmarks import shared
from faceflax.models.architectures import VGG_STAGES

Run = Callable[[], np.ndarray]


def write_graph(arch: str, file: str) -> None:
    """Writes ``images [batch, 1, height, width] -> logits [batch, 7]`` to ``file``.

    BatchNorm stays a node of its own, as an exporter leaves it: ONNX Runtime folds it when it loads the graph.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tensors = shared.channels_first(arch)
    nodes: list[onnx.NodeProto] = []

    def node(operator: str, inputs: list[str], **attributes: Any) -> str:
        output = f"{operator}_{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def conv(x: str, name: str, stride: int = 1, same: bool = True) -> str:
        kernel = tensors[f"{name}.weight"]
        inputs = [x, f"{name}.weight"] + [f"{name}.bias"] * (f"{name}.bias" in tensors)
        group = kernel.shape[0] if name.endswith("depthwise") else 1
        pads = [kernel.shape[-1] // 2 if same else 0] * 4
        return node("Conv", inputs, kernel_shape=kernel.shape[2:], strides=[stride] * 2, pads=pads, group=group)

    def norm(x: str, name: str) -> str:
        leaves = ("weight", "bias", "running_mean", "running_var")
        return node("BatchNormalization", [x, *(f"{name}.{leaf}" for leaf in leaves)], epsilon=shared.BN_EPSILON)

    def separable(x: str, name: str) -> str:
        return conv(conv(x, f"{name}.depthwise"), f"{name}.pointwise")

    def pool(x: str, operator: str, size: int) -> str:
        return node(operator, [x], kernel_shape=[size] * 2, strides=[2, 2], auto_pad="SAME_UPPER")

    def mini_xception(x: str) -> str:
        for name in ("stem1", "stem2"):
            x = node("Relu", [norm(conv(x, name, same=False), f"{name}_bn")])
        for name in ("block1", "block2", "block3", "block4"):
            main = node("Relu", [norm(separable(x, f"{name}.conv1"), f"{name}.bn1")])
            main = norm(separable(main, f"{name}.conv2"), f"{name}.bn2")
            shortcut = norm(conv(x, f"{name}.shortcut", stride=2), f"{name}.shortcut_bn")
            x = node("Add", [pool(main, "MaxPool", 3), shortcut])
        return x

    def sequential_cnn(x: str) -> str:
        for i in range(1, len(shared.STAGES) + 1):
            for name in (f"stage{i}a", f"stage{i}b"):
                x = norm(conv(x, name), f"{name}_bn")
            x = pool(node("Relu", [x]), "AveragePool", 2)
        return norm(conv(x, "stage5a"), "stage5a_bn")

    def vgg(x: str) -> str:
        for stage, (_, depth) in enumerate(VGG_STAGES, start=1):
            if stage > 1:
                x = pool(x, "MaxPool", 3)
            for name in (f"conv{stage}_{i}" for i in range(1, depth + 1)):
                x = node("Relu", [norm(conv(x, name), f"{name}_bn")])
        return x

    if arch == "vgg":  # the dense layer's weight is [classes, features, 1, 1]: a convolution of the mean
        last = conv(node("GlobalAveragePool", [vgg("images")]), "classifier")
    else:
        body = {"mini_xception": mini_xception, "sequential_cnn": sequential_cnn}[arch]
        last = node("GlobalAveragePool", [conv(body("images"), "last_conv")])
    nodes.append(helper.make_node("Flatten", [last], ["logits"]))
    graph = helper.make_graph(
        nodes,
        arch,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 64, 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", shared.CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    Path(file).write_bytes(model.SerializeToString())


def forward(file: str, batch: int, threads: int) -> Run:
    """Logits ``[batch, 7]``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    images = shared.images(batch).reshape(batch, 1, 64, 64)
    run = partial(session.run, None, {session.get_inputs()[0].name: images})
    return lambda: run()[0]


if __name__ == "__main__":
    write_graph(*sys.argv[1:])
