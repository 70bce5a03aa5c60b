"""Whole networks on the CPU: NumPy arrays in, NumPy arrays out, without XLA and without importing JAX.

A network is a list of layers, which :class:`Network` hands to C++ (``src/network.h``). That checks all of it, packs the
weights and keeps them; a call then computes any number of images at any size, on all cores.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from faceflax.errors import FaceflaxError, unknown
from faceflax.native import library

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float32, Int

    Images = Float32[np.ndarray, "batch height width channels"]
    Logits = Float32[np.ndarray, "batch classes"]

Kind = Literal[
    "convolution", "separable", "shortcut", "max_pool", "average_pool", "head", "blurred_shortcut", "blurred_max_pool"
]

_CODES = {kind: code for code, kind in enumerate(get_args(Kind))}
_WEIGHTS = {  # kind: what its weights are, and their axes
    "convolution": {"kernel": 4, "bias": 1},
    "separable": {"kernel": 4, "pointwise": 2, "bias": 1},
    "shortcut": {"kernel": 2, "bias": 1},
    "max_pool": {},
    "average_pool": {},
    "head": {"kernel": 4, "bias": 1},
    "blurred_shortcut": {"kernel": 2, "bias": 1},
    "blurred_max_pool": {},
}


@dataclass(frozen=True)
class Layer:
    """One layer; ``weights`` by ``kind``, float32.

    * ``convolution``: kernel ``[size, size, inputs, outputs]`` and bias; stride 1.
    * ``separable``: depthwise kernel ``[3, 3, 1, inputs]``, pointwise ``[inputs, outputs]`` and bias.
    * ``shortcut``: kernel ``[inputs, outputs]`` and bias, of every second pixel both ways; kept for the next max-pool.
    * ``max_pool``: none; 3x3, stride 2, SAME, plus the shortcut.
    * ``average_pool``: none; 2x2, stride 2, SAME.
    * ``blurred_shortcut``: as a shortcut, of the pixels smoothed by (1, 2, 1) / 4 along both axes, the edge repeated.
    * ``blurred_max_pool``: none; of the 3x3 maxima at all pixels, smoothed so, every second, plus the shortcut.
    * ``head``: kernel ``[size, size, inputs, classes]`` of size 1 or 3 and bias of the last convolution, then the mean
      over pixels.

    ``relu`` follows a convolution or a separable one; ``padding`` is a convolution's, SAME or VALID.
    """

    kind: Kind
    weights: tuple[Float32[np.ndarray, "..."], ...] = ()
    relu: bool = False
    padding: str = "SAME"


class _Layer(ctypes.Structure):  # FaceflaxLayer in network.h
    _fields_ = (
        ("kind", ctypes.c_int32),
        ("relu", ctypes.c_int32),
        ("same", ctypes.c_int32),
        ("size", ctypes.c_int32),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("kernel", ctypes.c_void_p),
        ("pointwise", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("kernel_count", ctypes.c_int64),
        ("pointwise_count", ctypes.c_int64),
        ("bias_count", ctypes.c_int64),
    )


class _Batch(ctypes.Structure):  # FaceflaxBatch in network.h
    _fields_ = (
        ("network", ctypes.c_void_p),
        ("images", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("logits", ctypes.c_void_p),
    )


class Network:
    """A network in the C++ kernels. Any number of threads may use it at once.

    Args:
        layers: the last one, and it alone, is a head.

    Raises:
        FaceflaxError: layers that cannot be computed, which the message names; or no kernels
            (:func:`faceflax.native.available`).

    Example:
        >>> import numpy as np
        >>> from faceflax import native
        >>> if native.available():
        ...     network = Network([Layer("head", (np.ones((3, 3, 1, 2), np.float32), np.zeros(2, np.float32)))])
        ...     logits = run([(network, np.ones((5, 8, 8, 1), np.float32))])[0]
        ...     assert logits.shape == (5, 2)
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        try:
            self._library = library.load("float32")
        except library.Unavailable as error:
            raise FaceflaxError("kernels", None, str(error), "give faceflax.compile the network instead") from None
        described = [_describe(index, layer) for index, layer in enumerate(layers)]
        array = (_Layer * len(described))(*(layer for layer, _ in described))
        handle = ctypes.c_void_p()
        self._check(self._library.faceflax_create(array, ctypes.c_int64(len(array)), ctypes.byref(handle)))
        self._handle = handle
        weakref.finalize(self, self._library.faceflax_destroy, handle).atexit = False
        self.channels: int = array[0].inputs
        """Of the images."""
        self.classes: int = array[len(array) - 1].outputs
        """Of the logits."""
        self.explains: bool = bool(self._library.faceflax_explains(handle))
        """Whether :meth:`guided` can be computed: for images of 1 channel, 8, 16 or a multiple of 32."""

    def guided(self, images: Images, targets: Int[np.ndarray, " batch"]) -> tuple[Logits, Images]:
        """Computes logits, and guided backpropagation of one class of each image.

        Springenberg et al., "Striving for Simplicity: The All Convolutional Net", ICLR workshop 2015.

        Args:
            images: float32 ``[batch, height, width, channels]``.
            targets: integers ``[batch]``; -1 is the class with the highest logit.

        Returns:
            Logits ``[batch, classes]``, and signed maps of the images' shape.

        Raises:
            FaceflaxError: images or targets that do not fit the network, or :attr:`explains` is false.
        """
        batch, images, logits = self._batch(images)
        targets = np.asarray(targets)
        if targets.shape != images.shape[:1] or targets.dtype.kind not in "iu":
            raise FaceflaxError(
                "targets",
                targets.shape,
                f"{targets.dtype} of shape {{}} is not one integer for each of {len(images)} images",
            )
        wanted = targets.astype(np.int32)
        if (wanted != targets).any():
            raise FaceflaxError("targets", targets.max(), "is no class", f"give 0 to {self.classes - 1}")
        maps = np.empty_like(images)
        self._check(
            self._library.faceflax_guided(
                ctypes.byref(batch), ctypes.c_void_p(wanted.ctypes.data), ctypes.c_void_p(maps.ctypes.data)
            )
        )
        return logits, maps

    def _batch(self, images: Images) -> tuple[_Batch, Images, Logits]:
        """What C++ is told of the images, the images as they must lie in memory, and room for their logits."""
        images = np.asarray(images)
        if images.ndim != 4 or images.dtype != np.float32 or images.shape[3] != self.channels:
            raise FaceflaxError(
                "images",
                images.shape,
                f"{images.dtype} of shape {{}} is not float32 [batch, height, width, {self.channels}]",
                "convert them",
            )
        images = np.ascontiguousarray(images)
        logits = np.empty((images.shape[0], self.classes), np.float32)
        count, height, width, _ = images.shape
        return _Batch(self._handle, images.ctypes.data, count, height, width, logits.ctypes.data), images, logits

    def _check(self, status: int) -> None:
        if status != 0:
            raise library.problem_of(self._library)


def run(batches: Sequence[tuple[Network, Images]]) -> list[Logits]:
    """Computes logits of several networks in one call, each of its own images, which all cores share.

    Args:
        batches: each network and its images, float32 ``[batch, height, width, channels]``; none is fine.

    Returns:
        Logits ``[batch, classes]`` of each.

    Raises:
        FaceflaxError: images that do not fit their network.
    """
    if not batches:
        return []
    prepared = [network._batch(images) for network, images in batches]
    array = (_Batch * len(prepared))(*(batch for batch, _, _ in prepared))
    network = batches[0][0]
    network._check(network._library.faceflax_run(array, ctypes.c_int64(len(array))))
    return [logits for _, _, logits in prepared]


def _describe(index: int, layer: Layer) -> tuple[_Layer, list[np.ndarray]]:
    """A layer for C++, and the arrays it points to, which must live as long."""
    where = f"layers[{index}]"
    if layer.kind not in _CODES:
        raise unknown(f"{where}.kind", layer.kind, _CODES)
    where += f" ({layer.kind})"
    if layer.padding not in ("SAME", "VALID"):
        raise unknown(f"{where}.padding", layer.padding, ("SAME", "VALID"))
    axes = _WEIGHTS[layer.kind]
    if len(layer.weights) != len(axes):
        wanted = ", ".join(axes) or "none"
        raise FaceflaxError(f"{where}.weights", len(layer.weights), "{} arrays", f"give {len(axes)}: {wanted}")
    arrays = {}
    for (name, ndim), weights in zip(axes.items(), layer.weights, strict=True):
        if weights.dtype != np.float32 or weights.ndim != ndim:
            raise FaceflaxError(
                f"{where}.{name}",
                weights.shape,
                f"{weights.dtype} of shape {{}} is not float32 of {ndim} axes",
                "convert it",
            )
        arrays[name] = np.ascontiguousarray(weights)
    description = _Layer(_CODES[layer.kind], int(layer.relu), int(layer.padding == "SAME"))
    for name, array in arrays.items():
        setattr(description, name, array.ctypes.data)
        setattr(description, f"{name}_count", array.size)
    if arrays:
        shape = arrays["kernel"].shape
        if len(shape) == 4 and shape[0] != shape[1]:
            raise FaceflaxError(f"{where}.kernel", shape, "shape {} is not square", "give as many rows as columns")
        if layer.kind == "separable":
            if shape[2] != 1:
                raise FaceflaxError(f"{where}.kernel", shape, "shape {} is not [3, 3, 1, inputs]", "reshape it")
            description.inputs, description.outputs = arrays["pointwise"].shape
        else:
            description.inputs, description.outputs = shape[-2:]
        description.size = shape[0] if len(shape) == 4 else 1
    return description, list(arrays.values())
