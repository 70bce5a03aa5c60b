"""How good an attribution is, in numbers: faithful to the network, stable, concise, and where it should be.

Pure functions, one number for each image; those that run the network are compiled. Two kinds of map go in. An
*attribution* is what a method returns: signed, of the images' shape. Its *importance* (:func:`importance`) is one
number for each pixel, the higher the more it matters; metrics that rank pixels take that. Maps of half precision are
counted in float32, a map's scale does not matter but to :func:`infidelity`, and one with NaN or infinity is refused.

None of the numbers says alone that a map is right. A map that ignores the network altogether can be perfectly stable
and concise, so compare with a random map and an edge detector, as ``python -m interpret.benchmark`` does.
"""

from __future__ import annotations

from interpret.blur import blurred
from interpret.metrics.axiomatic import completeness, input_invariance
from interpret.metrics.common import Each, Importance, Mask, importance
from interpret.metrics.complexity import effective_complexity, entropy, gini
from interpret.metrics.faithfulness import (
    BLUR,
    OUTPUTS,
    GaussianNoise,
    SquareRemoval,
    area,
    deletion,
    deletion_curve,
    infidelity,
    insertion,
    insertion_curve,
)
from interpret.metrics.localisation import (
    attribution_localisation,
    energy_inside,
    localisation_auc,
    pointing_game,
    relevance_rank_accuracy,
)
from interpret.metrics.regions import irof, monotonicity, road, road_curve, selectivity, sufficiency
from interpret.metrics.robustness import (
    avg_sensitivity,
    continuity,
    max_sensitivity,
    relative_input_stability,
    relative_output_stability,
)

__all__ = [
    "BLUR",
    "OUTPUTS",
    "Each",
    "GaussianNoise",
    "Importance",
    "Mask",
    "SquareRemoval",
    "area",
    "attribution_localisation",
    "avg_sensitivity",
    "blurred",
    "completeness",
    "continuity",
    "deletion",
    "deletion_curve",
    "effective_complexity",
    "energy_inside",
    "entropy",
    "gini",
    "importance",
    "infidelity",
    "input_invariance",
    "insertion",
    "insertion_curve",
    "irof",
    "localisation_auc",
    "max_sensitivity",
    "monotonicity",
    "pointing_game",
    "relative_input_stability",
    "relative_output_stability",
    "relevance_rank_accuracy",
    "road",
    "road_curve",
    "selectivity",
    "sufficiency",
]
