"""What a training run is made from. Light to import: the command line is built from it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from faceflax.data.augment import Augmentation
from faceflax.data.scene_augmentation import SceneAugmentation
from faceflax.errors import FaceflaxError
from faceflax.models.architectures import DETECTORS, MAX_IMAGE_SIZE, MIN_IMAGE_SIZE

Precision = Literal["float32", "bfloat16", "bfloat16_products"]


RANGES: dict[str, tuple[int, int]] = {
    "epochs": (1, 10**6),
    "image_size": (MIN_IMAGE_SIZE, MAX_IMAGE_SIZE),
    "seed": (0, 2**32 - 1),
    "weight_decay": (0, 100),
    "join_seconds": (1, 10**6),
}
"""The least and the greatest value of options that have both."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a network on a prepared dataset (``faceflax prepare-data``; ``synthetic`` needs no preparation).

    A run lives in one folder: ``checkpoints/``, ``metrics.csv``, TensorBoard events, ``curves.png``, and the weights of
    the best validation epoch as ``weights.safetensors`` with their record. Only ``train`` is fitted and only
    ``validation`` is looked at; the test split is for ``faceflax evaluate``.

    Raises:
        FaceflaxError: a field is outside its range.

    Example:
        >>> TrainConfig(dataset="fairface", augmentation=Augmentation(contrast=0.2)).folder.name
        'mini_xception-fairface'
    """

    arch: str = "mini_xception"
    """Network: mini_xception, mini_xception_antialiased, sequential_cnn or vgg; or face_detector, which finds faces."""
    dataset: str = "fer2013"
    """Dataset: fer2013, ferplus, fairface, imdb, imdb_reference, wiki, folder/NAME or synthetic; for a
    detector faces or wider."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    output: Path | None = None
    """Folder of the run; runs/ARCH-DATASET if not given."""
    resume: bool = False
    """Continue from the run's last checkpoint, at the very step."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints, besides the one at the end of each epoch; 0 makes none by time."""
    checkpoint_steps: int = 0
    """Steps between checkpoints; 0 makes none by steps."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints are kept, besides the best epoch's."""
    epochs: int = 30
    """Passes over the training split."""
    stop_after: int | None = None
    """Epochs after which to stop, before the end of the schedule, to continue with other settings (init_weights)."""
    batch_size: int = 64
    """Images a step."""
    image_size: int | None = None
    """Pixels a side, 32 or more; 48 if not given, 256 for a detector, of which it must be a multiple of 32."""
    learning_rate: float = 4e-3
    """Adam's peak learning rate; a cosine takes it to zero."""
    warmup_epochs: float = 1.0
    """Epochs over which the learning rate rises from zero."""
    stop_patience: int = 12
    """Epochs without a higher validation accuracy before training stops."""
    weight_decay: float = 1e-2
    """Decoupled weight decay of the kernels (AdamW), at most 100; 0 is plain Adam."""
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
    """Weights (shipped names or .safetensors) whose mean probabilities are part of each augmented image's target. For a
    detector: the file of a YuNet model, which says what it sees in each crop of a photograph before it is changed."""
    teacher_weight: float = 0.5
    """Share of the teachers in the target; the rest is what it is without them."""
    augmentation: Annotated[Augmentation, tyro.conf.arg(name="")] = field(default_factory=Augmentation)
    """How training images are changed at random."""
    scenes: SceneAugmentation = field(default_factory=SceneAugmentation)
    """How a detector's training crops are changed at random."""
    mixup: float = 0.0
    """Blend pairs of training images: alpha of the share's Beta distribution, such as 0.2. 0 is off."""
    corrupt: float = 0.0
    """Share of the training images that are then corrupted: covered, blurred, pale, dark, noisy, compressed. Teachers
    see them as they were."""
    consistency: float = 0.0
    """Show each image of a batch twice, each time changed by itself, and add this times the disagreement of the two
    answers (their Jensen-Shannon divergence, in nats) to the loss, such as 2. 0 is off; a step takes twice the time."""
    symmetric: bool = False
    """Keep the weights such that a face and its mirrored image get the same answer, exactly; half of them are free
    then. mini_xception needs 53 pixels for it."""
    detector: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE")] = None
    """Train also on the faces as this detector finds them and the analyzers cut them out (faceflax, haar or a YuNet
    file), and choose the epoch by the mean of the accuracies on such faces, clean and corrupted."""
    found: float = 0.5
    """Share of the training images that are taken as the detector finds them, where it finds them."""
    balance: tuple[str, ...] = ()
    """Attributes of the dataset, such as age and race, whose groups, each divided by the label, are drawn more evenly:
    a face as often as one over the root of how many its group has."""
    init_weights: str | None = None
    """Start from these weights (shipped name or .safetensors); layers whose shapes differ start afresh."""
    in_memory_gib: float = 4.0
    """GiB that the training and validation images may take to stay in memory, on the device; larger sets are read from
    their files again for each epoch, a little ahead of the steps. The weights are the same."""
    readers: int | None = None
    """Processes that read and decode images which do not stay in memory; one for each two processors if not given."""
    seed: int = 0
    """Seed of initialisation, order and augmentation."""
    devices: int | None = None
    """Devices to divide each batch among; all that there are if not given."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Of several processes: where the first one is reached by the others. All need the same output folder."""
    processes: int | None = None
    """How many processes train together."""
    process: int | None = None
    """Which of them this one is, from 0."""
    cluster: bool = False
    """Take these three from the cluster's environment: SLURM, GKE, Open MPI."""
    join_seconds: int = 120
    """How long the processes wait for each other at the start."""

    def __post_init__(self) -> None:
        least = {"batch_size": 2, "stop_patience": 1, "keep_checkpoints": 1, "devices": 1}
        least |= {"checkpoint_steps": 0, "readers": 0}
        for name, low in (least | {name: low for name, (low, _) in RANGES.items()}).items():
            if getattr(self, name) is not None and getattr(self, name) < low:
                raise FaceflaxError(name, getattr(self, name), "is too small", f"give {low} or more")
        for name, (_, high) in RANGES.items():
            if getattr(self, name) is not None and getattr(self, name) > high:
                raise FaceflaxError(name, getattr(self, name), "is too large", f"give {high} or less")
        together = self.coordinator, self.processes, self.process
        if any(value is not None for value in together) and None in together:
            problem = "is not enough to find the other processes"
            raise FaceflaxError("coordinator", self.coordinator, problem, "give coordinator, processes and process")
        if self.processes is not None and self.process is not None and not 0 <= self.process < self.processes:
            problem = f"is not from 0 to {self.processes - 1}"
            raise FaceflaxError("process", self.process, problem, "give each process its own number")
        if self.coordinator is not None and not re.fullmatch(r".+:\d{1,5}", self.coordinator):
            raise FaceflaxError("coordinator", self.coordinator, "is not HOST:PORT", "give the first process's")
        if self.stop_after is not None and not 1 <= self.stop_after <= self.epochs:
            raise FaceflaxError("stop_after", self.stop_after, f"is not from 1 to epochs, which is {self.epochs}")
        usual = ("learning_rate", "warmup_epochs", "weight_decay", "mixup", "consistency")
        for name in (*usual, "checkpoint_minutes", "in_memory_gib"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise FaceflaxError(name, getattr(self, name), "is not usable", "give a number from 0 up")
        for name in ("dropout", "average", "label_smoothing"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise FaceflaxError(name, getattr(self, name), "is not usable", "give a number in [0, 1)")
        for name in ("soft_weight", "teacher_weight", "corrupt", "found"):
            if not 0 <= getattr(self, name) <= 1:
                raise FaceflaxError(name, getattr(self, name), "is not usable", "give a number in [0, 1]")

        if self.consistency and self.mixup:
            problem = "would compare blends of different images"
            raise FaceflaxError("consistency", self.consistency, problem, "give mixup 0 with it")

    @property
    def size(self) -> int:
        """Pixels a side: ``image_size``, or what is usual for the network."""
        return self.image_size or (256 if self.arch in DETECTORS else 48)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.output or Path("runs") / f"{self.arch}-{self.dataset.replace('/', '-')}"
