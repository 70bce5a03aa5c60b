"""Reads the Keras 2 HDF5 files of the reference's mini-Xception into this project's variables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from faceflax import models
from faceflax.errors import FaceflaxError
from faceflax.pretrained.loading import Variables, verify

if TYPE_CHECKING:
    import h5py

_EXPECTED = "expected a mini-Xception saved whole by Keras 2 (model.save), with channels last"

# Keras numbers layers in the order in which a session made them, which differs from file to file; these lists follow
# the graph.
_BLOCKS = [f"block{index}" for index in range(1, 5)]
_LAYERS = {
    "Conv2D": ["stem1", "stem2", *(f"{block}/shortcut" for block in _BLOCKS), "last_conv"],
    "SeparableConv2D": [f"{block}/conv{half}" for block in _BLOCKS for half in (1, 2)],
}


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

    A convolution is identified by its kind and its order along the graph, and a BatchNorm by the convolution that
    feeds it; layers' names do not matter.

    Args:
        path: the ``.hdf5`` file.

    Raises:
        FaceflaxError: no such file, not HDF5, or not a mini-Xception; the message says what was expected.
    """
    import h5py
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    if not Path(path).is_file():
        raise FaceflaxError("path", path, "is not a file", "check the path")
    try:
        with h5py.File(path) as file:
            config = json.loads(file.attrs["model_config"])["config"]
            weights = {name: _layer_weights(file["model_weights"][name]) for name in file["model_weights"]}
        tensors = _tensors(config["layers"], weights)
        image_size = next(
            layer["config"]["batch_input_shape"][1] for layer in config["layers"] if layer["class_name"] == "InputLayer"
        )
        if not isinstance(image_size, int):
            raise ValueError(f"the images' size is {image_size}")
        num_classes = tensors["params/last_conv/kernel"].shape[-1]
    except (OSError, LookupError, RuntimeError, TypeError, ValueError, AttributeError, StopIteration) as error:
        problem = f"{{}} cannot be converted ({type(error).__name__}: {error})"
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
    return {name.rsplit("/")[-1].split(":")[0]: np.asarray(group[name]) for name in names}


def _tensors(layers: list[dict[str, Any]], weights: Mapping[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Names every array as this project does, in its layout."""
    names = {kind: iter(targets) for kind, targets in _LAYERS.items()}
    targets: dict[str, str] = {}
    tensors: dict[str, np.ndarray] = {}
    for layer in layers:  # every layer comes after those that feed it
        name, arrays = layer["config"]["name"], weights[layer["config"]["name"]]
        if layer["class_name"] in names:
            target = targets[name] = next(names[layer["class_name"]])
            if "depthwise_kernel" in arrays:
                tensors[f"params/{target}/depthwise"] = arrays["depthwise_kernel"].transpose(0, 1, 3, 2)
                tensors[f"params/{target}/pointwise"] = arrays["pointwise_kernel"][0, 0]
            else:
                tensors |= {f"params/{target}/{kind}": array for kind, array in arrays.items()}
        elif layer["class_name"] == "BatchNormalization":
            target = _batch_norm(targets[layer["inbound_nodes"][0][0][0]])
            tensors[f"params/{target}/scale"] = arrays["gamma"]
            tensors[f"params/{target}/bias"] = arrays["beta"]
            tensors[f"batch_stats/{target}/mean"] = arrays["moving_mean"]
            tensors[f"batch_stats/{target}/var"] = arrays["moving_variance"]
    return tensors


def _batch_norm(convolution: str) -> str:
    """Returns the BatchNorm after a convolution: ``block1/conv1`` -> ``block1/bn1``, ``stem1`` -> ``stem1_bn``."""
    return convolution.replace("/conv", "/bn") if "/conv" in convolution else f"{convolution}_bn"
