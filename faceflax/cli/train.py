"""Trains a network: ``faceflax train --arch mini_xception --dataset fer2013``."""

from __future__ import annotations

from faceflax.training.config import TrainConfig as Options


def main(config: Options) -> None:
    """Trains and says where the weights are and how to evaluate them."""
    from faceflax.training.loop import train

    file = train(config)
    print(f"weights: {file}\nnext: faceflax evaluate --weights {file} --dataset {config.dataset} --split test")
