"""What a transformer's attention says: rollout, and relevance by its gradients.

Attention is found in what the model computes (:mod:`interpret.graph`): a softmax whose result ``[batch, heads, tokens,
tokens]``, heads on any axes, weighs values. So no hook is needed, whatever the module is called.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import Array, Float

from faceflax.errors import FaceflaxError
from interpret.attribution import apply, at_least, method
from interpret.graph import Graph, Images, Model, Slot, trace
from interpret.targets import Target


@method("grid", "token", "residual")
def attention_rollout(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    grid: tuple[int, int] | None = None,
    token: int | None = 0,
    residual: float = 0.5,
) -> Images:
    """Attention rollout: the attention of all layers multiplied, as if what is attended to were passed on unchanged.

    ``R = (r I + (1 - r) A_L) ... (r I + (1 - r) A_1)`` with ``A_l`` the mean over the heads and ``r = residual``; the
    map is the row of the class token, its columns put on the image. Abnar and Zuidema, "Quantifying Attention Flow in
    Transformers", ACL 2020 (arXiv:2005.00928). Misleads: it knows no target, no values and no MLP, so it shows where
    information could come from and not what it says.

    Args:
        model: as in :func:`~interpret.gradients.gradient`, with self-attention.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: checked, and not used.
        layer: as in :func:`~interpret.gradients.gradient`.
        grid: rows and columns of the tokens that are patches, the last of all; if not given, the grid of the image's
            proportions that leaves the fewest tokens in front.
        token: the row that is read, 0 for a class token in front; None for the mean of all rows, as for a network that
            averages its tokens.
        residual: how much of a token goes past the attention.

    Returns:
        A map of the shape of ``images``, zero or positive, enlarged bilinearly.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.gradient`, no attention, or tokens that are on no grid.
    """
    at_least("residual", residual, 0, 1)
    graph = trace(model, variables, images, plain=True)
    values = graph.run()
    means = [_mean(values[slot], axis) for slot, axis in attentions(graph, model, variables, images).items()]
    identity = jnp.eye(means[0].shape[-1])[None]
    flow = identity
    for mean in means:
        flow = (residual * identity + (1 - residual) * mean) @ flow
    return _on_image(flow, images, grid, token)


@method("grid", "token")
def attention_relevance(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    grid: tuple[int, int] | None = None,
    token: int | None = 0,
) -> Images:
    """Relevance of attention: rollout of the attention that raises the score, by its own gradient.

    ``R = (I + B_L) ... (I + B_1)`` with ``B_l = mean over heads of max(A_l * d s / d A_l, 0)``; the map is the row of
    the class token. Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and
    Encoder-Decoder Transformers", ICCV 2021 (arXiv:2103.15679), for self-attention. Misleads: what speaks against the
    target is cut in every layer, and MLPs are passed over.

    Args:
        model: as in :func:`attention_rollout`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: as in :func:`~interpret.gradients.gradient`.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`~interpret.gradients.gradient`.
        grid: as in :func:`attention_rollout`.
        token: as in :func:`attention_rollout`.

    Returns:
        A map of the shape of ``images``, zero or positive, enlarged bilinearly.

    Raises:
        FaceflaxError: as in :func:`attention_rollout`.
    """
    graph = trace(model, variables, images, plain=True)
    slots = attentions(graph, model, variables, images)
    fixed = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]
    found = {slot: value for slot, value in graph.run().items() if slot in slots}

    def score(shifts: dict[Slot, Array]) -> Array:
        return fixed.of(*graph.answer(graph.run(shifts=shifts))).sum()

    gradients = jax.grad(score)(jax.tree.map(jnp.zeros_like, found))
    raising = [_mean(jax.nn.relu(found[slot] * gradients[slot]), axis) for slot, axis in slots.items()]
    identity = jnp.eye(raising[0].shape[-1])[None]
    flow = identity
    for mean in raising:
        flow = flow + mean @ flow
    return _on_image(flow - identity, images, grid, token)


def attentions(graph: Graph, model: Model, variables: Any, images: Images) -> dict[Slot, int]:
    """Finds the attention of a model's layers: in the order of computation its slot, and which axis is the batch.

    Raises:
        FaceflaxError: there is none, or not all are over the same tokens.
    """
    producers = graph.producers

    def maker(atom: Any) -> Any:
        made = None if isinstance(atom, Literal) else producers.get(atom)
        while made is not None and made.name in ("broadcast_in_dim", "reshape", "convert_element_type"):
            made = None if isinstance(made.inputs[0], Literal) else producers.get(made.inputs[0])
        return made

    shapes: dict[Slot, tuple[int, ...]] = {}
    for operation in graph.operations:
        if operation.name != "div":
            continue
        above, below = map(maker, operation.inputs)
        if above is None or below is None or (above.name, below.name) != ("exp", "reduce_sum"):
            continue
        shape = _shape(graph, operation.outputs[0])
        last = tuple(map(int, below.equation.params["axes"])) == (len(shape) - 1,)
        if len(shape) >= 4 and shape[-2] == shape[-1] and last and below.inputs == above.outputs:
            shapes[operation.outputs[0]] = shape
    if not shapes:
        raise FaceflaxError(
            "model",
            None,
            f"{type(model).__name__} computes no self-attention, a softmax over [batch, heads, tokens, tokens]",
            "this method is defined by it, so use another, such as integrated_gradients",
        )
    tokens = [shape[-1] for shape in shapes.values()]
    if len(set(tokens)) > 1:
        raise FaceflaxError(
            "model",
            None,
            f"{type(model).__name__}'s attention is over {', '.join(map(str, tokens))} tokens by turns",
            "this method needs the same tokens in all layers, so use another, such as attn_lrp",
        )
    more: Any = jax.ShapeDtypeStruct((images.shape[0] + 1, *images.shape[1:]), images.dtype)
    one_more = trace(model, variables, more, plain=True)
    return {
        slot: next(axis for axis, (n, m) in enumerate(zip(shape, _shape(one_more, slot), strict=True)) if n != m)
        for slot, shape in shapes.items()
    }


def _shape(graph: Graph, slot: Slot) -> tuple[int, ...]:
    operation = graph.producers[slot]
    return operation.equation.outvars[operation.outputs.index(slot)].aval.shape  # type: ignore[attr-defined]


def _mean(attention: Array, batch_axis: int) -> Float[Array, "batch tokens tokens"]:
    """The mean over the heads, however many axes they take."""
    tokens = attention.shape[-1]
    return jnp.moveaxis(attention, batch_axis, 0).reshape(attention.shape[batch_axis], -1, tokens, tokens).mean(1)


def _on_image(
    flow: Float[Array, "batch tokens tokens"], images: Images, grid: tuple[int, int] | None, token: int | None
) -> Images:
    tokens = flow.shape[-1]
    batch, height, width, _ = images.shape
    if grid is None:
        rows = next(
            (r for r in range(tokens, 0, -1) if (r * width) % height == 0 and r * r * width // height <= tokens), 0
        )
        grid = rows, rows * width // height
    if grid[0] < 1 or grid[1] < 1 or grid[0] * grid[1] > tokens:
        raise FaceflaxError(
            "grid",
            str(grid),
            f"{tokens} tokens are not on a grid of {{}}",
            "give the rows and columns of the patches, such as (14, 14)",
        )
    if token is not None:
        at_least("token", token, 0, tokens - 1)
    row = flow.mean(1) if token is None else flow[:, token]
    places = row[:, tokens - grid[0] * grid[1] :].reshape(batch, *grid)
    enlarged = jax.image.resize(places, (batch, height, width), "linear")[..., None]
    return jnp.broadcast_to(enlarged, images.shape).astype(images.dtype)
