"""Localisation: whether a map is where it should be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from interpret.metrics.common import Each, Importance, Mask, checked_pair, unit


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
    return _pointing_game(*checked_pair(importance, mask))


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
    return _energy_inside(*checked_pair(importance, mask))


@jax.jit
def _energy_inside(importance: Importance, mask: Mask) -> Each:
    positive = unit(jnp.maximum(importance, 0), (1, 2))
    inside, whole = (positive * mask).sum((1, 2)), positive.sum((1, 2))
    return jnp.where(whole > 0, inside / jnp.where(whole > 0, whole, 1), mask.mean((1, 2)))


def attribution_localisation(importance: Importance, mask: Mask | np.ndarray) -> Each:
    """How much denser a map's positive importance is where it should be than in the whole image; higher is better.

    :func:`energy_inside` over the mask's share of the image: 1 for an even map, up to one over that share. Kohlbrenner,
    Bauer, Nakajima, Binder, Samek and Lapuschkin, "Towards Best Practice in Explaining Neural Network Decisions with
    LRP", IJCNN 2020 (arXiv:1910.09840), weighted by size. An empty mask, which nothing can be inside of, scores 1.

    Args:
        importance: how much each pixel matters (:func:`interpret.metrics.importance`).
        mask: as in :func:`pointing_game`.

    Raises:
        FaceflaxError: as in :func:`pointing_game`.

    Example:
        >>> mask = jnp.array([[[True, False, False, False]]])
        >>> print(attribution_localisation(jnp.array([[[3.0, 1.0, -2.0, 0.0]]]), mask))
        [3.]
    """
    importance, mask = checked_pair(importance, mask)
    share = mask.mean((1, 2))
    return jnp.where(share > 0, _energy_inside(importance, mask) / jnp.where(share > 0, share, 1), 1)


def localisation_auc(importance: Importance, mask: Mask | np.ndarray) -> Each:
    """How well a map tells the pixels that should matter from the others, in [0, 1]; higher is better.

    The area under the ROC curve: how often a pixel of the mask is above one beside it, equal ones counted half. An even
    map scores 0.5, and so does any where the mask is empty or the whole image. Fawcett, "An introduction to ROC
    analysis", Pattern Recognition Letters 2006.

    Args:
        importance: how much each pixel matters (:func:`interpret.metrics.importance`).
        mask: as in :func:`pointing_game`.

    Raises:
        FaceflaxError: as in :func:`pointing_game`.

    Example:
        >>> mask = jnp.array([[[True, True, False, False]]])
        >>> print(localisation_auc(jnp.array([[[3.0, 1.0, 1.0, 0.0]]]), mask))
        [0.875]
    """
    return _auc(*checked_pair(importance, mask))


@jax.jit
def _auc(importance: Importance, mask: Mask) -> Each:
    def one(values: Importance, inside: Mask) -> Each:
        ordered = jnp.sort(values)
        below, not_above = (jnp.searchsorted(ordered, values, side=side) for side in ("left", "right"))
        rank = (below + not_above + 1) / 2
        count = inside.sum()
        wins = (rank * inside).sum() - count * (count + 1) / 2
        pairs = count * (inside.size - count)
        return jnp.where(pairs > 0, wins / jnp.where(pairs > 0, pairs, 1), 0.5)

    flat = (x.reshape(x.shape[0], -1) for x in (importance, mask))
    return jax.vmap(one)(*flat)


def relevance_rank_accuracy(importance: Importance, mask: Mask | np.ndarray) -> Each:
    """The share of the highest pixels, as many as the mask has, that lie in it: in [0, 1]; higher is better.

    A random map scores the mask's share of the image. Of pixels as high as the last that counts, each counts by the
    chance that it is among them; an empty mask scores 0. Arras, Osman and Samek, "CLEVR-XAI", Information Fusion 2022
    (arXiv:2003.07258).

    Args:
        importance: how much each pixel matters (:func:`interpret.metrics.importance`).
        mask: as in :func:`pointing_game`.

    Raises:
        FaceflaxError: as in :func:`pointing_game`.

    Example:
        >>> mask = jnp.array([[[True, True, False, False]]])
        >>> print(relevance_rank_accuracy(jnp.array([[[3.0, 1.0, 2.0, 0.0]]]), mask))
        [0.5]
    """
    return _rank_accuracy(*checked_pair(importance, mask))


@jax.jit
def _rank_accuracy(importance: Importance, mask: Mask) -> Each:
    def one(values: Importance, inside: Mask) -> Each:
        count = inside.sum()
        last = jnp.sort(values)[::-1][jnp.maximum(count - 1, 0)]
        above, equal = values > last, values == last
        chance = (count - above.sum()) / equal.sum()
        return jnp.where(count > 0, ((above + chance * equal) * inside).sum() / jnp.maximum(count, 1), 0)

    flat = (x.reshape(x.shape[0], -1) for x in (importance, mask))
    return jax.vmap(one)(*flat)
