"""Where the faces of an image are: a detector's network with all around it, in the C++ kernels or in JAX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from faceflax import native, pretrained
from faceflax.errors import FaceflaxError
from faceflax.inference.detector_folding import DetectorProgram, fold_detector
from faceflax.native import Region

if TYPE_CHECKING:  # slow to import, and only annotations need it
    import numpy as np
    from jaxtyping import Float32, UInt8

    from faceflax.inference.detector_in_jax import InJax


class Detector:
    """Finds faces in parts of an image; made by :func:`load_detector`.

    With the C++ kernels (:mod:`faceflax.native`) any number of threads may call it at once, and neither JAX nor Flax is
    imported. Without them the network runs in JAX, compiled for each size of its input at the first call, or loaded
    where an earlier process has compiled it.

    Args:
        program: the network, from :func:`faceflax.inference.detector_folding.fold_detector`.

    Example:
        >>> import jax, numpy as np
        >>> from flax.traverse_util import flatten_dict
        >>> from faceflax import models
        >>> from faceflax.models.face_detector import FaceDetector
        >>> untrained = models.init(FaceDetector(), jax.random.key(0), image_size=32)
        >>> detector = Detector(fold_detector(flatten_dict(untrained, sep="/")))
        >>> everywhere = Region(0, -4, 64, 64, rows=64, columns=64)
        >>> detector.detect(np.zeros((56, 64, 3), np.uint8), [everywhere], min_score=0.5).shape
        (0, 16)
    """

    def __init__(self, program: DetectorProgram) -> None:
        self._search: native.DetectorNetwork | InJax
        if native.available():
            self._search = native.DetectorNetwork(program)
        else:
            from faceflax.inference.detector_in_jax import InJax

            self._search = InJax(program)

    def outputs(self, images: Float32[np.ndarray, "batch rows columns 3"]) -> Float32[np.ndarray, "batch places 15"]:
        """Computes what the network says of each place; see :meth:`faceflax.native.DetectorNetwork.outputs`."""
        return self._search.outputs(images)

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
        return self._search.detect(image, regions, min_score=min_score, max_overlap=max_overlap, max_faces=max_faces)


def load_detector(weights: str | Path = "face_detector-faces") -> Detector:
    """Reads and verifies a face detector's weights, and makes a detector of them.

    Args:
        weights: one of ``faceflax.list_weights()``, or the path of a ``.safetensors`` file with its record; of the
            network ``face_detector``.

    Raises:
        FaceflaxError: as :func:`faceflax.load` does, or weights of another network.
    """
    info, tensors = pretrained.read(weights)
    if info.arch != "face_detector":
        raise FaceflaxError(
            "weights", Path(weights), f"{{}} are of {info.arch}, which finds no faces", "give those of a face_detector"
        )
    try:
        return Detector(fold_detector(tensors))
    except FaceflaxError as error:
        raise FaceflaxError("weights", Path(weights), f"in {{}}, {error.reason}") from None
