"""Complexity: how many pixels a map is made of. Few is not true."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from interpret.attribution import at_least, checked_maps
from interpret.metrics.common import Each, unit


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
    rising = unit(jnp.sort(jnp.abs(attribution.reshape(attribution.shape[0], -1)), axis=1), 1)
    count = rising.shape[1]
    shares = rising / jnp.maximum(rising.sum(1, keepdims=True), 1)  # the largest is 1, or all are 0
    weights = 2 * (count - jnp.arange(1, count + 1, dtype=rising.dtype) + 0.5) / count
    return jnp.where(rising[:, -1] > 0, 1 - (shares * weights[None]).sum(1), 0)


def entropy(attribution: Float[Array, "batch ..."]) -> Each:
    """Spread: the entropy of a map's magnitudes as shares of their sum, in [0, log d]; lower is sparser, not truer.

    ``- sum_k p_k log p_k`` with ``p = |a| / |a|_1``. Bhatt, Weller and Moura, "Evaluating and Aggregating Feature-based
    Model Explanations", IJCAI 2020 (arXiv:2005.00631), who call it complexity. A map of zeros counts as even: ``log
    d``.

    Args:
        attribution: any array with a batch first.

    Raises:
        FaceflaxError: it holds NaN or infinity.

    Example:
        >>> print(entropy(jnp.array([[1.0, 1.0, -1.0, 1.0], [0.0, 0.0, 5.0, 0.0]])).round(3))
        [1.386 0.   ]
    """
    return _entropy(checked_maps("attribution", attribution))


@jax.jit
def _entropy(attribution: Float[Array, "batch ..."]) -> Each:
    sizes = unit(jnp.abs(attribution.reshape(attribution.shape[0], -1)), 1)
    sums = sizes.sum(1, keepdims=True)
    shares = jnp.where(sums > 0, sizes / jnp.where(sums > 0, sums, 1), 1 / sizes.shape[1])
    return 0 - jax.scipy.special.xlogy(shares, shares).sum(1)


def effective_complexity(attribution: Float[Array, "batch ..."], *, threshold: float = 0.01) -> Each:
    """How many values of a map are not negligible, as a share of all: in [0, 1]; lower is sparser, not truer.

    The share whose magnitude is above ``threshold`` of the map's largest. Nguyen and Martínez, "On quantitative aspects
    of model interpretability", 2020 (arXiv:2007.07584), who count by an absolute threshold, which depends on the map's
    scale. A map of zeros scores 0.

    Args:
        attribution: any array with a batch first.
        threshold: a share of the largest magnitude.

    Raises:
        FaceflaxError: it holds NaN or infinity, or a threshold out of [0, 1].

    Example:
        >>> print(effective_complexity(jnp.array([[100.0, 0.5, -2.0, 0.0]])))
        [0.5]
    """
    at_least("threshold", threshold, 0, 1)
    maps = checked_maps("attribution", attribution)
    sizes = unit(jnp.abs(maps.reshape(maps.shape[0], -1)), 1)
    return (sizes > threshold).mean(1)
