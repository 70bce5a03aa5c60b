"""One file a result: its configuration, the command that makes it, and the number it made."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from faceflax.training.config import TrainConfig


def train(config: TrainConfig) -> None:
    """Trains as an experiment's configuration says and prints where the weights are."""
    from faceflax import training

    print(f"weights: {training.train(config)}")


def train_stages(before: Sequence[TrainConfig], config: TrainConfig) -> None:
    """Trains the stages that are not there yet, with ``config``'s data and precision, and then ``config`` itself."""
    for stage in before:
        if not (stage.folder / "weights.safetensors").exists():
            started = (stage.folder / "config.json").exists()
            train(dataclasses.replace(stage, data_dir=config.data_dir, precision=config.precision, resume=started))
    train(config)
