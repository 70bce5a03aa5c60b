"""Several networks, each with its own images of the same faces, as one function from uint8 crops to probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from faceflax import native
from faceflax.errors import FaceflaxError
from faceflax.inference.folding import Program
from faceflax.preprocessing import normalize

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float32, UInt8

_BATCH_SIZES = (1, 4, 16)  # a frame holds few faces, and each size adds to the start


class Classifiers:
    """Calibrated probabilities of several networks for the same faces, in one call.

    With the C++ kernels (:mod:`faceflax.native`) nothing is compiled, any number of threads may call it at once, and
    neither JAX nor Flax is imported. Without them the networks run in JAX, compiled here for a few batch sizes or
    loaded where an earlier process has compiled them.

    Args:
        programs: the networks, from :func:`faceflax.inference.folding.load`.
        temperatures: of each network, by which its logits are divided before the softmax.
        image_sizes: of each network, the side of its images in pixels.

    Raises:
        FaceflaxError: a network's outputs are not numbers, here for a grey face or in a later call.

    Example:
        >>> from faceflax.inference import folding
        >>> info, program = folding.load("mini_xception-fairface")
        >>> classify = Classifiers([program], [info.temperature], [info.image_size])
        >>> [probabilities.shape for probabilities in classify(np.zeros((3, 64, 64), np.uint8))]
        [(3, 2)]
    """

    def __init__(self, programs: Sequence[Program], temperatures: Sequence[float], image_sizes: Sequence[int]) -> None:
        self._temperatures = [np.float32(temperature) for temperature in temperatures]
        self._networks = [native.Network(program) for program in programs] if native.available() else None
        if self._networks is None:
            from faceflax.inference import in_jax

            self._in_jax = in_jax.probabilities(programs, temperatures, image_sizes, _BATCH_SIZES)
        self(*(np.full((1, size, size), 100, np.uint8) for size in image_sizes))  # before any file is touched

    def __call__(self, *crops: UInt8[np.ndarray, "faces size size"]) -> list[Float32[np.ndarray, "faces classes"]]:
        """Returns the probabilities of each network, in its labels' order.

        Args:
            crops: for each network, uint8 ``[faces, size, size]`` of the same faces; none is fine.
        """
        if self._networks is None:
            return [_checked(probabilities) for probabilities in self._in_jax(*crops)]
        images = [normalize(faces[..., None]) for faces in crops]
        logits = native.run(list(zip(self._networks, images, strict=True)))
        return [_softmax(_checked(x) / temperature) for x, temperature in zip(logits, self._temperatures, strict=True)]


def _checked(outputs: Float32[np.ndarray, "faces classes"]) -> Float32[np.ndarray, "faces classes"]:
    """Refuses what weights of absurd size give."""
    if not np.isfinite(outputs).all():
        raise FaceflaxError(
            "weights", None, "the network's outputs are not numbers", "train or convert the weights again"
        )
    return outputs


def _softmax(logits: Float32[np.ndarray, "faces classes"]) -> Float32[np.ndarray, "faces classes"]:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
