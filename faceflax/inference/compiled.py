"""A network as a NumPy function that compiles before it is needed and never by surprise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from faceflax import native
from faceflax.errors import FaceflaxError
from faceflax.inference import program, store
from faceflax.models import MIN_IMAGE_SIZE

BATCH_SIZES: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes that are compiled. A batch is padded to the next one; a larger one goes in chunks of the last."""


class BatchFunction:
    """A jittable function of batches, compiled ahead of time for a few batch sizes alone.

    Args:
        function: maps arrays ``[batch, ...]`` to a pytree of arrays ``[batch, ...]``, each row by itself. What it
            closes over, such as weights, becomes constants of the compiled program.
        sizes: the batch sizes to compile, in rising order.
        key: names the function and all it closes over; its programs are then kept on disk, and a later process loads
            them instead of compiling. Without a key nothing is kept.

    Example:
        >>> double = BatchFunction(lambda x: 2 * x)
        >>> double(np.arange(3.0, dtype=np.float32))
        array([0., 2., 4.], dtype=float32)
    """

    def __init__(
        self, function: Callable[..., Any], sizes: tuple[int, ...] = BATCH_SIZES, key: str | None = None
    ) -> None:
        self._jitted = jax.jit(function, keep_unused=True)  # a program on disk takes all arguments
        self._sizes = sizes
        self._key = key
        self._programs: dict[tuple[jax.ShapeDtypeStruct, ...], store.Program] = {}

    def warm_up(self, *rows: jax.ShapeDtypeStruct) -> None:
        """Compiles every batch size for arguments whose rows have these shapes and types."""
        for size in self._sizes:
            self._program(*(jax.ShapeDtypeStruct((size, *row.shape), row.dtype) for row in rows))

    def __call__(self, *batches: np.ndarray) -> Any:
        """Returns the function's value for all rows, as NumPy arrays; a shape not warmed up compiles first."""
        count, largest = len(batches[0]), self._sizes[-1]
        if count <= largest:  # an empty batch is one chunk of padding
            return self._chunk(batches, count)
        chunks = [
            self._chunk([batch[start : start + largest] for batch in batches], min(largest, count - start))
            for start in range(0, count, largest)
        ]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *chunks)

    def _chunk(self, batches: Any, count: int) -> Any:
        padding = next(size for size in self._sizes if size >= count) - count
        if padding:
            batches = [np.concatenate([rows, np.zeros((padding, *rows.shape[1:]), rows.dtype)]) for rows in batches]
        program = self._program(*(jax.ShapeDtypeStruct(rows.shape, rows.dtype) for rows in batches))
        return jax.tree.map(lambda x: np.asarray(x)[:count], program(*batches))

    def _program(self, *arguments: jax.ShapeDtypeStruct) -> store.Program:
        if arguments not in self._programs:
            key = self._key and f"{self._key} {arguments}"
            program = store.load(key) if key else None
            if program is None:
                program = compiled = self._jitted.lower(*arguments).compile()
                if key:
                    store.save(key, compiled)
            self._programs[arguments] = program
        return self._programs[arguments]


class CompiledModel:
    """A network with its weights, as a function from images to logits; made by :func:`compile`."""

    def __init__(self, model: nn.Module, variables: dict[str, Any]) -> None:
        folded = program.fold(model, variables)
        self._channels: int | None = None
        self._network = None if folded is None else program.network(folded)
        if folded is None:  # another network, or another nonlinearity: as it stands
            self._logits = BatchFunction(lambda images: model.apply(variables, images, train=False)[0])
        else:
            self._channels = folded[0].weights[0].shape[2]
            key = f"logits {program.digest(folded)}"
            self._logits = BatchFunction(lambda images: program.evaluate(folded, images), key=key)

    def warm_up(self, image_size: int, channels: int = 1) -> None:
        """Compiles all batch sizes for images of ``image_size`` pixels a side, so that no later call has to.

        Where the C++ kernels compute the network there is nothing to compile.
        """
        if self._network is None:
            self._logits.warm_up(jax.ShapeDtypeStruct((image_size, image_size, channels), jnp.float32))

    def __call__(
        self, images: Float32[np.ndarray, "batch height width channels"]
    ) -> Float32[np.ndarray, "batch classes"]:
        """Computes logits.

        Args:
            images: float32 ``[batch, height, width, channels]`` in [-1, 1]; any batch size, 0 included.

        Returns:
            Logits ``[batch, classes]``.

        Raises:
            FaceflaxError: ``images`` of another rank, type, channel count or size, or not finite; or ``variables``
                whose logits are not.
        """
        images = np.asarray(images)
        if images.ndim != 4:
            raise FaceflaxError(
                "images", images.shape, "shape {} is not [batch, height, width, channels]", "give 4 axes"
            )
        if images.dtype != np.float32:
            raise FaceflaxError(
                "images",
                images.dtype,
                "type {} is not float32",
                "turn uint8 pixels into it with faceflax.preprocessing.normalize",
            )
        if min(images.shape[1:3]) < MIN_IMAGE_SIZE:
            raise FaceflaxError(
                "images", images.shape, f"shape {{}} is under {MIN_IMAGE_SIZE} pixels a side", "enlarge them"
            )
        if self._channels is not None and images.shape[3] != self._channels:
            raise _channels_error(images)
        if not np.isfinite(images).all():
            bad = tuple(int(i) for i in np.argwhere(~np.isfinite(images))[0])
            raise FaceflaxError("images", images[bad], f"the value at {bad} is {{}}", "give finite numbers in [-1, 1]")
        try:
            logits = self._logits(images) if self._network is None else native.run([(self._network, images)])[0]
        except flax.errors.ScopeParamShapeError:
            raise _channels_error(images) from None
        if not np.isfinite(logits).all():
            raise FaceflaxError("variables", None, "the network's outputs are not numbers", "train it again")
        return logits


def _channels_error(images: np.ndarray) -> FaceflaxError:
    return FaceflaxError(
        "images",
        images.shape,
        f"shape {{}} has {images.shape[3]} channels, for which the variables were not made",
        "grey images have 1",
    )


def compile(model: nn.Module, variables: dict[str, Any]) -> CompiledModel:
    """Turns a network and its variables into a fast NumPy function.

    BatchNorm is folded into the weights; on a CPU the C++ kernels (:mod:`faceflax.native`) compute a whole network in
    one call, its images shared among the cores, and nothing is compiled. Elsewhere compiled programs are kept on disk
    (:func:`faceflax.files.cache_folder`), and a later process compiles nothing. A network of your own, or
    one with another nonlinearity, runs as it stands.

    Args:
        model: a network of :mod:`faceflax.models`.
        variables: its ``params`` and ``batch_stats``.

    Returns:
        ``predict(images) -> logits``; call ``predict.warm_up(image_size)`` where the first call must not compile.

    Example:
        >>> import jax
        >>> from faceflax import models
        >>> model = models.create("mini_xception", 7)
        >>> predict = compile(model, models.init(model, jax.random.key(0)))
        >>> predict(np.zeros((3, 64, 64, 1), np.float32)).shape
        (3, 7)
    """
    return CompiledModel(model, variables)
