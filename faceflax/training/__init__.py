"""Training: configuration, the jitted step, the loop with its checkpoints and logs, and distillation."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from faceflax.errors import needing_extras

if TYPE_CHECKING:
    from faceflax.training.config import Precision, TrainConfig
    from faceflax.training.fitting import Trainer, cosine, take_matching
    from faceflax.training.loop import train
    from faceflax.training.targets import make_targets

__all__ = ["Precision", "TrainConfig", "Trainer", "cosine", "make_targets", "take_matching", "train"]

_HOMES = {
    "faceflax.training.config": ("Precision", "TrainConfig"),
    "faceflax.training.fitting": ("Trainer", "cosine", "take_matching"),
    "faceflax.training.loop": ("train",),
    "faceflax.training.targets": ("make_targets",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            with needing_extras():
                return getattr(import_module(module), name)
    raise AttributeError(f"module 'faceflax.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
