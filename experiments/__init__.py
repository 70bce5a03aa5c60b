"""One file a result: its configuration, the command that makes it, and the number it made."""

from __future__ import annotations

from faceflax.training.config import TrainConfig


def train(config: TrainConfig) -> None:
    """Trains as an experiment's configuration says and prints where the weights are."""
    from faceflax.training import loop

    print(f"weights: {loop.train(config)}")
