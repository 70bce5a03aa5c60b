"""How good weights are: metrics, intervals, calibration, faces as the detector cuts them out, the report page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faceflax.lazy import attach

if TYPE_CHECKING:
    from faceflax.evaluation.calibration import Calibration, calibrate, fit_temperature, sure_from
    from faceflax.evaluation.metrics import Evaluation, evaluate, predict_logits
    from faceflax.evaluation.shares import Share, group_shares, worst

__all__ = [
    "Calibration",
    "Evaluation",
    "Share",
    "calibrate",
    "evaluate",
    "fit_temperature",
    "group_shares",
    "predict_logits",
    "sure_from",
    "worst",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "calibration": ("Calibration", "calibrate", "fit_temperature", "sure_from"),
        "metrics": ("Evaluation", "evaluate", "predict_logits"),
        "shares": ("Share", "group_shares", "worst"),
    },
)
