"""What :mod:`~faceflax.inference.classifiers` computes, in JAX: on a GPU, or where there are no C++ kernels."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from faceflax.inference import program
from faceflax.inference.compiled import BatchFunction
from faceflax.inference.folding import Program
from faceflax.preprocessing import normalize


def probabilities(
    programs: Sequence[Program],
    temperatures: Sequence[float],
    image_sizes: Sequence[int],
    batch_sizes: tuple[int, ...],
) -> BatchFunction:
    """Compiles several networks as one function of uint8 crops ``[faces, size, size]``, or loads it from the disk.

    Args:
        programs: the networks.
        temperatures: of each network.
        image_sizes: of each network, in pixels.
        batch_sizes: the numbers of faces that are compiled for.
    """

    def compute(*crops: jax.Array) -> list[jax.Array]:
        return [
            jax.nn.softmax(program.evaluate(folded, normalize(faces[..., None])) / temperature)
            for folded, faces, temperature in zip(programs, crops, temperatures, strict=True)
        ]

    networks = [(program.digest(folded), t) for folded, t in zip(programs, temperatures, strict=True)]
    function = BatchFunction(compute, batch_sizes, f"probabilities {networks}")
    function.warm_up(*(jax.ShapeDtypeStruct((size, size), jnp.uint8) for size in image_sizes))
    return function
