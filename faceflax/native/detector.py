"""A face detector on the CPU: an image and the parts of it to search in, faces out, without XLA and without JAX.

Everything between is one call of C++ (``src/detector.h``): parts of the image are resized into the network's input, its
layers are computed, scores and boxes are made of what it says, and of faces that overlap the best stays. A single image
is shared among all cores.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from faceflax.errors import FaceflaxError, unknown
from faceflax.native import library

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float32, UInt8

DetectorKind = Literal["patches", "separable", "pointwise", "max_pool", "doubled_sum", "places"]

MULTIPLE = 32
"""Of which both sides of the network's input are multiples."""

CHANNELS = 3
"""Of an image: blue, green and red."""

NUMBERS = 15
"""What the network says of a place: a score, four numbers of the box, and x and y of five landmarks."""

MOST_PIXELS = 1 << 20
"""Of an image, a side."""

MOST_SIDE, MOST_INPUT = 8192, 1 << 24
"""Pixels of the network's input, a side and together."""

MOST_FACES = 1 << 20
"""Of a call."""

FAR = 1 << 24
"""Pixels that a region may lie away from an image's corner, or have a side."""

_WEIGHTS = {  # kind: what its weights are, and their axes
    "patches": {"kernel": 2, "bias": 1},
    "separable": {"kernel": 4, "pointwise": 2, "bias": 1},
    "pointwise": {"kernel": 2, "bias": 1},
    "max_pool": {},
    "doubled_sum": {},
    "places": {"kernel": 2, "bias": 1},
}
_CODES = {kind: code for code, kind in enumerate(_WEIGHTS)}


@dataclass(frozen=True)
class DetectorLayer:
    """One layer, which reads others by their place in the list; ``weights`` by ``kind``, float32.

    * ``patches``: kernel ``[48, outputs]`` and bias, of patches of 4x4 pixels of the image.
    * ``separable``: depthwise kernel ``[3, 3, 1, inputs]``, SAME, pointwise ``[inputs, outputs]`` and bias.
    * ``pointwise``: kernel ``[inputs, outputs]`` and bias.
    * ``max_pool``: none; 3x3, stride 2, SAME.
    * ``doubled_sum``: none; ``add`` is a map half as fine, each of whose pixels counts for 2x2.
    * ``places``: kernel ``[inputs, 15]`` and bias: a part of the network's output.

    Attributes:
        kind: see above.
        channels: of the output.
        source: the layer that it reads, an earlier one; -1 is the image.
        add: the layer whose output is added to its own; -1 is none. Only a separable one may do without or have one.
        weights: see above.
        relu: whether it ends in a ReLU, as patches, separable and pointwise layers may.
    """

    kind: DetectorKind
    channels: int
    source: int = -1
    add: int = -1
    weights: tuple[Float32[np.ndarray, "..."], ...] = ()
    relu: bool = False


@dataclass(frozen=True)
class Region:
    """A part of an image that is searched for faces; it is resized to the network's input.

    Attributes:
        left, top, width, height: pixels of the image. It may reach beyond the image, where it is mid-grey.
        rows, columns: of the network's input, multiples of 32.

    Example:
        >>> Region(0, -12, 640, 384, rows=384, columns=640)  # all of an image of 640x360 pixels, in its middle
        Region(left=0, top=-12, width=640, height=384, rows=384, columns=640)
    """

    left: float
    top: float
    width: float
    height: float
    rows: int
    columns: int


class _Layer(ctypes.Structure):  # FaceflaxDetectorLayer in detector.h
    _fields_ = (
        ("kind", ctypes.c_int32),
        ("relu", ctypes.c_int32),
        ("source", ctypes.c_int64),
        ("add", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("kernel", ctypes.c_void_p),
        ("pointwise", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("kernel_count", ctypes.c_int64),
        ("pointwise_count", ctypes.c_int64),
        ("bias_count", ctypes.c_int64),
    )


class _Region(ctypes.Structure):  # FaceflaxRegion in detector.h
    _fields_ = (
        ("left", ctypes.c_double),
        ("top", ctypes.c_double),
        ("width", ctypes.c_double),
        ("height", ctypes.c_double),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
    )


class DetectorNetwork:
    """A detector's network in the C++ kernels. Any number of threads may use it at once.

    Args:
        layers: each after those that it reads.

    Raises:
        FaceflaxError: layers that cannot be computed, which the message names; or no kernels
            (:func:`faceflax.native.available`).

    Example:
        >>> from faceflax import native
        >>> patches = DetectorLayer("patches", 8, weights=(np.zeros((48, 8), np.float32), np.zeros(8, np.float32)))
        >>> says = (np.zeros((8, 15), np.float32), np.arange(15, dtype=np.float32))
        >>> if native.available():
        ...     network = DetectorNetwork([patches, DetectorLayer("places", 15, 0, weights=says)])
        ...     assert network.outputs(np.zeros((1, 32, 64, 3), np.float32)).shape == (1, 128, 15)
    """

    def __init__(self, layers: Sequence[DetectorLayer]) -> None:
        try:
            self._library = library.load("float32")
        except library.Unavailable as error:
            raise FaceflaxError("kernels", None, str(error), "use faceflax.inference.load_detector instead") from None
        self._library.faceflax_detector_places.restype = ctypes.c_int64
        described = [_describe(index, layers) for index in range(len(layers))]
        array = (_Layer * len(described))(*(layer for layer, _ in described))
        handle = ctypes.c_void_p()
        self._check(self._library.faceflax_detector_create(array, ctypes.c_int64(len(array)), ctypes.byref(handle)))
        self._handle = handle
        weakref.finalize(self, self._library.faceflax_detector_destroy, handle).atexit = False

    def outputs(self, images: Float32[np.ndarray, "batch rows columns 3"]) -> Float32[np.ndarray, "batch places 15"]:
        """Computes what the network says of each place, as :class:`faceflax.models.face_detector.FaceDetector` does.

        Args:
            images: float32 ``[batch, rows, columns, 3]`` in [-1, 1]; both sides a multiple of 32.

        Raises:
            FaceflaxError: images of another shape or type.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.dtype != np.float32 or images.shape[3] != CHANNELS:
            raise FaceflaxError(
                "images", images.shape, f"{images.dtype} of shape {{}} is not float32 [batch, rows, columns, 3]"
            )
        images = np.ascontiguousarray(images)
        count, rows, columns = (ctypes.c_int64(size) for size in images.shape[:3])
        places = max(0, self._library.faceflax_detector_places(self._handle, rows, columns))
        outputs = np.empty((len(images), places, NUMBERS), np.float32)
        self._check(
            self._library.faceflax_detector_outputs(
                self._handle, _pointer(images), count, rows, columns, _pointer(outputs)
            )
        )
        return outputs

    def detect(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        regions: Sequence[Region],
        *,
        min_score: float,
        max_overlap: float = 0.4,
        max_faces: int = 1024,
    ) -> Float32[np.ndarray, "faces 16"]:
        """Finds faces.

        A region is resized by the mean of the pixels that each of the input's covers where it shrinks, and bilinearly
        where it grows, into floats that are not rounded.

        Args:
            image: uint8 ``[height, width, 3]``, blue, green and red; its rows may lie apart.
            regions: the parts of it to search in, all of them alike; give both directions the same scale.
            min_score: faces of a lower score are left out; from 0 to 1.
            max_overlap: of two faces whose intersection is more than this share of their union, only that with the
                higher score is kept, whatever regions they are from.
            max_faces: how many are returned at most, the best ones.

        Returns:
            For each face ``x, y, width, height`` of its box in pixels of the image, the score, ``x, y`` of five
            landmarks, and the number of its region; the highest score first.

        Raises:
            FaceflaxError: an image or a region that cannot be searched, or a limit out of its range.
        """
        image = check_search(image, regions, min_score, max_overlap, max_faces)
        height, width, channels = image.shape
        if image.strides[1:] != (channels, 1) or image.strides[0] < width * channels:
            image = np.ascontiguousarray(image)
        array = (_Region * len(regions))(
            *(_Region(r.left, r.top, r.width, r.height, int(r.rows), int(r.columns)) for r in regions)
        )
        faces, found = np.empty((max_faces, 16), np.float32), ctypes.c_int64()
        self._check(
            self._library.faceflax_detect(
                self._handle,
                _pointer(image),
                ctypes.c_int64(height),
                ctypes.c_int64(width),
                ctypes.c_int64(max(image.strides[0], width * channels)),
                array,
                ctypes.c_int64(len(array)),
                ctypes.c_double(min_score),
                ctypes.c_double(max_overlap),
                ctypes.c_int64(max_faces),
                _pointer(faces),
                ctypes.byref(found),
            )
        )
        return faces[: found.value].copy()

    def _check(self, status: int) -> None:
        if status != 0:
            raise library.problem_of(self._library)


def check_search(
    image: UInt8[np.ndarray, "height width 3"],
    regions: Sequence[Region],
    min_score: float,
    max_overlap: float,
    max_faces: int,
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the image, if all that :meth:`DetectorNetwork.detect` is given can be used.

    Raises:
        FaceflaxError: it cannot.
    """
    image = np.asarray(image)
    is_image = image.ndim == 3 and image.dtype == np.uint8 and image.shape[2] == CHANNELS
    if not is_image or not all(0 < side <= MOST_PIXELS for side in image.shape[:2]):
        raise FaceflaxError(
            "image",
            image.shape,
            f"{image.dtype} of shape {{}} is not uint8 [height, width, 3] of 1 to {MOST_PIXELS} pixels a side",
            "convert it",
        )
    for index, region in enumerate(regions):
        where = f"regions[{index}]"
        place = (region.left, region.top, region.width, region.height)
        if not all(abs(number) <= FAR for number in place) or not (region.width > 0 and region.height > 0):
            raise FaceflaxError(
                where,
                place,
                "left, top, width, height of {} are no part of an image",
                f"give finite numbers up to {FAR}, a width and a height above 0",
            )
        sides = (region.rows, region.columns)
        if not all(MULTIPLE <= side <= MOST_SIDE and side % MULTIPLE == 0 for side in sides) or (
            region.rows * region.columns > MOST_INPUT
        ):
            raise FaceflaxError(
                where,
                sides,
                "rows, columns of {} are no size of the network's input",
                f"give multiples of {MULTIPLE} up to {MOST_SIDE}, at most {MOST_INPUT} pixels together",
            )
    for name, share in (("min_score", min_score), ("max_overlap", max_overlap)):
        if not 0 <= share <= 1:
            raise FaceflaxError(name, share, "is not between 0 and 1", "give a number from 0 to 1")
    if not 0 <= max_faces <= MOST_FACES:
        raise FaceflaxError("max_faces", max_faces, "is no number of faces", f"give 0 to {MOST_FACES}")
    return image


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _describe(index: int, layers: Sequence[DetectorLayer]) -> tuple[_Layer, list[np.ndarray]]:
    """A layer for C++, and the arrays it points to, which must live as long."""
    layer = layers[index]
    where = f"layers[{index}]"
    if layer.kind not in _CODES:
        raise unknown(f"{where}.kind", layer.kind, _CODES)
    where += f" ({layer.kind})"
    axes = _WEIGHTS[layer.kind]
    if len(layer.weights) != len(axes):
        wanted = ", ".join(axes) or "none"
        raise FaceflaxError(f"{where}.weights", len(layer.weights), "{} arrays", f"give {len(axes)}: {wanted}")
    padded = layer.kind == "places"  # to a number of channels that fills a vector
    if padded and layer.channels != NUMBERS:
        raise FaceflaxError(f"{where}.channels", layer.channels, "{} numbers of a place", f"give {NUMBERS}")
    arrays = []
    description = _Layer(_CODES[layer.kind], int(layer.relu), layer.source, layer.add)
    for (name, ndim), weights in zip(axes.items(), layer.weights, strict=True):
        if weights.dtype != np.float32 or weights.ndim != ndim:
            problem = f"{weights.dtype} of shape {{}} is not float32 of {ndim} axes"
            raise FaceflaxError(f"{where}.{name}", weights.shape, problem, "convert it")
        if padded:
            weights = np.pad(weights, [(0, 0)] * (ndim - 1) + [(0, 1)])
        arrays.append(np.ascontiguousarray(weights))
        setattr(description, name, arrays[-1].ctypes.data)
        setattr(description, f"{name}_count", arrays[-1].size)
    description.outputs = layer.channels + padded
    description.inputs = 16 * CHANNELS if layer.kind == "patches" else 0
    if layer.kind != "patches" and 0 <= layer.source < index:
        description.inputs = layers[layer.source].channels
    return description, arrays
