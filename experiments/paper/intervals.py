"""95% intervals: over test images by the bootstrap, over seeds and images together by Student's t."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student

from experiments.paper.record import Number, Unit
from faceflax.evaluation import Share

RESAMPLES = 2000


def share(name: str, right: np.ndarray, over: str = "images") -> Number:
    """The share that is true, with the bootstrap interval of :class:`faceflax.evaluation.Share`.

    Example:
        >>> print(share("accuracy", np.repeat([True, False], [75, 25])))
        75.00 [66.00, 83.00]%
    """
    found = Share.of(np.asarray(right, bool))
    return Number(name, found.value, *found.interval, "%", f"bootstrap over {found.count:,} {over}")


def mean(name: str, values: Float[np.ndarray, " n"], unit: Unit = "", over: str = "images") -> Number:
    """The mean, with a percentile bootstrap interval; of paired differences this is the paired comparison.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993.

    Example:
        >>> number = mean("difference", np.tile([0.0, 1.0], 200))
        >>> print(number.value, 0.44 < number.low < 0.46, 0.54 < number.high < 0.56)
        0.5 True True
    """
    values = np.asarray(values, np.float64)
    rng = np.random.default_rng(0)
    draws = np.array([values[rng.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)])
    return Number(name, float(values.mean()), *_percentiles(draws), unit, f"bootstrap over {len(values):,} {over}")


def of_counts(
    name: str,
    counts: np.ndarray,
    statistic: Callable[[Float[np.ndarray, "n classes"]], Float[np.ndarray, " n"]],
    unit: Unit = "",
) -> Number:
    """A statistic of how images spread over classes, with a percentile bootstrap interval.

    Args:
        name: what is measured.
        counts: images given each class.
        statistic: of shares ``[n, classes]``.
        unit: of the number.
    """
    total = int(counts.sum())
    shares = counts / max(total, 1)
    draws = np.random.default_rng(0).multinomial(total, shares, RESAMPLES) / max(total, 1)
    value = float(statistic(shares[None])[0])
    return Number(name, value, *_percentiles(statistic(draws)), unit, f"bootstrap over {total:,} images")


def over_seeds(name: str, values: Float[np.ndarray, "seeds n"], unit: Unit = "points") -> Number:
    """The mean of numbers that vary from seed to seed and from image to image, such as paired differences.

    Student's interval with ``seeds - 1`` degrees of freedom; its variance is that of the seeds' means over the number
    of seeds, plus that of the images' means over the number of images. The second is in part in the first already, so
    the interval is rather too wide than too narrow.

    Args:
        name: what is measured.
        values: of each seed (two or more) and image.
        unit: of the number.
    """
    values = np.asarray(values, np.float64)
    seeds, images = values.shape
    variance = values.mean(1).var(ddof=1) / seeds + values.mean(0).var(ddof=1) / images
    half = float(student.ppf(0.975, seeds - 1) * np.sqrt(variance))
    value = float(values.mean())
    low, high = value - half, value + half
    if unit == "%":
        low, high = max(low, 0.0), min(high, 1.0)
    return Number(name, value, low, high, unit, f"t over {seeds} seeds and {images:,} images")


def _percentiles(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
