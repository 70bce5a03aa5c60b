"""Sanity checks of attribution methods: does a map change when what the network has learned is taken away?

Adebayo, Gilmer, Muelly, Goodfellow, Hardt and Kim, "Sanity Checks for Saliency Maps", NeurIPS 2018 (arXiv:1810.03292):
a map that stays the same when the weights become random, or when the network was trained on shuffled labels, cannot
explain what the network has learned.

Maps are compared by their magnitudes, summed over channels, as in the paper: by structure
(:attr:`Similarity.ssim`) and by the order of the pixels (:attr:`Similarity.rank_correlation`). Lower is better: less of
the map is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from faceflax.errors import FaceflaxError
from interpret.attribution import Method, answer_shapes, check_maps, checked_images
from interpret.combinators import smooth_grad
from interpret.graph import Images, Model, trace
from interpret.metrics import entropy
from interpret.targets import Target, as_score

Maps = Float[np.ndarray, "batch height width"]
Each = Float[np.ndarray, " batch"]

WINDOW = 11
"""Pixels a side of the window of :func:`ssim`."""

SIGMA = 1.5
"""Standard deviation of that window, in pixels."""


@dataclass(frozen=True)
class Similarity:
    """How alike two maps of each image are.

    Attributes:
        ssim: see :func:`ssim`.
        rank_correlation: see :func:`rank_correlation`.
    """

    ssim: Each
    rank_correlation: Each


def compare(first: Images, second: Images) -> Similarity:
    """Compares two attributions of the same images, by magnitude.

    Args:
        first: what a method returned, ``[batch, height, width, channels]``.
        second: another, of the same shape.

    Raises:
        FaceflaxError: shapes that differ or are too small for :func:`ssim`, or maps with NaN or infinity.
    """
    for name, attribution in (("first", first), ("second", second)):
        check_maps(name, attribution, dimensions=4)
    maps = [np.abs(np.asarray(attribution, np.float64)).sum(-1) for attribution in (first, second)]
    return Similarity(ssim(*maps), rank_correlation(*maps))


def ssim(first: Maps, second: Maps) -> Each:
    """Structural similarity of two maps, each divided by its maximum: at most 1, which is equal; around 0, unrelated.

    The mean over the windows that lie inside of ``(2 m n + c) (2 cov + d) / ((m^2 + n^2 + c) (var + var' + d))``, where
    ``m`` and ``n`` are the two maps' means in the window, ``c = 0.01^2`` and ``d = 0.03^2``. Wang, Bovik, Sheikh and
    Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE Transactions on Image
    Processing 2004, with their Gaussian window of 11 pixels. Two maps that are both near zero almost everywhere are
    alike there: sparse maps score high.

    Args:
        first: maps, zero or positive.
        second: other maps, of the same shape.

    Raises:
        FaceflaxError: shapes that differ, or maps of fewer than 11 pixels a side or with NaN or infinity.

    Example:
        >>> map = np.random.default_rng(0).random((1, 16, 16))
        >>> print(ssim(map, 3 * map))
        [1.]
    """
    first, second = _checked(first, second)
    if min(first.shape[1:]) < WINDOW:
        raise FaceflaxError(
            "first", first.shape[1:], "maps of {} pixels are too small", f"give {WINDOW} a side or more"
        )

    def scaled(maps: Maps) -> Maps:
        highest = maps.max((1, 2), keepdims=True)
        return maps / np.where(highest > 0, highest, 1)

    border = WINDOW // 2  # scikit-image has this measure as well, but is not among faceflax's dependencies

    def mean(maps: Maps) -> Maps:
        smooth = gaussian_filter(maps, (0, SIGMA, SIGMA), radius=(0, border, border))
        return smooth[:, border:-border, border:-border]

    one, other = scaled(first), scaled(second)
    m, n = mean(one), mean(other)
    variances, covariance = mean(one**2 + other**2) - m**2 - n**2, mean(one * other) - m * n
    c, d = 0.01**2, 0.03**2
    likeness = (2 * m * n + c) * (2 * covariance + d) / ((m**2 + n**2 + c) * (variances + d))
    return likeness.mean((1, 2))


def rank_correlation(first: Maps, second: Maps) -> Each:
    """Spearman's correlation of two maps: in [-1, 1]; 1 is the same order of pixels, 0 unrelated.

    A constant map orders nothing: it has correlation 0 with any other map, and 1 with another constant one.

    Args:
        first: maps.
        second: other maps, of the same shape.

    Raises:
        FaceflaxError: shapes that differ, or maps with NaN or infinity.

    Example:
        >>> map = np.random.default_rng(0).random((1, 16, 16))
        >>> print(rank_correlation(map, map**3), rank_correlation(map, -map))
        [1.] [-1.]
    """
    first, second = _checked(first, second)
    pairs = zip(first.reshape(len(first), -1), second.reshape(len(second), -1), strict=True)
    return np.array([_spearman(*pair) for pair in pairs])


def _spearman(first: Float[np.ndarray, " pixels"], second: Float[np.ndarray, " pixels"]) -> float:
    constant = np.ptp(first) == 0, np.ptp(second) == 0
    return float(all(constant)) if any(constant) else spearmanr(first, second).statistic


def shuffled(variables: Any, *, key: PRNGKeyArray) -> Any:
    """Variables whose every floating point array holds the same numbers in random places.

    What was learned is gone, each layer's scale stays, and no initialiser is needed, so it works for any model. Freshly
    initialised variables (``model.init`` with another key) are the paper's choice, and serve as well.

    Args:
        variables: a pytree of arrays.
        key: of the order.

    Example:
        >>> print(shuffled({"params": np.arange(4.0)}, key=jax.random.key(0)))
        {'params': array([2., 0., 1., 3.])}
    """
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))

    def shuffle(leaf: Any) -> Any:
        return generator.permuted(np.asarray(leaf)) if jax.numpy.issubdtype(leaf.dtype, np.floating) else leaf

    return jax.tree.map(shuffle, variables)


def layers(model: Model, variables: Any, images: Images) -> list[str]:
    """The names of a model's layers, from output to input: the reverse of the order in which they are first used.

    A layer is what has a name of its own at the top of the variables, in all collections: ``block1`` of
    ``variables["params"]["block1"]`` and ``variables["batch_stats"]["block1"]``, or of an NNX module's state; in lists
    and tuples its number.

    Args:
        model: as the methods take it.
        variables: its variables.
        images: ``[batch, height, width, channels]``.
    """
    graph = trace(model, variables, checked_images(images))
    names = jax.tree.leaves(_layer_names(variables))
    layer = dict(zip(range(graph.images - len(names), graph.images), names, strict=True))  # slots before the images'
    read = (slot for operation in graph.operations for slot in operation.inputs if isinstance(slot, int))
    return list(dict.fromkeys(layer[slot] for slot in read if slot in layer))[::-1]


def cascade(variables: Any, random: Any, layers: list[str]) -> Iterator[tuple[str, Any]]:
    """Makes one layer after another random, and keeps those before random.

    Args:
        variables: of a trained model.
        random: variables of the same structure (:func:`shuffled`, or ``model.init``).
        layers: which, in order (:func:`layers`).

    Yields:
        The name of the layer that has just become random, and the variables.
    """
    names = _layer_names(variables)
    for i, layer in enumerate(layers):
        done = layers[: i + 1]
        chosen = jax.tree.map(
            lambda name, learned, drawn, done=done: drawn if name in done else learned, names, variables, random
        )
        yield layer, chosen


def cascading_randomization(
    method: Method, model: Model, variables: Any, random: Any, images: Images, target: Target
) -> dict[str, Similarity]:
    """How much of the maps is left when the layers become random one after another, from output to input.

    Adebayo et al., NeurIPS 2018, section 4.1. The target stays what it was.

    Args:
        method: an attribution method.
        model: as the methods take it.
        variables: its trained variables.
        random: what the layers' variables become: :func:`shuffled` ones, or the model's initial ones.
        images: ``[batch, height, width, channels]``, as the model takes them.
        target: what the method explains.

    Returns:
        For each layer, in the order in which they become random, the maps' similarity to those of the trained model.

    Example:
        >>> import interpret, jax.numpy as jnp, flax.linen as nn
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, images, train=False):
        ...         first = nn.relu(nn.Conv(4, (3, 3), name="first")(images))
        ...         return nn.Conv(2, (3, 3), name="second")(first).mean((1, 2)), {"last_conv": first}
        >>> images = jax.random.normal(jax.random.key(0), (1, 16, 16, 1))
        >>> trained = Net().init(jax.random.key(1), images)
        >>> random = shuffled(trained, key=jax.random.key(2))
        >>> list(cascading_randomization(interpret.gradient, Net(), trained, random, images, 0))
        ['second', 'first']
    """
    before = method(model, variables, images, target)
    steps = cascade(variables, random, layers(model, variables, images))
    return {layer: compare(before, method(model, drawn, images, target)) for layer, drawn in steps}


def smooth_cascading_randomization(
    method: Method,
    model: Model,
    variables: Any,
    random: Any,
    images: Images,
    target: Target,
    *,
    samples: int = 10,
    noise: float = 0.05,
) -> dict[str, Similarity]:
    """Smooth MPRT: :func:`cascading_randomization` of maps that are means over noisy copies of the image.

    So that the gradient's own noise does not pass for dependence on the weights. Hedström, Weber, Lapuschkin and Höhne,
    "Sanity Checks Revisited: An Exploration to Repair the Model Parameter Randomisation Test", 2023 (arXiv:2401.06465).

    Args:
        method: as in :func:`cascading_randomization`.
        model: as in :func:`cascading_randomization`.
        variables: as in :func:`cascading_randomization`.
        random: as in :func:`cascading_randomization`.
        images: as in :func:`cascading_randomization`.
        target: as in :func:`cascading_randomization`.
        samples: as in :func:`~interpret.combinators.smooth_grad`.
        noise: as in :func:`~interpret.combinators.smooth_grad`.

    Raises:
        FaceflaxError: as the method, no samples, or negative noise.
    """
    smooth = smooth_grad(method, samples=samples, noise=noise)
    return cascading_randomization(smooth, model, variables, random, images, target)


def efficient_randomization(
    method: Method, model: Model, variables: Any, random: Any, images: Images, target: Target
) -> Each:
    """Efficient MPRT: how much more spread out the maps of an all random network are: higher is better.

    ``(H(A') - H(A)) / H(A)`` with the entropy ``H`` of the maps (:func:`interpret.metrics.entropy`) of the trained and
    the random network: an explanation of chance should be the more complex one. Nothing is compared pixel by pixel.
    Hedström et al., 2023 (arXiv:2401.06465). 0 where both maps are one pixel alone; infinity where the first is.

    Args:
        method: as in :func:`cascading_randomization`.
        model: as in :func:`cascading_randomization`.
        variables: as in :func:`cascading_randomization`.
        random: as in :func:`cascading_randomization`.
        images: as in :func:`cascading_randomization`.
        target: as in :func:`cascading_randomization`.

    Raises:
        FaceflaxError: as the method, or maps with NaN or infinity.
    """
    before, after = (np.asarray(entropy(method(model, v, images, target)), np.float64) for v in (variables, random))
    rise = after - before
    grown = np.divide(rise, before, where=before > 0, out=np.full_like(rise, np.inf))
    return np.where(rise == 0, 0, grown)


def random_logit(
    method: Method, model: Model, variables: Any, images: Images, target: Any, *, key: PRNGKeyArray
) -> Similarity:
    """How alike the maps of the target and of another class, drawn at random, are: lower is better.

    Sixt, Granz and Landgraf, "When Explanations Lie: Why Many Modified BP Attributions Fail", ICML 2020
    (arXiv:1912.09818). A map that is the same for all classes explains none.

    Args:
        method: an attribution method.
        model: as the methods take it.
        variables: its variables.
        images: ``[batch, height, width, channels]``, as the model takes them.
        target: a class, for all images or one for each.
        key: of the other classes.

    Raises:
        FaceflaxError: as the method, a target that is no class, or a network of one class.
    """
    images = checked_images(images)
    logits, features = answer_shapes(model, variables, images)
    classes = logits.shape[1]
    if classes < 2:
        raise FaceflaxError("model", classes, "has {} class", "random_logit needs another to compare with")
    chosen = np.asarray(target)
    if chosen.dtype.kind not in "iu":
        raise FaceflaxError("target", None, f"{target!r} is no class", "give one for all images, or one for each")
    as_score(target, "last_conv", logits, features)
    step = np.asarray(jax.random.randint(key, (len(images),), 1, classes))
    other = (np.broadcast_to(chosen, len(images)) + step) % classes
    return compare(method(model, variables, images, target), method(model, variables, images, other))


def label_randomization(
    method: Method, model: Model, variables: Any, random_labels: Any, images: Images, target: Target
) -> Similarity:
    """How alike the maps of a network are to those of the same network trained on shuffled labels.

    Adebayo et al., NeurIPS 2018, section 4.2. Two networks trained alike from different seeds have different maps too:
    compare with these (``python -m interpret.ground_truth`` does).

    Args:
        method: an attribution method.
        model: as the methods take it.
        variables: trained on the true labels.
        random_labels: trained on shuffled ones.
        images: ``[batch, height, width, channels]``, as the model takes them; of the test split.
        target: what the method explains.
    """
    return compare(method(model, variables, images, target), method(model, random_labels, images, target))


def _layer_names(variables: Any) -> Any:
    """For each leaf its layer: its first name, or in Linen's collections the name below."""
    depth = 1 if isinstance(variables, Mapping) and "params" in variables else 0

    def name(path: Any, leaf: Any) -> str:
        at = min(depth, len(path) - 1)
        return jax.tree_util.keystr(path[at : at + 1], simple=True)

    return jax.tree_util.tree_map_with_path(name, variables)


def _checked(first: Any, second: Any) -> tuple[Maps, Maps]:
    if np.shape(first) != np.shape(second) or np.ndim(first) != 3:
        raise FaceflaxError(
            "second", np.shape(second), f"shape {{}} is not that of first {np.shape(first)} [batch, height, width]"
        )
    for name, maps in (("first", first), ("second", second)):
        check_maps(name, maps)
    return np.asarray(first, np.float64), np.asarray(second, np.float64)
