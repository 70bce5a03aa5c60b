"""Training: configuration, the jitted step, the loop with its checkpoints and logs, and distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faceflax.lazy import attach

if TYPE_CHECKING:
    from faceflax.training.config import Precision, TrainConfig
    from faceflax.training.fitting import Trainer, cosine, take_matching
    from faceflax.training.loop import train
    from faceflax.training.targets import make_targets

__all__ = ["Precision", "TrainConfig", "Trainer", "cosine", "make_targets", "take_matching", "train"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "config": ("Precision", "TrainConfig"),
        "fitting": ("Trainer", "cosine", "take_matching"),
        "loop": ("train",),
        "targets": ("make_targets",),
    },
)
