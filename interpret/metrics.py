"""How good an attribution is, in numbers: faithful to the network, stable, concise, and where it should be.

Pure functions, one number for each image; those that run the network are compiled. Two kinds of map go in. An
*attribution* is what a method returns: signed, of the images' shape. Its *importance* (:func:`importance`) is one
number for each pixel, the higher the more it matters; metrics that rank pixels take that. Maps of half precision are
counted in float32, a map's scale does not matter but to :func:`infidelity`, and one with NaN or infinity is refused.

None of the numbers says alone that a map is right. A map that ignores the network altogether can be perfectly stable
and concise, so compare with a random map and an edge detector, as ``python -m interpret.benchmark`` does.
"""

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
    Method,
    answer_shapes,
    apply,
    at_least,
    checked_baseline,
    checked_images,
    checked_maps,
)
from interpret.blur import blurred
from interpret.copies import every
from interpret.graph import Images, Model, trace
from interpret.targets import Logits, Target, as_score

Importance = Float[Array, "batch height width"]
Mask = Bool[Array, "batch height width"]
Each = Float[Array, " batch"]

OUTPUTS = ("logits", "labels", "probabilities")
"""What a model's outputs can be; see :func:`deletion`."""

BLUR = 0.1
"""Standard deviation of the blur that insertion starts from, as a share of the image's shorter side."""


def importance(attribution: Images, *, signed: bool) -> Importance:
    """How much each pixel matters, by an attribution: its channels' sum, with or without their signs.

    Args:
        attribution: what a method returned, ``[batch, height, width, channels]``.
        signed: whether the sign says if a pixel speaks for the target (as in gradient x input, integrated gradients,
            class activation maps, LRP, occlusion, RISE), so that negative pixels matter least. False where the sign
            says which way a pixel's brightness acts (gradient, guided backprop, deconvnet), so that the magnitude
            counts.

    Raises:
        FaceflaxError: the attribution is not of that rank, or holds NaN or infinity.

    Example:
        >>> pixel = jnp.array([[[[1.0, -3.0]]]])
        >>> print(importance(pixel, signed=False), importance(pixel, signed=True))
        [[[4.]]] [[[-2.]]]
    """
    attribution = checked_maps("attribution", attribution, dimensions=4)
    return (attribution if signed else jnp.abs(attribution)).sum(-1)


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
    images, score, importance = _checked(model, variables, images, target, importance)
    at_least("steps", steps, 1, images.shape[1] * images.shape[2])
    _check_outputs(model, variables, images, score, outputs)
    flat = checked_baseline(baseline, images)
    return _replacement_curve(model, variables, images, flat, score, importance, steps, outputs)


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
    images, score, importance = _checked(model, variables, images, target, importance)
    at_least("steps", steps, 1, images.shape[1] * images.shape[2])
    _check_outputs(model, variables, images, score, outputs)
    baseline = blurred(images, BLUR * min(images.shape[1:3])) if baseline is None else baseline
    start = checked_baseline(baseline, images)
    return _replacement_curve(model, variables, start, images, score, importance, steps, outputs)


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
    images, score = _checked_target(model, variables, images, target)
    attribution = checked_maps("attribution", attribution)
    if attribution.shape != images.shape:
        raise FaceflaxError("attribution", attribution.shape, f"shape {{}} is not the images' {images.shape}")
    at_least("samples", samples, 1)
    if isinstance(perturb, SquareRemoval):
        at_least("perturb.size", perturb.size, 1, min(images.shape[1:3]))
    predicted, change = _predicting(model, variables, images, score, attribution, key, perturb, samples)
    if not normalized:
        return ((predicted - change) ** 2).mean(0)
    predicted, change = _unit(predicted, 0), _unit(change, 0)
    both = (predicted**2).mean(0) * (change**2).mean(0)
    left = jnp.maximum(1 - (predicted * change).mean(0) ** 2 / jnp.where(both > 0, both, 1), 0)
    return jnp.where(both > 0, left, jnp.any(change != 0, 0))


def max_sensitivity(
    method: Method,
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    *,
    key: PRNGKeyArray,
    radius: float = 0.04,
    samples: int = 10,
) -> Each:
    """How far a map moves, at most, when the image hardly does: 0 or more; lower is better.

    ``max_y |A(y) - A(x)| / |A(x)|`` over ``samples`` random ``y`` whose pixels are within ``radius`` of those of ``x``,
    with Euclidean norms. Yeh et al., NeurIPS 2019 (arXiv:1901.09392); relative, so that maps of different scales
    compare. It is a lower bound of the true maximum. A map that ignores the image scores 0, one of zeros that does not
    stay so infinity.

    Args:
        method: an attribution method; must be traceable by ``jax.jit``, as all of :mod:`interpret` are.
        model: as in :func:`deletion`.
        variables: as in :func:`deletion`.
        images: as in :func:`deletion`.
        target: what the method explains.
        key: of the changes.
        radius: the largest change of a pixel, in the images' units.
        samples: how many changed copies of each image.

    Raises:
        FaceflaxError: as the method, maps with NaN or infinity, no samples, or a negative radius.

    Example:
        >>> def identity(model, variables, images, target):
        ...     return images
        >>> images = jnp.ones((1, 5, 5, 1))
        >>> sensitivity = max_sensitivity(identity, None, {}, images, 0, key=jax.random.key(0), radius=0.1)
        >>> bool(0 < sensitivity[0] <= 0.1)
        True
    """
    at_least("samples", samples, 1)
    at_least("radius", radius, 0)
    images = checked_images(images)
    sensitivity = _max_sensitivity(method, model, variables, images, target, key, radius, samples)
    if not isinstance(sensitivity, jax.core.Tracer):
        bad = np.flatnonzero(np.isnan(sensitivity))
        if bad.size:
            raise FaceflaxError("method", bad[0], "its map of image {} or of one near it holds NaN or infinity")
    return sensitivity


def gini(attribution: Float[Array, "batch ..."]) -> Each:
    """Sparseness: the Gini index of a map's magnitudes, in [0, 1); higher is sparser, not truer.

    ``1 - 2 sum_k a_(k) / |a|_1 (d - k + 1/2) / d`` with the ``d`` magnitudes in rising order. 0 where all are equal (a
    map of zeros counts as that), ``1 - 1/d`` where one alone is not 0. Hurley and Rickard, "Comparing Measures of
    Sparsity", IEEE Transactions on Information Theory 2009; of attributions, Chalasani et al., "Concise Explanations of
    Neural Networks using Adversarial Training", ICML 2020 (arXiv:1810.06583).

    Args:
        attribution: any array with a batch first.

    Raises:
        FaceflaxError: it holds NaN or infinity.

    Example:
        >>> print(gini(jnp.array([[1.0, 1.0, -1.0, 1.0], [0.0, 0.0, 5.0, 0.0]])))
        [0.   0.75]
    """
    return _gini(checked_maps("attribution", attribution))


@jax.jit
def _gini(attribution: Float[Array, "batch ..."]) -> Each:
    rising = _unit(jnp.sort(jnp.abs(attribution.reshape(attribution.shape[0], -1)), axis=1), 1)
    count = rising.shape[1]
    shares = rising / jnp.maximum(rising.sum(1, keepdims=True), 1)  # the largest is 1, or all are 0
    weights = 2 * (count - jnp.arange(1, count + 1, dtype=rising.dtype) + 0.5) / count
    return jnp.where(rising[:, -1] > 0, 1 - (shares * weights[None]).sum(1), 0)


def pointing_game(importance: Importance, mask: Mask | np.ndarray) -> Each:
    """Whether a map's highest point lies where it should: 1 or 0; higher is better.

    Averaged over images it is the pointing game's accuracy; a random map's is the mask's share of the image. Where
    several points are equally high, the share of them inside the mask. Zhang, Lin, Brandt, Shen and Sclaroff, "Top-down
    Neural Attention by Excitation Backprop", ECCV 2016 (arXiv:1608.00507); here without their 15 pixels of tolerance.

    Args:
        importance: how much each pixel matters (:func:`importance`).
        mask: the pixels that should matter; of booleans, or known to be of zeros and ones.

    Raises:
        FaceflaxError: importance with NaN or infinity, a mask of other values, or shapes that differ.

    Example:
        >>> mask = jnp.array([[[True, False, False, False]]])
        >>> print(pointing_game(jnp.array([[[3.0, 1.0, 2.0, 0.0]]]), mask), pointing_game(jnp.zeros((1, 1, 4)), mask))
        [1.] [0.25]
    """
    return _pointing_game(*_checked_pair(importance, mask))


@jax.jit
def _pointing_game(importance: Importance, mask: Mask) -> Each:
    highest = importance == importance.max((1, 2), keepdims=True)
    return (highest & mask).sum((1, 2)) / highest.sum((1, 2))


def energy_inside(importance: Importance, mask: Mask | np.ndarray) -> Each:
    """The share of a map's positive importance that lies where it should, in [0, 1]; higher is better.

    ``sum_mask relu(m) / sum relu(m)``: the energy-based pointing game of Wang et al., "Score-CAM", CVPR workshops 2020
    (arXiv:1910.01279). An even map scores the mask's share of the image, and so does one that is positive nowhere.

    Args:
        importance: how much each pixel matters (:func:`importance`).
        mask: the pixels that should matter; of booleans, or known to be of zeros and ones.

    Raises:
        FaceflaxError: importance with NaN or infinity, a mask of other values, or shapes that differ.

    Example:
        >>> mask = jnp.array([[[True, False, False]]])
        >>> print(energy_inside(jnp.array([[[3.0, 1.0, -2.0]]]), mask))
        [0.75]
    """
    return _energy_inside(*_checked_pair(importance, mask))


@jax.jit
def _energy_inside(importance: Importance, mask: Mask) -> Each:
    positive = _unit(jnp.maximum(importance, 0), (1, 2))
    inside, whole = (positive * mask).sum((1, 2)), positive.sum((1, 2))
    return jnp.where(whole > 0, inside / jnp.where(whole > 0, whole, 1), mask.mean((1, 2)))


def _checked_target(model: Model, variables: Any, images: Any, target: Target) -> tuple[Images, Any]:
    images = checked_images(images)
    return images, as_score(target, "last_conv", *answer_shapes(model, variables, images))


def _checked(model: Model, variables: Any, images: Any, target: Target, importance: Any) -> tuple[Images, Any, Array]:
    images, score = _checked_target(model, variables, images, target)
    if importance.shape != images.shape[:3]:
        raise FaceflaxError(
            "importance",
            importance.shape,
            f"shape {{}} is not the images' {images.shape[:3]} [batch, height, width]",
            "metrics.importance makes one of an attribution",
        )
    return images, score, checked_maps("importance", importance)


def _checked_pair(importance: Any, mask: Any) -> tuple[Importance, Mask]:
    importance = checked_maps("importance", importance, dimensions=3)
    mask = mask if isinstance(mask, jax.Array) else np.asarray(mask)
    if mask.shape != importance.shape:
        raise FaceflaxError("mask", mask.shape, f"shape {{}} is not that of importance {importance.shape}")
    if mask.dtype != bool:
        if isinstance(mask, jax.core.Tracer):
            raise FaceflaxError("mask", mask.dtype, "is not bool", "give mask > 0.5, or whatever makes it so")
        odd = np.asarray(mask)[(mask != 0) & (mask != 1)]
        if odd.size:
            remedy = "give the pixels that should matter as booleans, such as mask > 127"
            raise FaceflaxError("mask", odd.flat[0], "its value {} is neither 0 nor 1", remedy)
    return importance, jnp.asarray(mask, bool)


def _unit(values: Array, axis: int | tuple[int, ...]) -> Array:
    """Values with a largest magnitude of one along axes, so that no square or sum of them is lost; zeros stay."""
    largest = jnp.abs(values).max(axis, keepdims=True)
    return values / jnp.where(largest > 0, largest, 1)


def _check_outputs(model: Model, variables: Any, images: Images, score: Any, outputs: str | None) -> None:
    """Raises if it is said wrongly, or not at all, what a model's outputs are; only values that are known are read."""
    if outputs is not None:
        if outputs not in OUTPUTS:
            raise unknown("outputs", outputs, OUTPUTS)
        return
    if score.layer is not None or isinstance(images, jax.core.Tracer):
        return
    answers = apply(model, variables, images)[0]
    if isinstance(answers, jax.core.Tracer) or answers.shape[1] < 2:
        return
    sums = np.asarray(answers.astype(jnp.float32).sum(1))
    alike = (answers >= 0).all() and np.allclose(sums, 1, atol=1e-3)
    if alike and not trace(model, variables, images, plain=True).gives_probabilities:
        raise FaceflaxError(
            "outputs",
            None,
            f"those of {type(model).__name__} are positive and sum to 1, as probabilities do, but are not made by "
            "jax.nn.softmax",
            f"give one of: {', '.join(OUTPUTS)}",
        )


def _probabilities(answers: Logits, outputs: str) -> Logits:
    answers = answers.astype(jnp.promote_types(answers.dtype, jnp.float32))
    if outputs == "probabilities":
        return answers
    return jax.nn.sigmoid(answers) if outputs == "labels" or answers.shape[1] == 1 else jax.nn.softmax(answers)


@partial(jax.jit, static_argnames=("model", "steps", "outputs"))
def _replacement_curve(
    model: Model,
    variables: Any,
    start: Images,
    end: Images,
    score: Any,
    importance: Importance,
    steps: int,
    outputs: str | None,
) -> Float[Array, "batch points"]:
    """The class's probability while the pixels of ``start`` become those of ``end``, most important first."""
    if outputs is None:
        ends = trace(model, variables, start, plain=True).gives_probabilities
        outputs = "probabilities" if ends else "logits"
    flat = importance.reshape(importance.shape[0], -1)
    count = flat.shape[1]
    shuffle = jax.random.permutation(jax.random.key(0), count)  # a stable sort of raster order would favour the top
    order = shuffle[jnp.argsort(-flat[:, shuffle], axis=1, stable=True)]
    rank = jnp.argsort(order, axis=1).reshape(importance.shape)[..., None]

    def probability(replaced: Array) -> Each:
        logits, features = apply(model, variables, jnp.where(rank < replaced, end, start))
        return score.of(_probabilities(logits, outputs), features)

    return jax.lax.map(probability, jnp.round(jnp.linspace(0, count, steps + 1))).T


@partial(jax.jit, static_argnames=("model", "perturb", "samples"))
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


@partial(jax.jit, static_argnames=("method", "model", "samples"))
def _max_sensitivity(
    method: Method,
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    key: PRNGKeyArray,
    radius: float,
    samples: int,
) -> Each:
    def maps(images: Images) -> Images:
        made = method(model, variables, images, target)
        return made.astype(jnp.promote_types(made.dtype, jnp.float32))

    here = maps(images)
    scale = jnp.abs(here).max((1, 2, 3), keepdims=True)
    scale = jnp.where(scale == 0, 1, scale)

    def norm(maps: Images) -> Each:
        return jnp.sqrt(((maps / scale) ** 2).sum((1, 2, 3)))

    def moved(key: PRNGKeyArray) -> Each:
        change = jax.random.uniform(key, images.shape, images.dtype, -radius, radius)
        return norm(maps(images + change) - here)

    farthest = jax.lax.map(moved, jax.random.split(key, samples)).max(0)
    return jnp.where(farthest == 0, 0, farthest / norm(here))
