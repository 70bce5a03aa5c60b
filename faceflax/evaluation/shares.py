"""Shares of images, with their intervals, and how they differ between groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Share:
    """``right`` of ``count``; it prints as a percentage with its interval.

    Example:
        >>> print(Share(75, 100))
        75.00% [66.00%, 83.00%]
    """

    right: int
    count: int

    @classmethod
    def of(cls, right: Bool[np.ndarray, " n"]) -> Share:
        """Counts what is true."""
        return cls(int(right.sum()), right.size)

    @property
    def value(self) -> float:
        """The share, in [0, 1]; 0 of nothing is 0."""
        return self.right / max(self.count, 1)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% percentile bootstrap interval, in its limit of infinitely many resamples; nothing gives [0, 1].

        Resampling ``count`` outcomes of which ``right`` are 1, with replacement, gives a binomially distributed number
        of ones, whose quantiles need no random numbers. Efron and Tibshirani, "An Introduction to the Bootstrap", 1993.
        """
        if self.count == 0:
            return 0.0, 1.0
        from scipy.stats import binom

        low, high = binom.ppf([0.025, 0.975], self.count, self.value) / self.count
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.2%} [{low:.2%}, {high:.2%}]"


def group_shares(
    right: Bool[np.ndarray, " n"], names: Sequence[str], members: Int[np.ndarray, " n"]
) -> dict[str, Share]:
    """Returns the share that is right in each group that has any example.

    Args:
        right: whether each example was labelled right.
        names: the groups.
        members: for each example, an index into ``names``.

    Example:
        >>> group_shares(np.array([True, False, True]), ["young", "old"], np.array([0, 0, 1]))
        {'young': Share(right=1, count=2), 'old': Share(right=1, count=1)}
    """
    right_counts, counts = np.bincount(members, right, len(names)), np.bincount(members, minlength=len(names))
    return {name: Share(int(k), int(n)) for name, k, n in zip(names, right_counts, counts, strict=True) if n}


def worst(groups: Mapping[str, Share]) -> tuple[str, float]:
    """Returns the group of the lowest share and how far it lies below that of all groups together.

    Example:
        >>> name, gap = worst({"young": Share(9, 10), "old": Share(7, 10)})
        >>> print(name, f"{gap:.2f}")
        old 0.10
    """
    everything = Share(sum(s.right for s in groups.values()), sum(s.count for s in groups.values()))
    name = min(groups, key=lambda name: groups[name].value)
    return name, everything.value - groups[name].value
