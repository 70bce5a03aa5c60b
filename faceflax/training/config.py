"""What a training run is made from. Light to import: the command line is built from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faceflax.errors import FaceflaxError


@dataclass(frozen=True)
class TrainConfig:
    """Train a network on a prepared dataset (``scripts/prepare_data.py``; ``synthetic`` needs no preparation).

    A run lives in one folder: ``checkpoints/``, ``metrics.csv``, TensorBoard events, ``curves.png``, and the weights of
    the best validation epoch as ``weights.safetensors`` with their record. Only ``train`` is fitted and only
    ``validation`` is looked at; the test split is for ``scripts/evaluate.py``.
    """

    arch: str = "mini_xception"
    """Network: mini_xception or sequential_cnn."""
    dataset: str = "fer2013"
    """Dataset: fer2013, fairface, imdb, wiki, folder/NAME or synthetic."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    output: Path | None = None
    """Folder of the run; runs/ARCH-DATASET if not given."""
    resume: bool = False
    """Go on from the run's last checkpoint."""
    epochs: int = 30
    """Passes over the training split."""
    batch_size: int = 64
    """Images a step."""
    image_size: int = 48
    """Pixels a side, 32 or more."""
    learning_rate: float = 4e-3
    """Adam's peak learning rate."""
    schedule: Literal["cosine", "plateau"] = "cosine"
    """After warm-up: a cosine to zero, or constant and cut fivefold when the validation loss stands still."""
    warmup_epochs: float = 1.0
    """Epochs over which the learning rate rises from zero."""
    plateau_patience: int = 4
    """Epochs without a lower validation loss before a cut (schedule plateau)."""
    stop_patience: int = 12
    """Epochs without a higher validation accuracy before training stops."""
    weight_decay: float = 1e-2
    """Decoupled weight decay of the kernels (AdamW); 0 is plain Adam."""
    label_smoothing: float = 0.1
    """Share of the target spread evenly over the classes."""
    flip: bool = True
    """Mirror half of the training images."""
    shift: float = 0.08
    """Largest shift, as a share of the side."""
    rotation: float = 10.0
    """Largest rotation in degrees."""
    zoom: float = 0.1
    """Largest relative change of scale."""
    init_weights: str | None = None
    """Start from these weights (shipped name or .safetensors); layers whose shapes differ start afresh."""
    seed: int = 0
    """Seed of initialisation, order and augmentation."""

    def __post_init__(self) -> None:
        lowest = {"epochs": 1, "batch_size": 2, "image_size": 32, "plateau_patience": 1, "stop_patience": 1}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise FaceflaxError(f"{option(name)}: {getattr(self, name)} is too small; give {low} or more")
        for name in ("learning_rate", "warmup_epochs", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise FaceflaxError(f"{option(name)}: {getattr(self, name)} is not usable; give a number from 0 up")
        if not 0 <= self.label_smoothing < 1:
            raise FaceflaxError(f"--label-smoothing: {self.label_smoothing} is outside [0, 1)")

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.output or Path("runs") / f"{self.arch}-{self.dataset.replace('/', '-')}"


def option(field: str) -> str:
    """The command-line spelling of a field.

    Example:
        >>> option("batch_size")
        '--batch-size'
    """
    return "--" + field.replace("_", "-")
