"""mini_xception on FER-2013, the plain recipe: the shipped weights ``mini_xception-fer2013``.

AdamW with one epoch of warm-up and a cosine to zero, label smoothing, mild affine augmentation, 48x48, batch 64. Fitted
on Training; the epoch is chosen on PublicTest; PrivateTest is reported once.

Command::

    python -m experiments.mini_xception_fer2013
    python scripts/export.py runs/mini_xception-fer2013/weights.safetensors mini_xception-fer2013

Result: PublicTest 64.47%, PrivateTest 63.78%, with flip averaging 64.98%; temperature 0.895; about
55 minutes on two cores of an Intel Xeon that had other work to do.
"""

from __future__ import annotations

from experiments import train
from faceflax.commands import run
from faceflax.training.config import TrainConfig

CONFIG = TrainConfig(arch="mini_xception", dataset="fer2013", epochs=30)


if __name__ == "__main__":
    run(train, TrainConfig, default=CONFIG)
