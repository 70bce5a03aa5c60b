"""Makes models of networks that return no features: plain Linen modules and NNX modules.

The methods ask for ``logits, features = model.apply(variables, images, train=False)``. What these functions return has
such an ``apply``; the outputs of all submodules are its features, by their path. Gradients by a layer need no more, for
they are taken in what the network computes (:mod:`interpret.graph`): no ``perturb`` has to be written into it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
from flax import nnx
from jaxtyping import Array

from faceflax.errors import FaceflaxError
from interpret.graph import Images
from interpret.targets import batch_axes


@dataclasses.dataclass(frozen=True)
class Linen:
    """A Linen module with the outputs of its submodules as features; made by :func:`from_linen`.

    Attributes:
        module: returns logits.
        options: the other arguments of its ``__call__``, by name.
    """

    module: nn.Module
    options: tuple[tuple[str, Any], ...]

    def apply(self, variables: Mapping[str, Any], images: Images, *, train: bool = False) -> tuple[Any, dict[str, Any]]:
        """Returns logits and the outputs of all submodules, of scanned ones those of each round."""
        logits, features = self._answer(variables, images)
        axes = batch_axes(lambda other: jax.eval_shape(self._answer, variables, other)[1], images, features)
        return logits, {
            name: activations
            for module, feature in features.items()
            for name, activations in _rounds(module, feature, axes[module])
        }

    def _answer(self, variables: Mapping[str, Any], images: Images) -> tuple[Any, dict[str, Any]]:
        logits, state = self.module.apply(
            variables, images, capture_intermediates=True, mutable=["intermediates"], **dict(self.options)
        )
        features = {}
        for path, outputs in jax.tree_util.tree_leaves_with_path(state["intermediates"], is_leaf=_is_call):
            *modules, method = (entry.key for entry in path)
            if method == "__call__" and modules and isinstance(outputs[-1], jax.Array):
                features["/".join(modules)] = outputs[-1]
        return logits, features


def from_linen(module: nn.Module, **options: Any) -> Linen:
    """Makes a model of a Linen module that returns logits alone.

    Its layers are the submodules, such as ``Conv_0`` or ``block1/conv`` (``capture_intermediates``); of one that is
    called more than once, the last call. Those of a scanned one (``nn.scan``, whose ``variable_axes`` must hold
    ``"intermediates": 0``) are its rounds, such as ``blocks/conv/0``.

    Args:
        module: returns logits ``[batch, classes]``; its variables are what it was trained with.
        **options: what else its ``__call__`` takes when it is evaluated, such as ``train=False`` or
            ``deterministic=True``.

    Returns:
        What the methods take as ``model``.

    Raises:
        FaceflaxError: it is no Linen module.

    Example:
        >>> import jax.numpy as jnp, interpret
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         x = nn.relu(nn.Conv(4, (3, 3), name="conv")(x))
        ...         return nn.Dense(3)(x.mean((1, 2)))
        >>> images = jnp.ones((2, 8, 8, 1))
        >>> variables = Net().init(jax.random.key(0), images)
        >>> interpret.grad_cam(from_linen(Net()), variables, images, target=1, layer="conv").shape
        (2, 8, 8, 1)
    """
    if not isinstance(module, nn.Module):
        raise FaceflaxError("module", None, f"a {type(module).__name__} is no Linen module", "give an instance of one")
    return Linen(module, tuple(sorted(options.items())))


@dataclasses.dataclass(frozen=True)
class Nnx:
    """An NNX module's structure, with the outputs of its submodules as features; made by :func:`from_nnx`.

    Attributes:
        structure: from ``nnx.split``.
        options: the other arguments of its ``__call__``, by name.
    """

    structure: Any
    options: tuple[tuple[str, Any], ...]

    def apply(self, variables: Any, images: Images, *, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """Returns logits and the outputs of all submodules.

        Raises:
            FaceflaxError: the module is in training mode.
        """
        module = nnx.merge(self.structure, variables)
        before = _varying(module)
        with _recorded(module) as features:
            logits = module(images, **dict(self.options))
        for path, value in _varying(module).items():
            if value is not before.get(path, value):
                raise FaceflaxError(
                    "module",
                    path,
                    "changes when the module is called: dropout or batch statistics are in training mode",
                    "give module.eval() before from_nnx",
                )
        return logits, features


def from_nnx(module: nnx.Module, **options: Any) -> tuple[Nnx, Any]:
    """Makes a model and variables of an NNX module that returns logits alone.

    Its layers are the submodules, such as ``conv1`` or ``blocks/0/conv``; of one that is called more than once, the
    last call. Give ``module.eval()`` first where it has dropout or BatchNorm: the methods refuse a module that draws
    random numbers or updates its statistics when it is called.

    Args:
        module: returns logits ``[batch, classes]``.
        **options: what else its ``__call__`` takes when it is evaluated.

    Returns:
        What the methods take as ``model`` and ``variables``; the module itself stays as it is.

    Raises:
        FaceflaxError: it is no NNX module.

    Example:
        >>> import jax.numpy as jnp, interpret
        >>> class Net(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        ...         self.head = nnx.Linear(4, 3, rngs=rngs)
        ...     def __call__(self, x):
        ...         return self.head(nnx.relu(self.conv(x)).mean((1, 2)))
        >>> model, variables = from_nnx(Net(nnx.Rngs(0)))
        >>> interpret.guided_backprop(model, variables, jnp.ones((2, 8, 8, 1)), target=1, layer="conv").shape
        (2, 8, 8, 1)
    """
    if not isinstance(module, nnx.Module):
        raise FaceflaxError("module", None, f"a {type(module).__name__} is no NNX module", "give an instance of one")
    structure, state = nnx.split(module)
    return Nnx(structure, tuple(sorted(options.items()))), state


def _is_call(node: Any) -> bool:
    return isinstance(node, tuple)  # what a method returned at each of its calls


def _rounds(name: str, feature: Array, batch_axis: int | None) -> Iterator[tuple[str, Array]]:
    """Yields a submodule's output, or where loops have stacked it in front of the batch, each round's."""
    if not batch_axis:
        yield name, feature
        return
    for i, row in enumerate(feature):
        yield from _rounds(f"{name}/{i}", row, batch_axis - 1)


def _varying(module: nnx.Module) -> dict[str, Any]:
    """The statistics and the counts of random numbers of a module, by path: what only training changes."""
    state = nnx.to_flat_state(nnx.state(module, nnx.Any(nnx.BatchStat, nnx.RngCount)))
    return {"/".join(map(str, path)): variable.get_value() for path, variable in state}


@contextmanager
def _recorded(module: nnx.Module) -> Iterator[dict[str, Array]]:
    """Yields what the submodules return while the block runs."""
    outputs: dict[str, Array] = {}
    names = {id(part): "/".join(map(str, path)) for path, part in nnx.iter_modules(module) if path}
    originals = {type(part): type(part).__call__ for _, part in nnx.iter_modules(module) if callable(part)}

    def recording(original: Any) -> Any:
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            output = original(self, *arguments, **options)
            if id(self) in names and isinstance(output, jax.Array):
                outputs[names[id(self)]] = output
            return output

        return call

    own = {kind: vars(kind).get("__call__") for kind in originals}
    try:
        for kind, original in originals.items():
            setattr(kind, "__call__", recording(original))  # noqa: B010
        yield outputs
    finally:
        for kind, before in own.items():
            if before is None:  # it inherits its __call__
                del kind.__call__
            else:
                setattr(kind, "__call__", before)  # noqa: B010
