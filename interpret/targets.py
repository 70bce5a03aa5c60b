"""What an attribution explains: the number, one for each image, whose dependence on the pixels is asked for."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from faceflax.errors import FaceflaxError, unknown

Index = int | Int[Array | np.ndarray, ""] | Int[Array | np.ndarray, " batch"]
"""One index for all images, or an integer array with one for each."""

Logits = Float[Array, "batch classes"]
Features = Mapping[str, Array]
Scores = Float[Array, " batch"]


class Score(Protocol):
    """What every target becomes: a pytree that reads a number for each image from what a model returns.

    Attributes:
        layer: the layer that it reads, or None for the logits.
    """

    @property
    def layer(self) -> str | None: ...  # noqa: D102

    def of(self, logits: Logits, features: Features) -> Scores:
        """Returns the number that is explained, for each image."""

    def fixed(self, logits: Logits, features: Features) -> Score:
        """Returns the same target, with what it chooses by the model's answer chosen for good by this one."""

    def checked(self, logits: Any, features: Mapping[str, Any]) -> Score:
        """Returns the target with arrays for indices, or raises; the arguments need have no more than shapes."""


class _Fixed:
    """A target that chooses nothing by the model's answer."""

    def fixed(self, logits: Logits, features: Features) -> Any:
        return self


@partial(jax.tree_util.register_dataclass, data_fields=["row", "column", "channel"], meta_fields=["layer"])
@dataclasses.dataclass(frozen=True)
class Neuron(_Fixed):
    """One neuron of a convolutional layer, as an attribution's target.

    A pytree, so that ``jax.vmap`` maps over its coordinates.

    Attributes:
        layer: a name in the model's ``features``; its activations are ``[batch, height, width, channels]``.
        row: from the top.
        column: from the left.
        channel: of the last axis.

    Example:
        >>> Neuron("last_conv", row=1, column=2, channel=3)
        Neuron(layer='last_conv', row=1, column=2, channel=3)
    """

    layer: str
    row: Index
    column: Index
    channel: Index

    def of(self, logits: Logits, features: Features) -> Scores:
        """Returns the neuron's activation."""
        return features[self.layer][jnp.arange(logits.shape[0]), self.row, self.column, self.channel]

    def checked(self, logits: Any, features: Mapping[str, Any]) -> Score:
        """Returns the neuron with arrays for coordinates, or raises."""
        shape = checked_layer(self.layer, features).shape
        if len(shape) != 4:
            raise FaceflaxError(
                "target", self.layer, f"{{}} has shape {shape}", "a Neuron needs [batch, height, width, channels]"
            )
        indices = {
            axis: _checked_index(f"target.{axis}", getattr(self, axis), size, shape[0])
            for axis, size in zip(("row", "column", "channel"), shape[1:], strict=True)
        }
        return Neuron(self.layer, **indices)


@partial(jax.tree_util.register_dataclass, data_fields=["channel"], meta_fields=["layer"])
@dataclasses.dataclass(frozen=True)
class Channel(_Fixed):
    """One channel of a layer: the mean of its activations over the pixels.

    Attributes:
        layer: a name in the model's ``features``; its activations are ``[batch, ..., channels]``.
        channel: of the last axis.
    """

    layer: str
    channel: Index

    def of(self, logits: Logits, features: Features) -> Scores:
        """Returns the channel's mean activation."""
        activations = features[self.layer]
        means = activations.reshape(activations.shape[0], -1, activations.shape[-1]).mean(1)
        return means[jnp.arange(logits.shape[0]), self.channel]

    def checked(self, logits: Any, features: Mapping[str, Any]) -> Score:
        """Returns the target with an array for its index, or raises."""
        shape = checked_layer(self.layer, features).shape
        return Channel(self.layer, _checked_index("target.channel", self.channel, shape[-1], shape[0]))


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["layer"])
@dataclasses.dataclass(frozen=True)
class Layer(_Fixed):
    """A whole layer: the mean of all its activations.

    Attributes:
        layer: a name in the model's ``features``.
    """

    layer: str

    def of(self, logits: Logits, features: Features) -> Scores:
        """Returns the layer's mean activation."""
        return features[self.layer].reshape(logits.shape[0], -1).mean(1)

    def checked(self, logits: Any, features: Mapping[str, Any]) -> Score:
        """Returns the target itself, or raises."""
        checked_layer(self.layer, features)
        return self


@partial(jax.tree_util.register_dataclass, data_fields=["first", "second"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Difference(_Fixed):
    """How much one class's logit is above another's: why this one rather than that one.

    Attributes:
        first: a class.
        second: the class that it is compared with.
    """

    first: Index
    second: Index

    @property
    def layer(self) -> None:
        """None: it reads the logits."""

    def of(self, logits: Logits, features: Features) -> Scores:
        """Returns the first logit less the second."""
        each = jnp.arange(logits.shape[0])
        return logits[each, self.first] - logits[each, self.second]

    def checked(self, logits: Any, features: Mapping[str, Any]) -> Score:
        """Returns the target with arrays for indices, or raises."""
        batch, classes = logits.shape
        return Difference(
            _checked_index("target.first", self.first, classes, batch),
            _checked_index("target.second", self.second, classes, batch),
        )


@partial(jax.tree_util.register_dataclass, data_fields=["index"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class _Logit(_Fixed):
    """What an integer as a target means."""

    index: Index

    @property
    def layer(self) -> None: ...

    def of(self, logits: Logits, features: Features) -> Scores:
        return logits[jnp.arange(logits.shape[0]), self.index]

    def checked(self, logits: Any, features: Mapping[str, Any]) -> Score:
        batch, classes = logits.shape
        return _Logit(_checked_index("target", self.index, classes, batch))


@partial(jax.tree_util.register_dataclass, data_fields=["index"], meta_fields=["layer"])
@dataclasses.dataclass(frozen=True)
class _Highest:
    """What None as a target means: a layer's highest activation, chosen image by image, or the one chosen before."""

    layer: str
    index: Index | None = None

    def of(self, logits: Logits, features: Features) -> Scores:
        activations = features[self.layer].reshape(logits.shape[0], -1)
        index = activations.argmax(1) if self.index is None else self.index
        return activations[jnp.arange(logits.shape[0]), index]  # not max(): it shares the gradient among equals

    def fixed(self, logits: Logits, features: Features) -> Score:
        if self.index is not None:
            return self
        return _Highest(self.layer, features[self.layer].reshape(logits.shape[0], -1).argmax(1))

    def checked(self, logits: Any, features: Mapping[str, Any]) -> Score:
        checked_layer(self.layer, features)
        return self


Target = Index | Score | None
"""A class (its logit); a :class:`Neuron`, :class:`Channel`, :class:`Layer` or :class:`Difference`; or None, a layer's
highest activation."""


def as_score(target: Target, layer: str, logits: Any, features: Mapping[str, Any]) -> Score:
    """Turns what a user gives as a target into a :class:`Score`.

    Args:
        target: what is explained.
        layer: whose highest activation is explained where ``target`` is None.
        logits: the model's, or their shape.
        features: the model's, or their shapes.

    Raises:
        FaceflaxError: the target is none, or does not fit the model.
    """
    if target is None:
        target = _Highest(layer)
    elif not isinstance(target, Neuron | Channel | Layer | Difference | _Logit | _Highest):
        target = _Logit(target)  # type: ignore[arg-type]
    return target.checked(logits, features)


@dataclasses.dataclass(frozen=True)
class Unbatched:
    """Stands for the shape of a feature whose first axis is not the batch.

    Attributes:
        shape: the feature's.
    """

    shape: tuple[int, ...]


def checked_layer(name: str, features: Mapping[str, Any]) -> Any:
    """Returns the layer of that name, or raises the error that lists all names, or says that it is none."""
    if not features:
        remedy = "return them beside the logits, (logits, {name: array}), or compute them in a jax.named_scope"
        raise FaceflaxError("layer", name, "there is no {}: the network names no layers", remedy)
    if name not in features:
        raise unknown("layer", name, features)
    if isinstance(features[name], Unbatched):
        raise FaceflaxError(
            "layer",
            name,
            f"{{}} has shape {features[name].shape}, whose first axis is not the batch",
            "return activations [batch, ...]; those of a loop's rounds each by a name of its own",
        )
    return features[name]


def batch_axes(
    features_of: Callable[[Any], Mapping[str, Any]], images: Any, features: Mapping[str, Any]
) -> dict[str, int | None]:
    """Finds the axis of each feature that is the batch, which is the first but where loops stack their rounds.

    Where lengths leave it open, the shapes for one more image show which axis grows; if a model takes no other batch
    than this one, the first axis is the batch if it is as long.

    Args:
        features_of: from the shape of images to those of features.
        images: or their shape.
        features: of these images, or their shapes.

    Returns:
        For each name the axis, or None if there is none.

    Example:
        >>> def features_of(images):
        ...     return {"layer": images, "rounds": jax.ShapeDtypeStruct((2, *images.shape), images.dtype)}
        >>> images = jax.ShapeDtypeStruct((2, 8, 8, 1), float)
        >>> batch_axes(features_of, images, features_of(images))
        {'layer': 0, 'rounds': 1}
    """
    batch = images.shape[0]
    larger: Mapping[str, Any] = {}
    if any(feature.shape[:1] != (batch,) or batch in feature.shape[1:] for feature in features.values()):
        with contextlib.suppress(Exception):  # whatever a model that is made for one batch says of another
            larger = features_of(jax.ShapeDtypeStruct((batch + 1, *images.shape[1:]), images.dtype))
    axes: dict[str, int | None] = {}
    for name, feature in features.items():
        if name in larger:
            pairs = enumerate(zip(feature.shape, larger[name].shape, strict=True))
            axes[name] = next((axis for axis, (size, more) in pairs if size != more), None)
        else:
            axes[name] = 0 if feature.shape[:1] == (batch,) else None
    return axes


def _checked_index(field: str, value: Any, size: int, batch: int) -> Array:
    index = value if isinstance(value, jax.Array) else np.asarray(value)
    if not jnp.issubdtype(index.dtype, jnp.integer) or index.shape not in ((), (batch,)):
        raise FaceflaxError(field, None, f"{value!r} is neither an integer nor an array of {batch}, one for each image")
    if not isinstance(index, jax.core.Tracer):
        outside = index[(index < 0) | (index >= size)]
        if outside.size:
            raise FaceflaxError(field, outside[0], "is out of range", f"give 0 to {size - 1}")
    return jnp.asarray(index)
