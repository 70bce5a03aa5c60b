"""Trains a network: ``faceflax train --arch mini_xception --dataset fer2013``."""

from __future__ import annotations

import shlex

from faceflax.training.config import TrainConfig as Options


def main(config: Options) -> None:
    """Trains and says where the weights are and how to evaluate them."""
    import jax

    from faceflax.training.loop import train

    file = train(config)
    if jax.process_index() == 0:  # of several that train together
        place = "" if config.data_dir is None else f" --data-dir {shlex.quote(str(config.data_dir))}"
        command = f"faceflax evaluate --weights {shlex.quote(str(file))} --dataset {config.dataset}{place} --split test"
        print(f"weights: {file}\nnext: {command}")
