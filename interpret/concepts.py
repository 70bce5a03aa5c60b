"""Concepts: how a class depends on a direction in a layer that examples of a concept give (TCAV)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.stats import ttest_1samp, ttest_ind

from faceflax.errors import FaceflaxError
from interpret.attribution import answer_shapes, apply, at_least, checked_images
from interpret.graph import Images, Model
from interpret.layers import inside
from interpret.targets import Target, as_score, checked_layer


@dataclasses.dataclass(frozen=True)
class Concept:
    """What :func:`tcav` returns.

    Attributes:
        score: the share of images whose score rises along the concept, the mean over the random sets; 0.5 says nothing.
        scores: that of each random set.
        accuracy: how well the concept's examples are told from each random set's, on every fifth example, which the
            direction was not fitted to.
        p_value: of the two-sided t-test that the scores are those of random directions; NaN for one random set.
    """

    score: float
    scores: Float[np.ndarray, " sets"]
    accuracy: Float[np.ndarray, " sets"]
    p_value: float


def concept_direction(
    positive: Float[np.ndarray, "n ..."], negative: Float[np.ndarray, "m ..."], *, penalty: float = 0.01
) -> Float[np.ndarray, "..."]:
    """The direction in a layer from activations without a concept to those with it.

    The unit normal of the plane that logistic regression puts between them, with ``penalty / 2`` times the squared
    length of its weights added to the mean loss.

    Args:
        positive: activations of examples, a batch first.
        negative: activations of others.
        penalty: what holds the weights back.

    Returns:
        A direction of one activation's shape, of length 1.

    Example:
        >>> print(concept_direction(np.array([[2.0, 0.1], [2.0, -0.1]]), np.array([[0.0, 0.1], [0.0, -0.1]])).round(3))
        [1. 0.]
    """
    at_least("penalty", penalty, 1e-9)
    rows = np.concatenate([np.asarray(x, np.float64).reshape(len(x), -1) for x in (positive, negative)])
    signs = np.repeat([1.0, -1.0], [len(positive), len(negative)])
    spread = rows.std() or 1.0
    scaled = (rows - rows.mean(0)) / spread

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (scaled @ weights[:-1] + weights[-1])
        slope = -signs / (1 + np.exp(np.clip(margins, -50, 50))) / len(signs)
        gradient = np.append(scaled.T @ slope + penalty * weights[:-1], slope.sum())
        return np.logaddexp(0, -margins).mean() + penalty / 2 * (weights[:-1] ** 2).sum(), gradient

    weights = minimize(loss, np.zeros(rows.shape[1] + 1), jac=True, method="L-BFGS-B").x[:-1]
    length = np.linalg.norm(weights)
    return (weights / (length or 1.0)).reshape(np.shape(positive)[1:])


def tcav(
    model: Model,
    variables: Any,
    images: Images,
    target: Target,
    *,
    layer: str,
    concept: Images,
    random: list[Images],
    penalty: float = 0.01,
) -> Concept:
    """TCAV: the share of a class's images whose score rises when a layer moves towards a concept.

    For each of several ``random`` sets of images, ``S = share of images with v . d s / d y > 0``, where ``v`` points in
    layer ``y`` from the random set to the concept's examples (:func:`concept_direction`). The p-value compares these
    with the scores of directions from one random set to another: a concept that is not told from chance is none. Kim et
    al., "Interpretability Beyond Feature Attribution: Quantitative Testing with Concept Activation Vectors", ICML 2018
    (arXiv:1711.11279). Misleads: the direction is of whatever the examples share, their background too; and its sign
    says nothing of size.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: of the class.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: a name in ``features`` that leads to the score.
        concept: images of the concept, five or more.
        random: sets of images that have nothing in common, five or more in each.
        penalty: as in :func:`concept_direction`.

    Raises:
        FaceflaxError: as in :func:`~interpret.layers.layer_conductance`, no random sets, or too few images.

    Example:
        >>> import flax.linen as nn
        >>> class Brightness(nn.Module):
        ...     def __call__(self, images, train=False):
        ...         return images.mean((1, 2)), {"pixels": images}
        >>> draw = np.random.default_rng(0).normal(size=(4, 10, 2, 2, 1)).astype(np.float32)
        >>> found = tcav(Brightness(), {}, draw[0], 0, layer="pixels", concept=draw[1] + 3, random=[*draw[2:]])
        >>> print(found.scores)
        [1. 1.]
    """
    images = checked_images(images)
    if not random:
        raise FaceflaxError("random", None, "holds no set of images", "give two or more, so that chance can be seen")
    for field, given in (("concept", concept), *(("random", each) for each in random)):
        if len(given) < 5:
            raise FaceflaxError(field, len(given), "{} images are too few to fit a direction", "give five or more")
    features = answer_shapes(model, variables, images)[1]
    checked_layer(layer, features)
    score = as_score(target, layer, *answer_shapes(model, variables, images))

    def activations(given: Images) -> np.ndarray:
        return np.asarray(apply(model, variables, checked_images(given))[1][layer], np.float64)

    network = inside(model, variables, images, score, layer)
    gradients = np.asarray(network.layer(network.gradient(images, network.unmoved)), np.float64)
    gradients = gradients.reshape(len(images), -1)
    examples, others = activations(concept), [activations(each) for each in random]

    def share(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
        held = [np.arange(len(x)) % 5 == 4 for x in (positive, negative)]
        direction = concept_direction(positive[~held[0]], negative[~held[1]], penalty=penalty).ravel()
        at = [x.reshape(len(x), -1) @ direction for x in (positive, negative)]
        middle = (at[0][~held[0]].mean() + at[1][~held[1]].mean()) / 2
        right = np.concatenate([at[0][held[0]] > middle, at[1][held[1]] <= middle])
        return float((gradients @ direction > 0).mean()), float(right.mean())

    found = np.array([share(examples, each) for each in others])
    chance = [share(a, b)[0] for i, a in enumerate(others) for j, b in enumerate(others) if i != j]
    return Concept(float(found[:, 0].mean()), found[:, 0], found[:, 1], _p_value(found[:, 0], np.array(chance)))


def _p_value(scores: np.ndarray, chance: np.ndarray) -> float:
    if len(scores) < 2:
        return float("nan")
    if np.ptp(scores) == 0 and np.ptp(chance) == 0:
        return float(scores[0] == chance[0])
    if np.ptp(scores) == 0:
        return float(ttest_1samp(chance, scores[0]).pvalue)
    return float(ttest_ind(scores, chance, equal_var=False).pvalue)
