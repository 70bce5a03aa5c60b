"""A network with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np

from faceflax import models
from faceflax.errors import FaceflaxError
from faceflax.pretrained.reading import check_values, find, read
from faceflax.pretrained.record import WeightsInfo

Variables: TypeAlias = dict[str, Any]

if TYPE_CHECKING:
    import flax.linen as nn

    _Pair: TypeAlias = tuple[nn.Module, Variables]
else:
    _Pair = tuple


class LoadedModel(_Pair):
    """A network and its variables, as a pair, with their record as ``info``.

    It unpacks into two, for all functions that take a model and its variables: ``faceflax.compile(*loaded)``. It cannot
    be changed, and can be pickled.

    Attributes:
        model: the network.
        variables: its ``params`` and ``batch_stats``, float32, for ``model.apply(variables, images, train=False)``.
        info: the record of the weights.

    Example:
        >>> import faceflax
        >>> loaded = faceflax.load("mini_xception-fer2013")
        >>> model, variables = loaded
        >>> model is loaded.model, variables is loaded.variables, loaded.info.image_size
        (True, True, 48)
    """

    info: WeightsInfo

    def __new__(cls, info: WeightsInfo, variables: Variables) -> LoadedModel:
        """Builds the network that ``info`` names."""
        loaded = super().__new__(cls, (models.create(info.arch, len(info.labels)), variables))
        loaded.__dict__["info"] = info
        return loaded

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self[0]

    @property
    def variables(self) -> Variables:
        """Its ``params`` and ``batch_stats``."""
        return self[1]

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed: {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} cannot be changed: {name!r}")

    def __reduce__(self) -> tuple[type[LoadedModel], tuple[WeightsInfo, Variables]]:
        return type(self), (self.info, self.variables)  # nn.relu, a network's field, cannot be pickled

    def __repr__(self) -> str:
        name = type(self.model).__name__
        size = sum(array.size for array in _flat(self.variables).values())
        return (
            f"LoadedModel(model={name}(num_classes={len(self.info.labels)}), variables=<{size:,} parameters>, "
            f"info={self.info!r})"
        )


def load(weights: str | Path) -> LoadedModel:
    """Loads a network, its weights and their record, after verifying them.

    Args:
        weights: one of :func:`list_weights`, the path of a ``.safetensors`` file with its ``.json`` record beside it,
            or ``hf://OWNER/NAME`` on the Hugging Face Hub (extra ``hub``).

    Returns:
        The network and its variables, float32, for ``model.apply(variables, images, train=False)``, and the record as
        ``.info``. It unpacks into model and variables.

    Raises:
        FaceflaxError: unknown name, no such file, a missing or wrong record, a file that is not the one the record
            was written for, or tensors that are not exactly the network's.

    Example:
        >>> model, variables = load("mini_xception-fer2013")
        >>> load("mini_xception-fer2013").info.dataset
        'fer2013'
    """
    import jax
    from flax.traverse_util import unflatten_dict

    info, tensors = read(weights)
    try:
        verify(tensors, models.create(info.arch, len(info.labels)))
    except FaceflaxError as error:
        raise FaceflaxError("weights", find(weights), f"in {{}}, {error.reason}") from None
    return LoadedModel(info, {"batch_stats": {}} | jax.device_put(unflatten_dict(tensors, sep="/")))


def verify(tensors: Mapping[str, np.ndarray], model: nn.Module) -> None:
    """Checks that ``tensors`` are exactly the variables of ``model`` for one-channel images, and hold usable values.

    Args:
        tensors: the tree of variables flattened, with names such as ``params/block1/conv1/depthwise``.
        model: the network that they are for.

    Raises:
        FaceflaxError: a tensor is missing, superfluous, of another shape or type, holds NaN or infinity, or is a
            variance below 0.
    """
    import jax

    expected = _flat(jax.eval_shape(lambda: models.init(model, jax.random.key(0))))
    network = f"{type(model).__name__} with {model.num_classes} classes"
    remedy = "use the weights and record of one and the same network"
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            problem = f"tensor {{}} {expected[name].shape} of {network} is missing"
            raise FaceflaxError("tensors", name, problem, remedy)
        if name not in expected:
            raise FaceflaxError("tensors", name, f"{network} has no tensor {{}} {tensors[name].shape}", remedy)
        found, wanted = (f"{t[name].dtype} {t[name].shape}" for t in (tensors, expected))
        if found != wanted:
            raise FaceflaxError("tensors", name, f"tensor {{}} is {found}, in {network} it is {wanted}", remedy)
    check_values(tensors)


def _flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    from flax.traverse_util import flatten_dict

    return flatten_dict(variables, sep="/")
