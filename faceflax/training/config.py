"""What a training run is made from. Light to import: the command line is built from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faceflax.errors import FaceflaxError

Precision = Literal["float32", "bfloat16", "bfloat16_products"]


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
    """Dataset: fer2013, ferplus, fairface, imdb, wiki, folder/NAME or synthetic."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    output: Path | None = None
    """Folder of the run; runs/ARCH-DATASET if not given."""
    resume: bool = False
    """Go on from the run's last checkpoint."""
    epochs: int = 30
    """Passes over the training split."""
    stop_after: int | None = None
    """Epochs after which to stop, before the end of the schedule, to go on with other settings (--init-weights)."""
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
    dropout: float | None = None
    """Share of activations dropped while training, in a network that has dropout; the network's own if not given."""
    precision: Precision = "float32"
    """Number format of the forward and backward pass: bfloat16 is for GPUs (and slow on a CPU); bfloat16_products
    rounds only what convolutions multiply and is for CPUs with matrix tiles (Intel AMX)."""
    average: float = 0.0
    """Decay of a moving average of the weights, such as 0.999; validated and saved in their place. 0 is off."""
    label_smoothing: float = 0.1
    """Share of the target spread evenly over the classes."""
    soft_labels: Path | None = None
    """Target distributions of the training images, .npy (python -m experiments.tools.soft_labels)."""
    soft_weight: float = 0.5
    """Share of the soft labels in the target, where they are given; the rest is the hard label's."""
    teachers: tuple[str, ...] = ()
    """Weights (shipped names or .safetensors) whose mean probabilities on each training image, as it is augmented, are
    part of its target."""
    teacher_weight: float = 0.5
    """Share of the teachers in the target; the rest is what it is without them."""
    unlabelled: str | None = None
    """Another dataset whose training images are shown as well; its labels are not used, the teachers' answers are the
    whole target."""
    focal: float = 0.0
    """Focal loss: exponent by which examples that are right already count for less, such as 2. 0 is off."""
    class_balance: float = 0.0
    """Weigh classes by effective number of examples: 0 is off, 1 is inverse frequency, between, such as 0.999."""
    flip: bool = True
    """Mirror half of the training images."""
    shift: float = 0.08
    """Largest shift, as a share of the side."""
    rotation: float = 10.0
    """Largest rotation in degrees."""
    zoom: float = 0.1
    """Largest relative change of scale."""
    shear: float = 0.0
    """Largest horizontal shear in degrees."""
    contrast: float = 0.0
    """Largest relative change of contrast."""
    brightness: float = 0.0
    """Largest change of brightness, as a share of black to white."""
    erase: float = 0.0
    """Probability that a box of a training image is overwritten with noise."""
    mixup: float = 0.0
    """Blend pairs of training images: alpha of the share's Beta distribution, such as 0.2. 0 is off."""
    cutmix: float = 0.0
    """Paste boxes of training images into others: alpha likewise, such as 1. With mixup, one of the two at random."""
    init_weights: str | None = None
    """Start from these weights (shipped name or .safetensors); layers whose shapes differ start afresh."""
    seed: int = 0
    """Seed of initialisation, order and augmentation."""

    def __post_init__(self) -> None:
        lowest = {"epochs": 1, "batch_size": 2, "image_size": 32, "plateau_patience": 1, "stop_patience": 1}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise FaceflaxError(f"{option(name)}: {getattr(self, name)} is too small; give {low} or more")
        if self.stop_after is not None and not 1 <= self.stop_after <= self.epochs:
            raise FaceflaxError(f"--stop-after: {self.stop_after} is not from 1 to --epochs, which is {self.epochs}")
        if self.unlabelled is not None and not self.teachers:
            raise FaceflaxError(
                f"--unlabelled: nothing tells what {self.unlabelled} shows; name weights with --teachers"
            )
        for name in ("learning_rate", "warmup_epochs", "weight_decay", "focal"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise FaceflaxError(f"{option(name)}: {getattr(self, name)} is not usable; give a number from 0 up")
        for name in ("dropout", "average", "label_smoothing"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise FaceflaxError(f"{option(name)}: {getattr(self, name)} is not usable; give a number in [0, 1)")
        for name in ("soft_weight", "teacher_weight", "class_balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise FaceflaxError(f"{option(name)}: {getattr(self, name)} is not usable; give a number in [0, 1]")

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
