"""What the claims share: faces, networks, trainings that are kept, predictions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int, UInt8

import experiments.architectures  # noqa: F401 (registers tang_cnn)
from faceflax import data, files, models, pretrained
from faceflax.data import render_faces
from faceflax.errors import FaceflaxError
from faceflax.evaluation import predict_logits
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.training import Trainer, make_targets, take_matching
from faceflax.training.targets import cross_entropy

Task = Literal["emotion", "gender"]
Loss = Literal["cross_entropy", "squared_error", "squared_hinge"]
Variables = dict[str, Any]
Images = UInt8[np.ndarray, "n size size channels"]

LABELS: dict[Task, tuple[str, ...]] = {"emotion": EMOTIONS, "gender": GENDERS}
SIZE = 48
"""Pixels a side of the images that networks are trained on here."""
STATISTICS_IMAGES = 4096
QUICK_FACES = {"train": 196, "validation": 98, "test": 98}


@dataclass(frozen=True)
class Faces:
    """A split: images, labels and what they were taken from."""

    images: Images
    labels: Int[np.ndarray, " n"]
    names: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Network:
    """A trained network; ``weights`` is its record."""

    model: nn.Module
    variables: Variables
    weights: pretrained.WeightsInfo
    path: Path | str


@dataclass(frozen=True)
class Recipe:
    """A training from its start to its last step; nothing is chosen on the way.

    Adam with decoupled weight decay, half an epoch of warm-up, a cosine to zero; mirrored, moved, turned and scaled
    images; BatchNorm's statistics are measured at the end.

    Attributes:
        arch: the network.
        epochs: passes over the images.
        loss: cross-entropy, the squared error of the probabilities, or the squared hinge of the logits.
        seed: of the initial weights.
        order: seed of the order in which images are presented; the augmentation's draws are the same for all.
        batch_size: images a step.
        learning_rate: the highest.
        smoothing: share of a label that is spread over all classes (cross-entropy).
    """

    arch: str = "mini_xception"
    epochs: int = 8
    loss: Loss = "cross_entropy"
    seed: int = 0
    order: int = 0
    batch_size: int = 64
    learning_rate: float = 4e-3
    smoothing: float = 0.1


class Study:
    """A run's data, weights and folder.

    Args:
        folder: where trainings are kept.
        weights: for each network and task, shipped weights or a file.
        data_dir: where datasets are prepared.
        dataset_gender: what gender is learned and tested on.
        quick: synthetic faces instead of datasets, and random stand-ins for weights that are not there.
    """

    def __init__(
        self,
        folder: Path,
        weights: Mapping[tuple[str, Task], str],
        *,
        data_dir: Path | None = None,
        dataset_gender: str = "fairface",
        quick: bool = False,
    ) -> None:
        self.folder = folder
        self.quick = quick
        self.dataset_gender = dataset_gender
        self._weights = dict(weights)
        self._data_dir = data_dir
        self.faces = lru_cache(maxsize=None)(self._faces)
        self.network = lru_cache(maxsize=None)(self._network)
        self.trainer = lru_cache(maxsize=None)(_make_trainer)

    def _faces(self, task: Task, split: str, size: int = SIZE) -> Faces:
        """Reads ``train``, ``validation`` or ``test``; of FER-2013 the last two are PublicTest and PrivateTest."""
        if self.quick:
            faces = render_faces(QUICK_FACES[split], list(QUICK_FACES).index(split), size)
            labels = faces.emotions if task == "emotion" else faces.genders
            return Faces(faces.images, labels, LABELS[task], f"synthetic faces, {split}")
        dataset = "fer2013" if task == "emotion" else self.dataset_gender
        found = data.load(dataset, split, image_size=size, data_dir=self._data_dir)
        return Faces(found.images, found.labels, found.names, f"{dataset} {split}")

    def weights_hash(self, arch: str, task: Task) -> str:
        """Returns the SHA-256 of the weights of a network.

        Raises:
            FaceflaxError: they are not there; the message says how to make them.
        """
        return pretrained.weights_info(self._find(arch, task)).sha256

    def _find(self, arch: str, task: Task) -> Path | str:
        name = self._weights[arch, task]
        field = f"weights_{arch.split('_')[0]}_{task}"
        dataset = "fer2013" if task == "emotion" else self.dataset_gender
        is_name = Path(name).name == name and not Path(name).suffix
        if is_name and name not in pretrained.list_weights():
            if self.quick:
                return self._stand_in(arch, task)
            remedy = (
                f"train them with: faceflax train --arch {arch} --dataset {dataset}, then give "
                f"runs/{arch}-{dataset}/weights.safetensors"
            )
            raise FaceflaxError(field, name, "there are no weights {}", remedy)
        try:
            info = pretrained.weights_info(name)
        except FaceflaxError as error:
            raise error.renamed(field) from None
        if info.arch != arch or info.labels != LABELS[task]:
            problem = f"is a {info.arch} for {', '.join(info.labels)}"
            raise FaceflaxError(field, name, problem, f"give a {arch} for {', '.join(LABELS[task])}")
        return name

    def _stand_in(self, arch: str, task: Task) -> Path:
        """Random weights for a quick run."""
        file = self.folder / f"{arch}-{task}-drawn.safetensors"
        if not file.exists():
            drawn = draw(models.create(arch, len(LABELS[task])), 0)
            pretrained.save(file, drawn, arch=arch, dataset="none", labels=LABELS[task], image_size=SIZE)
        return file

    def _network(self, arch: str, task: Task) -> Network:
        """Loads the weights of a network."""
        path = self._find(arch, task)
        loaded = pretrained.load(path)
        return Network(*loaded, loaded.info, path)

    def fit(
        self,
        recipe: Recipe,
        faces: Faces,
        *,
        rows: Int[np.ndarray, " rows"] | None = None,
        start: Variables | None = None,
        label: str = "",
    ) -> tuple[nn.Module, Variables]:
        """Trains a network, or reads what an earlier run has trained in just this way.

        Args:
            recipe: how.
            faces: of the training split.
            rows: which of them; all if not given. Both are part of what is kept, so claims share what they have alike.
            start: variables to start from where their shapes are the network's; its last layer always starts afresh.
            label: what the progress bar says.

        Returns:
            The network and its variables.
        """
        model = models.create(recipe.arch, len(faces.names))
        rows = np.arange(len(faces.images)) if rows is None else rows
        key = digest(dataclasses.asdict(recipe), faces.images, faces.labels, rows, *map(np.asarray, _leaves(start)))
        tensors = self.kept(f"{recipe.arch}-{key}", lambda: self._train(model, recipe, faces, rows, start, label))
        return model, {"batch_stats": {}} | unflatten_dict(tensors, sep="/")

    def _train(
        self,
        model: nn.Module,
        recipe: Recipe,
        faces: Faces,
        rows: Int[np.ndarray, " rows"],
        start: Variables | None,
        label: str,
    ) -> dict[str, np.ndarray]:
        variables = draw(model, recipe.seed, faces.images.shape[3])
        if start is not None:
            variables = take_matching(variables, start, afresh=("last_conv",))
        smoothing = recipe.smoothing if recipe.loss == "cross_entropy" else 0.0
        rng = np.random.default_rng([recipe.order, 1])
        stream = np.concatenate([rng.permutation(rows) for _ in range(recipe.epochs)])
        steps = -(-len(stream) // recipe.batch_size)
        progress = np.arange(steps)
        warmup = 0.5 * steps / recipe.epochs
        rates = np.where(progress < warmup, (progress + 1) / (warmup + 1), 0.5 + 0.5 * np.cos(np.pi * progress / steps))
        variables = self.trainer(model, recipe.loss).fit(
            variables,
            faces.images,
            make_targets(faces.labels, len(faces.names), smoothing=smoothing),
            np.resize(stream, (steps, recipe.batch_size)),
            recipe.learning_rate * rates,
            statistics=np.resize(rng.permutation(rows), min(STATISTICS_IMAGES, len(faces.images))),
            label=label or recipe.arch,
        )
        return {name: np.asarray(value) for name, value in flatten_dict(variables, sep="/").items()}

    def kept(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Reads arrays that an earlier run has left under this name, or makes and keeps them."""
        file = self.folder / f"{name}.safetensors"
        if file.exists():
            return safetensors.numpy.load_file(file)
        arrays = {key: np.ascontiguousarray(value) for key, value in make().items()}
        with files.replacing(file) as temporary:
            safetensors.numpy.save_file(arrays, temporary)
        return arrays


def draw(model: nn.Module, seed: int, channels: int = 1) -> Variables:
    """Draws initial variables: kernels normal with variance 1 / inputs (LeCun), all else as BatchNorm starts.

    As ``models.init``, but for the normal's tails, and without compiling anything.
    """
    rng = np.random.default_rng([seed, 0])

    def draw_leaf(path: Any, leaf: Any) -> np.ndarray:
        if leaf.ndim > 1:
            return (rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0), channels=channels))
    return jax.tree_util.tree_map_with_path(draw_leaf, shapes)


def right(network: tuple[nn.Module, Variables], faces: Faces) -> np.ndarray:
    """Whether each face is classified right, bool ``[n]``."""
    return predict_logits(*network, faces.images).argmax(1) == faces.labels


def digest(*parts: Any) -> str:
    """A short hash of arrays and of what JSON can write."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype}{part.shape}".encode())
            total.update(np.ascontiguousarray(part).tobytes())
        else:
            total.update(json.dumps(part, sort_keys=True, default=str).encode())
    return total.hexdigest()[:16]


def losses(name: Loss, logits: Float[Array, "batch classes"], targets: Float[Array, "batch classes"]) -> Array:
    """The batch's mean loss.

    ``squared_error`` is ``sum_c (p_c - y_c)^2`` of the probabilities; ``squared_hinge`` is
    ``sum_c max(0, 1 - t_c s_c)^2`` of the logits ``s``, with ``t`` 1 for the class and -1 for the others (Tang, "Deep
    Learning using Linear Support Vector Machines", 2013, arXiv:1306.0239).

    Example:
        >>> print(losses("squared_hinge", jnp.array([[2.0, -0.5]]), jnp.array([[1.0, 0.0]])))
        0.25
    """
    if name == "cross_entropy":
        return cross_entropy(logits, targets)
    if name == "squared_error":
        return jnp.square(jax.nn.softmax(logits) - targets).sum(1).mean()
    return jnp.square(jnp.maximum(0, 1 - (2 * targets - 1) * logits)).sum(1).mean()


def _make_trainer(model: nn.Module, loss: Loss) -> Trainer:
    return Trainer(model, key=jax.random.key(0), loss=partial(losses, loss))


def _leaves(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree)
