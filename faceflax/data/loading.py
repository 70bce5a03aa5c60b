"""Reads a prepared dataset, into memory or by rows: 8-bit grey faces of one size and their labels."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Int, Int32, UInt8
from tqdm import tqdm

from faceflax import errors, preprocessing
from faceflax.data import folder
from faceflax.data.builder import FaceBuilder, default_data_dir, recover
from faceflax.data.face_boxes import GROUPS, Faces, SceneBuilder, Wider, read_scene
from faceflax.data.fairface import Fairface
from faceflax.data.fer2013 import Fer2013
from faceflax.data.ferplus import Ferplus
from faceflax.data.folder import Folder
from faceflax.data.imdb import Imdb, ImdbReference, Wiki
from faceflax.data.preparation import Preparation
from faceflax.data.scenes import Scene
from faceflax.data.synthetic_builder import Synthetic
from faceflax.errors import FaceflaxError, said

BUILDERS: dict[str, type[FaceBuilder]] = {
    "fer2013": Fer2013,
    "ferplus": Ferplus,
    "fairface": Fairface,
    "imdb": Imdb,
    "imdb_reference": ImdbReference,
    "wiki": Wiki,
    "faces": Faces,
    "wider": Wider,
    "folder": Folder,
    "synthetic": Synthetic,
}
DATASETS: tuple[str, ...] = tuple(BUILDERS)
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Examples:
    """One split of a dataset, in memory.

    Attributes:
        images: grey faces in [0, 255]; :func:`faceflax.preprocessing.normalize` makes them a network's input.
        labels: indices into ``names``.
        names: the classes, in label order.
        label: what the classes are of, such as ``emotion``.
        attributes: what else is known of each face, such as ``race``: the groups and, for each example, an index into
            them.
        ids: where in the publisher's files each example is: FER-2013's row number, from 0, or a file's name.
        split: ``train``, ``validation`` or ``test``, under whichever name it was asked for.
        skipped: how many damaged rows of the split were left out when the dataset was prepared.
    """

    images: UInt8[np.ndarray, "n size size 1"]
    labels: Int32[np.ndarray, " n"]
    names: tuple[str, ...]
    label: str
    attributes: dict[str, tuple[tuple[str, ...], Int32[np.ndarray, " n"]]]
    ids: tuple[str, ...]
    split: str
    skipped: int

    def select(self, keep: Bool[np.ndarray, " n"]) -> Examples:
        """Returns the examples where ``keep`` is true."""
        return dataclasses.replace(
            self,
            images=self.images[keep],
            labels=self.labels[keep],
            attributes={name: (groups, members[keep]) for name, (groups, members) in self.attributes.items()},
            ids=tuple(itertools.compress(self.ids, keep)),
        )


class Images:
    """The images of a split, read from its files whenever they are asked for; other processes can be sent it.

    Args:
        source: the records.
        features: what is in each.
        key: which of these is the image.
        size: height and width of the returned images, in pixels.
        damaged: makes the error for a damaged record of its row and what was raised.
    """

    def __init__(
        self,
        source: Any,
        features: tfds.features.FeaturesDict,
        key: str,
        size: int,
        damaged: Callable[[int, Exception], FaceflaxError],
    ) -> None:
        self._source, self._features, self._key, self._damaged = source, features, key, damaged
        self.size = size
        others = (name for name, feature in features.items() if isinstance(feature, tfds.features.Image))
        self._decoders = {name: tfds.decode.SkipDecoding() for name in others if name != key}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n size size 1"]:
        """Reads some images.

        Args:
            rows: which, in the order of the split.

        Raises:
            FaceflaxError: one of them is damaged.
        """
        images = np.empty((len(rows), self.size, self.size, 1), np.uint8)
        for image, row in zip(images, map(int, rows), strict=True):
            try:
                example = self._features.deserialize_example_np(self._source[row], decoders=self._decoders)
            except _DAMAGE as error:
                raise self._damaged(row, error) from None
            image[:, :, 0] = _face(example[self._key], self.size)
        return images


@dataclass(frozen=True)
class Index:
    """One split of a dataset whose images stay in its files: the other attributes are those of :class:`Examples`.

    Attributes:
        images: by their rows.
        labels: indices into ``names``.
        names: the classes, in label order.
        attributes: what else is known of each face.
        digest: the SHA-256 of images and labels, in their order.
    """

    images: Images
    labels: Int32[np.ndarray, " n"]
    names: tuple[str, ...]
    attributes: dict[str, tuple[tuple[str, ...], Int32[np.ndarray, " n"]]]
    digest: str


def load(dataset: str, split: str, *, image_size: int, data_dir: Path | None = None) -> Examples:
    """Reads one split, in a fixed shuffled order, with every face resized to ``image_size``.

    The memory taken is ``n * image_size**2`` bytes: 118 MB for FER-2013's training split at 64 pixels.

    Args:
        dataset: one of :data:`DATASETS`; ``folder/NAME`` for a set of one's own, ``synthetic/gender`` for the
            synthetic faces' gender instead of their expression.
        split: ``train``, ``validation`` or ``test``; FER-2013's own names work for it as well.
        image_size: height and width of the returned images, in pixels.
        data_dir: where datasets are prepared; TFDS's place (:func:`default_data_dir`) by default.

    Raises:
        FaceflaxError: an unknown dataset or split, or a dataset that is not prepared or whose prepared files are
            damaged (the message says how to prepare it).
    """
    builder, name = _prepared(dataset, split, data_dir)
    image_key, label_key = builder.info.supervised_keys
    features = builder.info.features
    classes = _classes(features)
    source = builder.as_data_source(name)
    try:
        images = np.empty((len(source), image_size, image_size, 1), np.uint8)
    except MemoryError as error:
        problem = f"is too large for the {len(source):,} images of {dataset} {split}: {said(error)}"
        raise FaceflaxError("image_size", image_size, problem, "give a smaller one") from None
    members = {key: np.empty(len(source), np.int32) for key in classes}
    ids = []
    try:
        for i, example in enumerate(tqdm(source, f"reading {dataset} {split}", unit=" images", delay=1, leave=False)):
            images[i, :, :, 0] = _face(example[image_key], image_size)
            for key in classes:
                members[key][i] = example[key]
            ids.append(example["id"].decode())
    except _DAMAGE as error:
        raise _damaged(builder, dataset, split)(len(ids), error) from None
    return Examples(
        images,
        labels=members.pop(label_key),
        names=tuple(features[label_key].names),
        label=label_key,
        attributes={key: (tuple(features[key].names), members[key]) for key in members},
        ids=tuple(ids),
        split=name,
        skipped=len(builder.skipped.get(name, ())),
    )


def load_index(dataset: str, split: str, *, image_size: int, data_dir: Path | None = None) -> Index:
    """Reads the labels of one split; its images are read, as :func:`load` does, when they are asked for.

    The arguments and the errors are those of :func:`load`.
    """
    builder, name = _prepared(dataset, split, data_dir)
    image_key, label_key = builder.info.supervised_keys
    features = builder.info.features
    pictures = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    source = builder.as_data_source(name, decoders={key: tfds.decode.SkipDecoding() for key in pictures})
    members = {key: np.empty(len(source), np.int32) for key in _classes(features)}
    names = {key: tuple(features[key].names) for key in members}
    hashed = hashlib.sha256(repr((names, label_key, len(source), image_size)).encode())
    row = 0
    try:
        for example in tqdm(source, f"reading labels of {dataset} {split}", unit=" images", delay=1, leave=False):
            for key, numbers in members.items():
                numbers[row] = example[key]
            hashed.update(example[image_key])
            row += 1
    except _DAMAGE as error:
        raise _damaged(builder, dataset, split)(row, error) from None
    for numbers in members.values():
        hashed.update(numbers.tobytes())
    damaged = _damaged(builder, dataset, split)
    return Index(
        Images(source.data_source, features, image_key, image_size, damaged),
        labels=members.pop(label_key),
        names=names[label_key],
        attributes={key: (names[key], members[key]) for key in members},
        digest=hashed.hexdigest(),
    )


def memory_needed(dataset: str, splits: Iterable[str], *, image_size: int, data_dir: Path | None = None) -> int:
    """Returns the bytes that the images of some splits take in memory.

    Args:
        dataset: as for :func:`load`.
        splits: which.
        image_size: as for :func:`load`.
        data_dir: as for :func:`load`.

    Raises:
        FaceflaxError: as for :func:`load`, but for damaged files.
    """
    builder = _made(dataset, data_dir)
    return sum(builder.info.splits[_named(builder, split)].num_examples for split in splits) * image_size**2


def _face(image: UInt8[np.ndarray, "height width 1"], size: int) -> UInt8[np.ndarray, "size size"]:
    return preprocessing.resize(image[:, :, 0], size)


def _classes(features: tfds.features.FeaturesDict) -> list[str]:
    return [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]


def load_scenes(dataset: str, split: str, *, data_dir: Path | None = None) -> dict[str, list[Scene]]:
    """Reads one split of photographs with boxes into memory, by kind of picture.

    The memory taken is three bytes a pixel: 2.5 GB for ``faces``.

    Args:
        dataset: ``faces`` or ``wider``.
        split: ``train``, ``validation`` or, of ``wider``, ``test``.
        data_dir: as for :func:`load`.

    Raises:
        FaceflaxError: as for :func:`load`, or a dataset without boxes.
    """
    builder, name = _prepared(dataset, split, data_dir, scenes=True)
    source = builder.as_data_source(name)
    scenes: dict[str, list[Scene]] = {}
    count = 0
    try:
        for example in tqdm(source, f"reading {dataset} {split}", unit=" images", delay=1, leave=False):
            scenes.setdefault(GROUPS[example["group"]], []).append(read_scene(example))
            count += 1
    except _DAMAGE as error:
        raise _damaged(builder, dataset, split)(count, error) from None
    return scenes


_DAMAGE = (RuntimeError, TypeError)
"""What array_record raises for a wrong checksum, a missing file or a row that is cut off."""


def _damaged(builder: FaceBuilder, dataset: str, split: str) -> Callable[[int, Exception], FaceflaxError]:
    """Returns what makes the error of a damaged row; other processes can be sent it."""
    return functools.partial(_damaged_row, dataset, split, str(builder.data_path), builder.preparation)


def _damaged_row(dataset: str, split: str, place: str, preparation: str, row: int, error: Exception) -> FaceflaxError:
    problem = f"row {row} of {{}} {split} in {place!r} is damaged ({said(error)})"
    return FaceflaxError("dataset", dataset, problem, f"prepare it again: {preparation} --overwrite")


def _prepared(dataset: str, split: str, data_dir: Path | None, *, scenes: bool = False) -> tuple[FaceBuilder, str]:
    """The builder of a dataset, which is prepared if it can be, and its name of the split, whose files are verified."""
    builder = _made(dataset, data_dir, scenes=scenes)
    name = _named(builder, split)
    builder.verify(lambda file: f"-{name}.array_record" in file)
    return builder, name


def _made(dataset: str, data_dir: Path | None, *, scenes: bool = False) -> FaceBuilder:
    """The builder of a dataset of faces with labels, or of scenes, which is prepared if it can be."""
    builder = make_builder(dataset, data_dir=data_dir)
    if scenes and not isinstance(builder, SceneBuilder):
        raise FaceflaxError("dataset", dataset, "has no boxes of faces", "give faces or wider")
    if isinstance(builder, SceneBuilder) and not scenes:
        remedy = "train face_detector on it, or name a dataset of cut-out faces"
        raise FaceflaxError("dataset", dataset, "has photographs with boxes, not faces with labels", remedy)
    if not builder.is_prepared:
        if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
            raise _not_prepared(builder)
        builder.prepare()
    return builder


def _named(builder: FaceBuilder, split: str) -> str:
    """The builder's name of a split."""
    name = builder.SPLIT_ALIASES.get(split, split)
    if name not in builder.info.splits:
        raise errors.unknown("split", split, [split for split in SPLITS if split in builder.info.splits])
    return name


def make_builder(
    dataset: str,
    *,
    source: Path | None = None,
    data_dir: Path | None = None,
    skip_corrupt: bool = False,
    how: Preparation = Preparation(),  # noqa: B008  # frozen
) -> FaceBuilder:
    """Returns the TFDS builder of ``dataset``: to read it or, with a ``source``, to prepare it.

    Args:
        dataset: as for :func:`load`.
        source: as for :class:`FaceBuilder`.
        skip_corrupt: as for :class:`FaceBuilder`.
        how: as for :class:`FaceBuilder`.
        data_dir: as for :func:`load`.

    Raises:
        FaceflaxError: an unknown dataset, or one whose prepared files are damaged.
    """
    cls, config = _builder_class(dataset)
    root = data_dir or default_data_dir()
    recover(root)
    return cls(source=source, skip_corrupt=skip_corrupt, how=how, data_dir=root, config=config)


def prepare(
    dataset: str,
    *,
    source: Path | None = None,
    data_dir: Path | None = None,
    skip_corrupt: bool = False,
    how: Preparation = Preparation(),  # noqa: B008  # frozen
) -> FaceBuilder:
    """Prepares ``dataset`` in place of an older one, which may be damaged, and returns its builder.

    Args:
        dataset: as for :func:`load`.
        source: as for :class:`FaceBuilder`.
        skip_corrupt: as for :class:`FaceBuilder`.
        how: as for :class:`FaceBuilder`.
        data_dir: as for :func:`load`.

    Raises:
        FaceflaxError: an unknown dataset, or the source or ``data_dir`` cannot be used.
    """
    cls, config = _builder_class(dataset)
    root = data_dir or default_data_dir()
    return cls.prepared(root, source=source, skip_corrupt=skip_corrupt, how=how, config=config)


def _builder_class(dataset: str) -> tuple[type[FaceBuilder], str | None]:
    """The class of a dataset's builder, and its configuration."""
    name, _, variant = dataset.partition("/")
    if name not in BUILDERS:
        raise errors.unknown("dataset", dataset, DATASETS)
    cls = BUILDERS[name]
    if cls is Folder:
        variant = variant or "default"
        if not re.fullmatch(r"[A-Za-z][\w-]{0,59}", variant):
            problem = f"{{}} has the name {variant!r} after 'folder/'"
            remedy = "start it with a letter and use letters, digits, - and _, 60 in all"
            raise FaceflaxError("dataset", dataset, problem, remedy)
        cls = folder.named(variant)
    elif variant and variant not in cls.builder_configs:
        raise errors.unknown("dataset", dataset, [name, *(f"{name}/{config}" for config in cls.builder_configs)])
    return cls, variant or None


def crop_margin(dataset: str) -> float:
    """Returns how far a dataset's images reach beyond a Haar box, as a share of its side on each side.

    Example:
        >>> crop_margin("fer2013")
        0.016
    """
    return BUILDERS[dataset.partition("/")[0]].CROP_MARGIN


def count_classes(builder: FaceBuilder) -> tuple[tuple[str, ...], dict[str, Int32[np.ndarray, " classes"]]]:
    """Returns the class names of a prepared dataset and, for each split, the number of examples of each class."""
    image_key, label_key = builder.info.supervised_keys
    names = tuple(builder.info.features[label_key].names)
    counts = {}
    for split in (split for split in SPLITS if split in builder.info.splits):
        source = builder.as_data_source(split, decoders={image_key: tfds.decode.SkipDecoding()})
        counts[split] = np.bincount([example[label_key] for example in source], minlength=len(names)).astype(np.int32)
    return names, counts


def _not_prepared(builder: FaceBuilder) -> FaceflaxError:
    problem = f"is not prepared in {str(builder.data_dir_root)!r}"
    remedy = f"{builder.MANUAL_DOWNLOAD_INSTRUCTIONS} Then run: {builder.preparation}"
    return FaceflaxError("dataset", builder.name, problem, remedy)
