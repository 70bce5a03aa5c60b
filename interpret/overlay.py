"""Logits and guided-backprop maps of faces together, fast enough for the live loop.

::

    explain = interpret.explainer(model, variables)   # model and variables as from faceflax.load
    explain.warm_up(64)                               # optional: compiles all batch sizes for 64-pixel faces now
    logits, maps = explain(faces)                     # faces: float32 [n, 64, 64, 1] in [-1, 1], any n

``logits`` are float32 ``[n, classes]``, those of ``faceflax.compile``; ``maps`` are float32 of the shape of ``faces``,
signed: guided backpropagation of each face's predicted class. ``explain(faces, target=3)`` or an integer array ``[n]``
explains other classes. Everything is NumPy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int

from faceflax.errors import FaceflaxError, renaming
from faceflax.inference import program
from faceflax.inference.compiled import BatchFunction
from interpret.attribution import answer_shapes, check_images
from interpret.graph import Model, with_relu
from interpret.rules import guided_relu

BATCH_SIZES = (1, 4, 16)
"""Batch sizes that are compiled: a frame holds few faces."""

_PREDICTED = -1  # as a target

Faces = Float32[np.ndarray, "batch height width channels"]


class Explainer:
    """A network with its weights, as a function from faces to logits and maps; made by :func:`explainer`."""

    def __init__(self, model: Model, variables: Any) -> None:
        self._model, self._variables = model, variables
        self._classes: dict[tuple[int, ...], int] = {}

        def explain(faces: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
            def score(x: jax.Array) -> tuple[jax.Array, jax.Array]:
                logits, _ = with_relu(model, variables, x, guided_relu)
                chosen = jnp.where(target == _PREDICTED, logits.argmax(-1), target)
                return logits[jnp.arange(logits.shape[0]), chosen].sum(), logits

            maps, logits = jax.grad(score, has_aux=True)(faces)
            return logits, maps

        folded = program.fold(model, variables)  # type: ignore[arg-type]
        key = None if folded is None else f"explain {program.digest(folded)} {_own_code()}"
        self._explain = BatchFunction(explain, BATCH_SIZES, key)
        network = None if folded is None else program.network(folded)
        self._network = network if network is not None and network.explains else None

    def warm_up(self, image_size: int, channels: int = 1) -> None:
        """Compiles all batch sizes for images of ``image_size`` pixels a side, so that no later call has to.

        Where the C++ kernels compute the maps there is nothing to compile.
        """
        if self._network is None:
            self._explain.warm_up(
                jax.ShapeDtypeStruct((image_size, image_size, channels), jnp.float32),
                jax.ShapeDtypeStruct((), jnp.int32),
            )

    def __call__(
        self, faces: Faces, target: int | Int[np.ndarray, " batch"] | None = None
    ) -> tuple[Float32[np.ndarray, "batch classes"], Faces]:
        """Computes logits and maps.

        Args:
            faces: float32 ``[batch, height, width, channels]``, scaled as the network takes them; none is fine.
            target: the class that is explained, one for all faces or one for each; the predicted one if not given.

        Returns:
            Logits ``[batch, classes]``, and signed maps of the shape of ``faces``.

        Raises:
            FaceflaxError: faces of another rank, type or channel count, or not finite; a target out of range.
        """
        faces = np.asarray(faces)
        if faces.dtype != np.float32:
            raise FaceflaxError("faces", faces.dtype, "is not float32", "scale uint8 with preprocessing.normalize")
        shape = faces.shape[1:]
        with renaming(images="faces"):
            if len(faces):
                check_images(faces)
            if shape not in self._classes:
                logits, _ = answer_shapes(self._model, self._variables, np.zeros((1, *shape), np.float32))
                self._classes[shape] = logits.shape[1]
        chosen = np.asarray(_PREDICTED if target is None else target)
        classes = self._classes[shape]
        if target is not None and (chosen.dtype.kind not in "iu" or not ((chosen >= 0) & (chosen < classes)).all()):
            raise FaceflaxError(
                "target", None, f"{target!r} is no class or array of classes", f"give 0 to {classes - 1}"
            )
        if chosen.shape not in ((), (len(faces),)):
            raise FaceflaxError("target", None, f"{target!r} is neither one class nor {len(faces)}, one for each face")
        targets = np.full(len(faces), chosen, np.int32)
        return self._explain(faces, targets) if self._network is None else self._network.guided(faces, targets)


def explainer(model: Model, variables: Any) -> Explainer:
    """Turns a network and its variables into a fast function from faces to logits and guided-backprop maps.

    One forward and one backward pass. On a CPU the C++ kernels (:mod:`faceflax.native`) run both for this project's
    networks, image by image, shared among the cores. Elsewhere they are compiled for batches of 1, 4 and 16, and the
    programs are kept on disk.

    Args:
        model: as in :func:`interpret.guided_backprop`.
        variables: its variables.

    Returns:
        ``explain(faces, target=None) -> logits, maps``; call ``explain.warm_up(image_size)`` where the first call must
        not compile.

    Example:
        >>> import faceflax
        >>> explain = explainer(*faceflax.load("mini_xception-fer2013"))
        >>> logits, maps = explain(np.zeros((1, 64, 64, 1), np.float32))
        >>> logits.shape, maps.shape
        ((1, 7), (1, 64, 64, 1))
    """
    return Explainer(model, variables)


def _own_code() -> str:
    """A hash of this package's code, which the kept programs depend on."""
    total = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        total.update(file.read_bytes())
    return total.hexdigest()
