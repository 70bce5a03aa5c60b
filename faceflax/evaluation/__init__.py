"""How good weights are: metrics, intervals, calibration, faces as the detector cuts them out, the report page."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from faceflax.errors import needing_extras

if TYPE_CHECKING:
    from faceflax.evaluation.calibration import Calibration, calibrate, fit_temperature
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
    "worst",
]

_HOMES = {
    "faceflax.evaluation.calibration": ("Calibration", "calibrate", "fit_temperature"),
    "faceflax.evaluation.metrics": ("Evaluation", "evaluate", "predict_logits"),
    "faceflax.evaluation.shares": ("Share", "group_shares", "worst"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            with needing_extras():
                return getattr(import_module(module), name)
    raise AttributeError(f"module 'faceflax.evaluation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
