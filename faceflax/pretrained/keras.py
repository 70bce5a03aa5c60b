"""Reads the Keras 2 HDF5 files of the reference's mini-Xception into this project's variables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from faceflax import models
from faceflax.errors import FaceflaxError, said
from faceflax.files import check_file
from faceflax.models.architectures import EPSILON, MAX_IMAGE_SIZE, MIN_IMAGE_SIZE
from faceflax.pretrained.loading import Variables, verify

if TYPE_CHECKING:
    import h5py

_EXPECTED = "expected a mini-Xception saved whole by Keras 2 (model.save), with channels last"
_MOST_BYTES, _MOST_NUMBERS = 2**28, 2**20  # of a file, and of one of its arrays; the reference's have 1 MB and 18,432


class _Node(NamedTuple):
    """A layer of the reference's mini-Xception: what Keras calls it, its settings, and the nodes that feed it."""

    kind: str
    settings: dict[str, Any]
    inputs: tuple[str, ...] = ()


def _graph() -> dict[str, _Node]:
    """The reference's network. A convolution has this project's name for it, and what follows it that with a suffix."""
    plain = {"strides": [1, 1], "dilation_rate": [1, 1], "data_format": "channels_last", "activation": "linear"}
    same = {"kernel_size": [3, 3], "padding": "same", **plain}
    norm = {"epsilon": EPSILON, "axis": -1}
    pool = {"pool_size": [3, 3], "strides": [2, 2], "padding": "same", "data_format": "channels_last"}
    nodes = {"images": _Node("InputLayer", {})}
    last = "images"
    for stem in ("stem1", "stem2"):
        nodes[stem] = _Node("Conv2D", same | {"padding": "valid"}, (last,))
        nodes[_batch_norm(stem)] = _Node("BatchNormalization", norm, (stem,))
        last = f"{stem}_relu"
        nodes[last] = _Node("Activation", {"activation": "relu"}, (_batch_norm(stem),))
    for block in (f"block{index}" for index in range(1, 5)):
        shortcut, first, second = f"{block}/shortcut", f"{block}/conv1", f"{block}/conv2"
        nodes[shortcut] = _Node("Conv2D", same | {"kernel_size": [1, 1], "strides": [2, 2]}, (last,))
        nodes[first] = _Node("SeparableConv2D", same | {"depth_multiplier": 1}, (last,))
        nodes[f"{block}/relu"] = _Node("Activation", {"activation": "relu"}, (_batch_norm(first),))
        nodes[second] = _Node("SeparableConv2D", same | {"depth_multiplier": 1}, (f"{block}/relu",))
        nodes[f"{block}/pool"] = _Node("MaxPooling2D", pool, (_batch_norm(second),))
        for convolution in (shortcut, first, second):
            nodes[_batch_norm(convolution)] = _Node("BatchNormalization", norm, (convolution,))
        nodes[block] = _Node("Add", {}, (_batch_norm(shortcut), f"{block}/pool"))
        last = block
    nodes["last_conv"] = _Node("Conv2D", same, (last,))
    nodes["mean"] = _Node("GlobalAveragePooling2D", {"data_format": "channels_last"}, ("last_conv",))
    nodes["probabilities"] = _Node("Activation", {"activation": "softmax"}, ("mean",))
    return nodes


class KerasModel(NamedTuple):
    """A network read from a Keras file.

    Attributes:
        arch: its name, for ``models.create``.
        num_classes: how many logits it has.
        image_size: side of the images it takes, in pixels.
        variables: its ``params`` and ``batch_stats``, float32.
    """

    arch: str
    num_classes: int
    image_size: int
    variables: Variables


def read(path: str | Path) -> KerasModel:
    """Reads a mini-Xception from a Keras 2 HDF5 file, such as the reference implementation's published weights.

    A layer is identified by its place in the graph, from the output back to the images, and must have the kind and the
    settings that this place has in mini-Xception; layers' names and their order in the file do not matter.

    Args:
        path: the ``.hdf5`` file.

    Raises:
        FaceflaxError: no such file, not HDF5, or not a mini-Xception; the message says what was expected.
    """
    import h5py
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    check_file("path", Path(path), most=_MOST_BYTES, remedy="check the path")
    try:
        with h5py.File(path) as file:
            config = json.loads(file.attrs["model_config"])["config"]
            weights = {name: _layer_weights(file["model_weights"][name]) for name in file["model_weights"]}
        layers = _identified(config)
        tensors = _tensors(layers, weights)
        image_size = layers["images"]["config"]["batch_input_shape"][1]
        if layers["images"]["config"]["batch_input_shape"] != [None, image_size, image_size, 1]:
            raise ValueError(f"the images' shape is {layers['images']['config']['batch_input_shape']}")
        if not isinstance(image_size, int) or not MIN_IMAGE_SIZE <= image_size <= MAX_IMAGE_SIZE:
            raise ValueError(f"the images' size is {image_size}")
        num_classes = tensors["params/last_conv/kernel"].shape[-1]
    except (OSError, LookupError, RuntimeError, TypeError, ValueError, AttributeError, StopIteration) as error:
        problem = f"{{}} cannot be converted ({said(error, kind=True)})"
        raise FaceflaxError("path", path, problem, _EXPECTED) from None
    try:
        verify(tensors, models.create("mini_xception", num_classes))
    except FaceflaxError as error:
        raise FaceflaxError("path", path, f"in {{}}, {error.reason} ({_EXPECTED})") from None
    variables = jax.tree.map(jnp.asarray, unflatten_dict(tensors, sep="/"))
    return KerasModel("mini_xception", num_classes, image_size, variables)


def _layer_weights(group: h5py.Group) -> dict[str, np.ndarray]:
    """Returns a layer's arrays by their last name: ``conv2d_1_1/kernel:0`` and ``conv2d_1/kernel:0`` are ``kernel``."""
    names = [name.decode() if isinstance(name, bytes) else name for name in group.attrs["weight_names"]]
    for name in names:  # a small file can hold much that is compressed
        if group[name].size > _MOST_NUMBERS:
            raise ValueError(f"{name!r} holds {group[name].size:,} numbers")
    return {name.rsplit("/")[-1].split(":")[0]: np.asarray(group[name]) for name in names}


def _identified(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The layers of a Keras model by their nodes in :func:`_graph`.

    Raises:
        ValueError: a layer differs from its node, or is not a part of the network.
    """
    layers = {layer["config"]["name"]: layer for layer in config["layers"]}
    graph, found = _graph(), dict[str, dict[str, Any]]()
    ((output, *_),) = config["output_layers"]
    if output not in layers:
        raise ValueError(f"there is no layer {output!r}, which is the output")
    open_nodes = [("probabilities", output)]
    while open_nodes:
        node, name = open_nodes.pop()
        layer, (kind, settings, inputs) = layers[name], graph[node]
        if layer["class_name"] != kind:
            raise ValueError(f"layer {name!r} is a {layer['class_name']}, in mini-Xception {node} is a {kind}")
        for setting, expected in settings.items():
            value = layer["config"].get(setting)
            if value != expected or isinstance(value, bool) != isinstance(expected, bool):
                raise ValueError(f"layer {name!r} has {setting} {value!r}, in mini-Xception it is {expected!r}")
        if found.setdefault(node, layer) is not layer:
            raise ValueError(f"layer {name!r} is not the {node} of mini-Xception")
        sources = [inbound[0] for call in layer["inbound_nodes"] for inbound in call]
        missing = next((source for source in sources if source not in layers), None)
        if missing is not None:
            raise ValueError(f"there is no layer {missing!r}, which {name!r} takes as input")
        if len(sources) != len(inputs):
            raise ValueError(f"layer {name!r} has {len(sources)} inputs, in mini-Xception {len(inputs)}")
        if kind == "Add":  # in either order
            sources.sort(key=lambda source: layers[source]["class_name"] != "BatchNormalization")
        open_nodes += zip(inputs, sources, strict=True)
    superfluous = layers.keys() - {layer["config"]["name"] for layer in found.values()}
    if superfluous:
        raise ValueError(f"layer {min(superfluous)!r} is no part of mini-Xception")
    return found


def _tensors(layers: Mapping[str, Any], weights: Mapping[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Names every array as this project does, in its layout."""
    tensors: dict[str, np.ndarray] = {}
    for target, layer in layers.items():
        arrays = weights[layer["config"]["name"]]
        if layer["class_name"] == "BatchNormalization":
            tensors[f"params/{target}/scale"] = arrays["gamma"]
            tensors[f"params/{target}/bias"] = arrays["beta"]
            tensors[f"batch_stats/{target}/mean"] = arrays["moving_mean"]
            tensors[f"batch_stats/{target}/var"] = arrays["moving_variance"]
        elif "depthwise_kernel" in arrays:
            tensors[f"params/{target}/depthwise"] = arrays["depthwise_kernel"].transpose(0, 1, 3, 2)
            tensors[f"params/{target}/pointwise"] = arrays["pointwise_kernel"][0, 0]
        else:
            tensors |= {f"params/{target}/{kind}": array for kind, array in arrays.items()}
    return tensors


def _batch_norm(convolution: str) -> str:
    """Returns the BatchNorm after a convolution: ``block1/conv1`` -> ``block1/bn1``, ``stem1`` -> ``stem1_bn``."""
    return convolution.replace("/conv", "/bn") if "/conv" in convolution else f"{convolution}_bn"
