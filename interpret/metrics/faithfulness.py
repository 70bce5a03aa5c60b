"""Faithfulness: whether a map says what the network does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from faceflax.errors import FaceflaxError, unknown
from interpret.attribution import (
    apply,
    at_least,
    checked_baseline,
    checked_maps,
)
from interpret.blur import blurred
from interpret.compiling import compiled
from interpret.copies import every
from interpret.graph import Images, Model, trace
from interpret.metrics.common import Each, Importance, checked_target, unit
from interpret.targets import Logits, Target

OUTPUTS = ("logits", "labels", "probabilities")
"""What a model's outputs can be; see :func:`deletion`."""

BLUR = 0.1
"""Standard deviation of the blur that insertion starts from, as a share of the image's shorter side."""


def deletion(
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    importance: Importance,
    *,
    baseline: float | Images = 0.0,
    steps: int = 32,
    outputs: str | None = None,
) -> Each:
    """Area under the deletion curve, in [0, 1]; lower is better.

    The class's probability while pixels are overwritten, most important first (:func:`deletion_curve`), averaged over
    the share overwritten by the trapezoidal rule. Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for
    Explanation of Black-box Models", BMVC 2018 (arXiv:1806.07421).

    Args:
        model: as the methods take it.
        variables: its variables.
        images: ``[batch, height, width, channels]``, as the model takes them.
        target: a class, for all images or one for each; of another target the score itself is followed.
        importance: how much each pixel matters (:func:`importance`). Equal pixels go in a fixed random order.
        baseline: what takes a pixel's place; 0 is middle grey.
        steps: how many points the curve has after its first.
        outputs: what the model returns: ``"logits"`` of classes of which one is true (a softmax makes probabilities of
            them; of a single logit, a sigmoid), logits of ``"labels"`` of which several can be (a sigmoid of each), or
            ``"probabilities"``. If not given, probabilities where a softmax or a sigmoid is the last that the model
            does, and otherwise logits.

    Raises:
        FaceflaxError: images, target or importance that do not fit the model or each other; or outputs that look like
            probabilities, where it is not said what they are.

    Example:
        >>> import flax.linen as nn
        >>> class Sum(nn.Module):
        ...     def __call__(self, images, train=False):
        ...         total = images.sum((1, 2, 3))
        ...         return jnp.stack([total, 0 * total], 1), {}
        >>> images = jnp.array([3.0, 0.0, 0.0, -1.0]).reshape(1, 2, 2, 1)
        >>> good, bad = (deletion(Sum(), {}, images, 0, sign * images[..., 0], steps=4) for sign in (1, -1))
        >>> print(good.round(2), bad.round(2))
        [0.37] [0.89]
    """
    return area(
        deletion_curve(model, variables, images, target, importance, baseline=baseline, steps=steps, outputs=outputs)
    )


def insertion(
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    importance: Importance,
    *,
    baseline: float | Images | None = None,
    steps: int = 32,
    outputs: str | None = None,
) -> Each:
    """Area under the insertion curve, in [0, 1]; higher is better.

    The class's probability while the pixels of the image come back, most important first (:func:`insertion_curve`),
    averaged as in :func:`deletion`. Petsiuk, Das and Saenko, BMVC 2018 (arXiv:1806.07421).

    Args:
        model: as in :func:`deletion`.
        variables: as in :func:`deletion`.
        images: as in :func:`deletion`.
        target: as in :func:`deletion`.
        importance: as in :func:`deletion`.
        baseline: what the image comes back from; the blurred image if not given, as in the paper, because
            single pixels on a flat ground are edges of their own.
        steps: as in :func:`deletion`.
        outputs: as in :func:`deletion`.

    Raises:
        FaceflaxError: as in :func:`deletion`.
    """
    return area(
        insertion_curve(model, variables, images, target, importance, baseline=baseline, steps=steps, outputs=outputs)
    )


def deletion_curve(
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    importance: Importance,
    *,
    baseline: float | Images = 0.0,
    steps: int = 32,
    outputs: str | None = None,
) -> Float[Array, "batch points"]:
    """The class's probability with the share ``i / steps`` of the pixels overwritten, for ``i`` from 0 to ``steps``.

    Args and errors are those of :func:`deletion`, which is the area under it.
    """
    images, score, importance = checked_importance(model, variables, images, target, importance)
    at_least("steps", steps, 1, images.shape[1] * images.shape[2])
    kind = checked_outputs(model, variables, images, score, outputs)
    flat = checked_baseline(baseline, images)
    return _replacement_curve(model, variables, images, flat, score, importance, steps, kind)


def insertion_curve(
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    importance: Importance,
    *,
    baseline: float | Images | None = None,
    steps: int = 32,
    outputs: str | None = None,
) -> Float[Array, "batch points"]:
    """The class's probability with the share ``i / steps`` of the pixels brought back, for ``i`` from 0 to ``steps``.

    Args and errors are those of :func:`insertion`, which is the area under it.
    """
    images, score, importance = checked_importance(model, variables, images, target, importance)
    at_least("steps", steps, 1, images.shape[1] * images.shape[2])
    kind = checked_outputs(model, variables, images, score, outputs)
    baseline = blurred(images, BLUR * min(images.shape[1:3])) if baseline is None else baseline
    start = checked_baseline(baseline, images)
    return _replacement_curve(model, variables, start, images, score, importance, steps, kind)


def area(curve: Float[Array, "batch points"]) -> Each:
    """The mean height of curves over [0, 1], by the trapezoidal rule.

    Example:
        >>> print(area(jnp.array([[0.0, 1.0, 1.0]])))
        [0.75]
    """
    return ((curve[:, 1:] + curve[:, :-1]) / 2).mean(1)


@dataclass(frozen=True)
class SquareRemoval:
    """A perturbation: overwrites a square at a random place of each image.

    Attributes:
        size: the square's side in pixels.
        value: what takes a pixel's place; 0 is middle grey.
    """

    size: int = 8
    value: float = 0.0

    def __call__(self, key: PRNGKeyArray, images: Images) -> Images:
        """Returns the images with a square gone."""

        def covered(key: PRNGKeyArray, size: int) -> Bool[Array, "batch size"]:
            start = jax.random.randint(key, (images.shape[0], 1), 0, size - self.size + 1)
            pixels = jnp.arange(size)[None]
            return (pixels >= start) & (pixels < start + self.size)

        rows, columns = map(covered, jax.random.split(key), images.shape[1:3])
        square = (rows[:, :, None] & columns[:, None, :])[..., None]
        return jnp.where(square, jnp.asarray(self.value, images.dtype), images)


@dataclass(frozen=True)
class GaussianNoise:
    """A perturbation: adds independent normal noise to every pixel.

    Attributes:
        deviation: its standard deviation, in the images' units.
    """

    deviation: float = 0.1

    def __call__(self, key: PRNGKeyArray, images: Images) -> Images:
        """Returns the images with noise."""
        return images + self.deviation * jax.random.normal(key, images.shape, images.dtype)


def infidelity(
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    attribution: Images,
    *,
    key: PRNGKeyArray,
    perturb: Callable[[PRNGKeyArray, Images], Images] = SquareRemoval(),
    samples: int = 64,
    normalized: bool = False,
) -> Each:
    """How badly an attribution predicts what perturbations do to the score: 0 or more; lower is better.

    ``E_I[(I . A - (s(x) - s(x - I)))^2]`` over random perturbations ``I``, with ``s`` the logit. Yeh, Hsieh, Suggala,
    Inouye and Ravikumar, "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019 (arXiv:1901.09392).

    ``A`` counts in score per unit of a pixel, as a gradient does; divide contributions (gradient x input, integrated
    gradients from 0) by the image first.

    Args:
        model: as in :func:`deletion`.
        variables: as in :func:`deletion`.
        images: as in :func:`deletion`.
        target: what the attribution explains.
        attribution: of the images' shape.
        key: of the perturbations.
        perturb: ``(key, images) -> x - I``, jittable and hashable: :class:`SquareRemoval`, :class:`GaussianNoise`.
        samples: how many perturbations of each image.
        normalized: take each map at its best scale, since a map is not wrong for its scale (Yeh et al. do so), and
            divide by ``E[ds^2]``, ``ds = s(x) - s(x - I)``: ``1 - E[I.A ds]^2 / (E[(I.A)^2] E[ds^2])``, in [0, 1], the
            share of the score's changes that the map leaves unexplained. A map of zeros explains nothing: 1.

    Raises:
        FaceflaxError: as in :func:`deletion`, or an attribution of another shape.

    Example:
        >>> import flax.linen as nn
        >>> class Sum(nn.Module):
        ...     def __call__(self, images, train=False):
        ...         return images.sum((1, 2))[:, :1], {}
        >>> images, key = jnp.ones((1, 4, 4, 1)), jax.random.key(0)
        >>> noise = GaussianNoise()
        >>> print(infidelity(Sum(), {}, images, 0, jnp.ones((1, 4, 4, 1)), key=key, perturb=noise).round(6))
        [0.]
    """
    images, score = checked_target(model, variables, images, target)
    attribution = checked_maps("attribution", attribution)
    if attribution.shape != images.shape:
        raise FaceflaxError("attribution", attribution.shape, f"shape {{}} is not the images' {images.shape}")
    at_least("samples", samples, 1)
    if isinstance(perturb, SquareRemoval):
        at_least("perturb.size", perturb.size, 1, min(images.shape[1:3]))
    predicted, change = _predicting(model, variables, images, score, attribution, key, perturb, samples)
    if not normalized:
        return ((predicted - change) ** 2).mean(0)
    predicted, change = unit(predicted, 0), unit(change, 0)
    both = (predicted**2).mean(0) * (change**2).mean(0)
    left = jnp.maximum(1 - (predicted * change).mean(0) ** 2 / jnp.where(both > 0, both, 1), 0)
    return jnp.where(both > 0, left, jnp.any(change != 0, 0))


def checked_importance(
    model: Model, variables: Any, images: Any, target: Target, importance: Any
) -> tuple[Images, Any, Array]:
    """Returns images, the score and importance as arrays that fit each other, or raises what is wrong with them."""
    images, score = checked_target(model, variables, images, target)
    if importance.shape != images.shape[:3]:
        raise FaceflaxError(
            "importance",
            importance.shape,
            f"shape {{}} is not the images' {images.shape[:3]} [batch, height, width]",
            "metrics.importance makes one of an attribution",
        )
    return images, score, checked_maps("importance", importance)


def checked_outputs(model: Model, variables: Any, images: Images, score: Any, outputs: str | None) -> str:
    """Returns what a model's outputs are, or raises if that is said wrongly or not at all; known values are read."""
    if outputs is not None:
        if outputs not in OUTPUTS:
            raise unknown("outputs", outputs, OUTPUTS)
        return outputs
    ends = trace(model, variables, images, plain=True).gives_probabilities
    found = "probabilities" if ends else "logits"
    if score.layer is not None or isinstance(images, jax.core.Tracer):
        return found
    answers = apply(model, variables, images)[0]
    if isinstance(answers, jax.core.Tracer) or answers.shape[1] < 2:
        return found
    sums = np.asarray(answers.astype(jnp.float32).sum(1))
    alike = (answers >= 0).all() and np.allclose(sums, 1, atol=1e-3)
    if alike and not ends:
        raise FaceflaxError(
            "outputs",
            None,
            f"those of {type(model).__name__} are positive and sum to 1, as probabilities do, but are not made by "
            "jax.nn.softmax",
            f"give one of: {', '.join(OUTPUTS)}",
        )
    return found


def probabilities(answers: Logits, outputs: str) -> Logits:
    """A model's outputs as probabilities; see :func:`deletion`."""
    answers = answers.astype(jnp.promote_types(answers.dtype, jnp.float32))
    if outputs == "probabilities":
        return answers
    return jax.nn.sigmoid(answers) if outputs == "labels" or answers.shape[1] == 1 else jax.nn.softmax(answers)


@partial(compiled, static=("model", "steps", "outputs"))
def _replacement_curve(
    model: Model,
    variables: Any,
    start: Images,
    end: Images,
    score: Any,
    importance: Importance,
    steps: int,
    outputs: str,
) -> Float[Array, "batch points"]:
    """The class's probability while the pixels of ``start`` become those of ``end``, most important first."""
    rank, count = ranks(importance), importance[0].size

    def probability(replaced: Array) -> Each:
        logits, features = apply(model, variables, jnp.where(rank < replaced, end, start))
        return score.of(probabilities(logits, outputs), features)

    return jax.lax.map(probability, jnp.round(jnp.linspace(0, count, steps + 1))).T


def ranks(importance: Importance) -> Float[Array, "batch height width 1"]:
    """Which pixel is the most important, the next and so on, from 0; equal ones in a fixed random order."""
    flat = importance.reshape(importance.shape[0], -1)
    shuffle = jax.random.permutation(jax.random.key(0), flat.shape[1])  # a stable sort would favour the top
    order = shuffle[jnp.argsort(-flat[:, shuffle], axis=1, stable=True)]
    return jnp.argsort(order, axis=1).reshape(importance.shape)[..., None]


@partial(compiled, static=("model", "perturb", "samples"))
def _predicting(
    model: Model,
    variables: Any,
    images: Images,
    score: Any,
    attribution: Images,
    key: PRNGKeyArray,
    perturb: Callable[[PRNGKeyArray, Images], Images],
    samples: int,
) -> tuple[Float[Array, "samples batch"], Float[Array, "samples batch"]]:
    """The score's changes as the attribution predicts them, and as they are."""
    whole = score.of(*apply(model, variables, images))

    def one(i: Array) -> tuple[Each, Each]:
        perturbed = perturb(jax.random.fold_in(key, i), images)
        predicted = ((images - perturbed).astype(attribution.dtype) * attribution).sum((1, 2, 3))
        return predicted, (whole - score.of(*apply(model, variables, perturbed))).astype(attribution.dtype)

    return every(one, samples, images.shape[0])
