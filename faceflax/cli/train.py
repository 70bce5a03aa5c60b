"""Trains a network: ``faceflax train --arch mini_xception --dataset fer2013``."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from faceflax.cli.reporting import ReportOptions
from faceflax.training.config import TrainConfig


@dataclass(frozen=True)
class Options:
    """Train a network on a prepared dataset (``faceflax prepare-data``; ``synthetic`` needs no preparation).

    A run lives in one folder: ``checkpoints/``, ``metrics.csv``, TensorBoard events, ``curves.png``, and the weights of
    the best validation epoch as ``weights.safetensors`` with their record. Only ``train`` is fitted and only
    ``validation`` is looked at; the test split is for ``faceflax evaluate``.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    said: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


def main(options: Options) -> None:
    """Trains and says where the weights are and how to evaluate them."""
    import jax

    from faceflax.pretrained import weights_info
    from faceflax.training import logs
    from faceflax.training.loop import train

    config = options.config
    began = time.monotonic()
    file = train(config)
    if jax.process_index():  # of several that train together the first one speaks
        return
    seconds = time.monotonic() - began
    info = weights_info(file)
    accuracy = info.accuracy["validation"]
    epochs = len(logs.read_csv(config.folder / "metrics.csv"))
    place = "" if config.data_dir is None else f" --data-dir {shlex.quote(str(config.data_dir))}"
    options.said.say(
        f"weights: {file}, of the best of {epochs} epochs, validation accuracy {accuracy:.2%}; {seconds:.1f} s",
        {
            "weights": str(file),
            "sha256": info.sha256,
            "arch": config.arch,
            "dataset": config.dataset,
            "epochs": epochs,
            "validation_accuracy": accuracy,
            "seconds": round(seconds, 3),
        },
        [file, file.with_suffix(".json"), *(config.folder / name for name in ("metrics.csv", "curves.png"))],
        then=f"faceflax evaluate --weights {shlex.quote(str(file))} --dataset {config.dataset}{place} --split test",
    )
