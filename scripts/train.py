"""Trains a network: ``python scripts/train.py --arch mini_xception --dataset fer2013``."""

from __future__ import annotations

from faceflax.cli import run
from faceflax.training.config import TrainConfig


def main(config: TrainConfig) -> None:
    """Trains and says where the weights are and how to evaluate them."""
    from faceflax.training.loop import train

    file = train(config)
    print(f"weights: {file}\nnext: python scripts/evaluate.py --weights {file} --dataset {config.dataset} --split test")


if __name__ == "__main__":
    run(main, TrainConfig)
