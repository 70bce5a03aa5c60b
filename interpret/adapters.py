"""Makes models of networks as people write them: Linen and NNX modules, functions, modules that are pytrees.

:func:`wrap` is the one door; :func:`from_linen` and :func:`from_nnx` are what it does with plain modules.

The methods ask for ``logits, features = model.apply(variables, images, train=False)``. What these functions return has
such an ``apply``; the outputs of all submodules are its features, by their path. Gradients by a layer need no more, for
they are taken in what the network computes (:mod:`interpret.graph`): no ``perturb`` has to be written into it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from faceflax.errors import FaceflaxError, unknown
from interpret.graph import Images
from interpret.scopes import with_layers
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
        raise FaceflaxError("module", None, f"{type(module).__name__} is no Linen module", "give an instance of one")
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
        raise FaceflaxError("module", None, f"{type(module).__name__} is no NNX module", "give an instance of one")
    structure, state = nnx.split(module)
    return Nnx(structure, tuple(sorted(options.items()))), state


@dataclasses.dataclass(frozen=True)
class Function:
    """A function of images, or of variables and images; made by :func:`wrap`.

    Attributes:
        function: returns logits, or ``(logits, features)``, or outputs of any structure.
        with_variables: whether its first argument is the variables.
        per_image: whether it takes one image, without a batch.
    """

    function: Callable[..., Any]
    with_variables: bool
    per_image: bool

    def apply(self, variables: Any, images: Images, *, train: bool = False) -> tuple[Any, dict[str, Array]]:
        """Returns what the function returns, and the layers of its named scopes."""

        def answer(variables: Any, images: Images) -> Any:
            bound = partial(self.function, variables) if self.with_variables else self.function
            return (jax.vmap(bound) if self.per_image else bound)(images)

        return with_layers(answer, variables, images)


@dataclasses.dataclass(frozen=True)
class Tree:
    """A callable that is a pytree, as an Equinox module is, without its arrays; made by :func:`wrap`.

    Attributes:
        structure: of the pytree.
        fixed: its leaves, with None where an array was.
        per_image: as in :class:`Function`.
    """

    structure: Any
    fixed: tuple[Any, ...]
    per_image: bool

    def apply(self, variables: Any, images: Images, *, train: bool = False) -> tuple[Any, dict[str, Array]]:
        """Returns what the callable returns, and the layers of its named scopes."""

        def answer(variables: Any, images: Images) -> Any:
            leaves = [leaf if array is None else array for leaf, array in zip(self.fixed, variables, strict=True)]
            function = jax.tree.unflatten(self.structure, leaves)
            return (jax.vmap(function) if self.per_image else function)(images)

        return with_layers(answer, variables, images)


Output = Callable[[Any], Array] | str | int | tuple[str | int, ...] | None


@dataclasses.dataclass(frozen=True)
class Wrapped:
    """A network that answers as the methods ask for; made by :func:`wrap`.

    Attributes:
        inner: what computes outputs and features.
        output: as in :func:`wrap`.
        channels_first: as in :func:`wrap`.
        grids: as in :func:`wrap`.
    """

    inner: Any
    output: Output
    channels_first: bool
    grids: tuple[tuple[str, tuple[int, int]], ...]

    def apply(self, variables: Any, images: Images, *, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """Returns logits ``[batch, classes]`` and features.

        Raises:
            FaceflaxError: there are no logits where ``output`` says, or no tokens where ``grids`` does.
        """
        images = images.transpose(0, 3, 1, 2) if self.channels_first else images
        answer, features = self.inner.apply(variables, images, train=False)
        match answer:
            case (logits, dict() as returned) if self.output is None and hasattr(logits, "shape"):
                answer, features = logits, {**features, **returned}
        paths = {
            "/".join(("output", *(jax.tree_util.keystr((key,), simple=True) for key in path))): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(answer)
        }
        features = {**features, **{name: leaf for name, leaf in paths.items() if jnp.ndim(leaf) > 2}}
        if self.channels_first:
            features = {
                name: feature.transpose(0, 2, 3, 1) if feature.ndim == 4 else feature
                for name, feature in features.items()
            }
        return self._logits(answer, images.shape[0]), features | dict(self._gridded(features))

    def _logits(self, answer: Any, batch: int) -> Array:
        names = [
            jax.tree_util.keystr(path, simple=True, separator="/") or "none: it is one array"
            for path, _ in jax.tree_util.tree_leaves_with_path(answer)
        ]
        logits = answer
        if callable(self.output):
            logits = self.output(answer)
        elif self.output is not None:
            try:
                for key in self.output if isinstance(self.output, tuple) else (self.output,):
                    logits = logits[key]
            except (KeyError, IndexError, TypeError):
                raise unknown("output", str(self.output), names) from None
        if not hasattr(logits, "shape"):
            raise FaceflaxError(
                "output",
                None,
                f"the network returns several: {', '.join(names)}",
                "say which is explained, by its key or by a function of them all",
            )
        logits = logits[:, None] if logits.shape == (batch,) else logits  # one logit
        if logits.ndim != 2 or logits.shape[0] != batch:
            raise FaceflaxError(
                "output",
                logits.shape,
                "shape {} is not [batch, classes]",
                "give a function that makes this of it, such as lambda y: y.mean((1, 2)) of a score for each pixel",
            )
        return logits

    def _gridded(self, features: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
        for name, (rows, columns) in self.grids:
            if name not in features:
                raise unknown("grids", name, features)
            tokens = features[name]
            if tokens.ndim != 3 or tokens.shape[1] < rows * columns:
                raise FaceflaxError(
                    "grids", name, f"{{}} has shape {tokens.shape}, not [batch, {rows * columns} or more, channels]"
                )
            yield name, tokens[:, -rows * columns :].reshape(tokens.shape[0], rows, columns, -1)


def wrap(
    model: Any,
    variables: Any = None,
    *,
    output: Output = None,
    channels_first: bool = False,
    per_image: bool = False,
    grids: Mapping[str, tuple[int, int]] | None = None,
    **options: Any,
) -> tuple[Wrapped, Any]:
    """Makes ``model, variables`` for the methods of any network in JAX.

    Args:
        model: a Linen module; an NNX module, in evaluation mode; a function of images, or of variables and images (of
            Haiku, ``lambda params, x: network.apply(params, None, x)``); a callable that is a pytree, as an Equinox
            module is; or what follows the contract ``apply(variables, images, train=False)`` already. Layers are a
            module's submodules (:func:`from_linen`, :func:`from_nnx`), of others what is computed in a
            ``jax.named_scope``, as Haiku's and Keras's modules and Equinox's layers are
            (``res_net18/block_group_3``, ``out_relu``, ``eqx.nn.Conv/2``), and what is returned beside the logits:
            ``(logits, features by name)``. Methods are compiled for a function, so give the same one, not a new lambda
            each time.
        variables: of a Linen module, or a function's first argument; None where the model holds them or has none.
        output: which of the network's outputs is explained, where it returns several or none of shape
            ``[batch, classes]``: its key, a tuple of keys, or a function of all outputs that returns logits. Outputs of
            more than two axes are layers as well, such as ``output/mask``, so that a
            :class:`~interpret.targets.Neuron` is the score of one pixel.
        channels_first: the network takes ``[batch, channels, height, width]``. The methods take images, and give maps,
            with channels last; layers of four axes are turned around likewise.
        per_image: the function or the pytree takes one image without a batch, as Equinox's modules do.
        grids: rows and columns of layers that are tokens ``[batch, tokens, channels]``, to have class activation maps.
            Tokens in front of the grid's, such as a class token, are left out.
        **options: what else a module's ``__call__`` takes when it is evaluated, such as ``train=False``.

    Returns:
        What the methods take as ``model`` and ``variables``.

    Raises:
        FaceflaxError: the network is none of these, or variables are missing or too many. What its answer shows to be
            wrong is raised by the methods.

    Example:
        >>> import interpret
        >>> def network(images):
        ...     tokens = jnp.tanh(images).reshape(images.shape[0], 16, 3)
        ...     return {"label": tokens.mean(1), "place": tokens[..., 0]}, {"tokens": tokens}
        >>> model, variables = interpret.wrap(lambda x: network(x)[0], output="label")
        >>> interpret.gradient(model, variables, jnp.ones((2, 4, 4, 3)), target=1).shape
        (2, 4, 4, 3)
        >>> def with_layers(images):
        ...     outputs, features = network(images)
        ...     return outputs["label"], features
        >>> model, variables = interpret.wrap(with_layers, grids={"tokens": (4, 4)})
        >>> interpret.grad_cam(model, variables, jnp.ones((2, 4, 4, 3)), target=1, layer="tokens").shape
        (2, 4, 4, 3)
    """
    inner: Any
    takes_options = isinstance(model, nn.Module | nnx.Module)
    if options and not takes_options:
        raise FaceflaxError("options", ", ".join(options), "{} are of a module's call", "bind them: functools.partial")
    if per_image and takes_options:
        raise FaceflaxError("per_image", None, f"{type(model).__name__} takes a batch", "give a function of it")
    if isinstance(model, nn.Module):
        if variables is None:
            raise FaceflaxError("variables", None, f"{type(model).__name__} holds none", "give those it was trained to")
        inner = from_linen(model, **options)
    elif isinstance(model, nnx.Module):
        _check_held(model, variables)
        inner, variables = from_nnx(model, **options)
    elif callable(getattr(model, "apply", None)):
        inner, variables = model, {} if variables is None else variables
    elif callable(model):
        leaves, structure = jax.tree.flatten(model)
        arrays = [leaf if isinstance(leaf, jax.Array | np.ndarray) else None for leaf in leaves]
        if any(array is not None for array in arrays):
            _check_held(model, variables)
            fixed = tuple(leaf if array is None else None for leaf, array in zip(leaves, arrays, strict=True))
            inner, variables = Tree(structure, fixed, per_image), arrays
        else:
            inner = Function(model, variables is not None, per_image)
            variables = {} if variables is None else variables
    else:
        raise FaceflaxError("model", None, f"{type(model).__name__} is neither a module nor a function")
    return Wrapped(inner, output, channels_first, tuple(sorted((grids or {}).items()))), variables


def _check_held(model: Any, variables: Any) -> None:
    if variables is not None:
        raise FaceflaxError("variables", None, f"{type(model).__name__} holds its own", "leave them out")


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
