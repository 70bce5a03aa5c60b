"""What every dataset builder shares: the user's files as source, grey images, reproducible splits, atomic writing."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from faceflax import files, preprocessing
from faceflax.errors import FaceflaxError
from faceflax.opencv import cv2

MAX_STORED_SIZE = 128
"""Longest side, in pixels, at which a photo is stored: twice what the networks take by default, which leaves room for
larger inputs and crops, at about 12 kB a photo as lossless grey PNG (FairFace: 1 GB, IMDB: 2 GB)."""

Row = tuple[str, Callable[[], dict[str, Any]]]
"""An example's id and what reads the example; it raises FaceflaxError where the publisher's row is damaged."""


class FaceBuilder(tfds.core.GeneratorBasedBuilder):
    """A TFDS builder of grey faces that reads the publisher's files where the user has put them.

    Nothing is downloaded: the publishers want a log-in, a form or a licence accepted. A subclass says in
    ``MANUAL_DOWNLOAD_INSTRUCTIONS`` where the files are given. Its examples hold at least ``image`` (grey, stored
    without loss), ``id`` (where in the publisher's files the example is) and the label named by ``supervised_keys``.

    Args:
        source: the publisher's files; needed to prepare, not to read.
        skip_corrupt: leave damaged rows out and keep their ids, per split, in ``info.metadata["skipped"]``; otherwise
            the first one is an error.
        **builder_options: as TFDS has them: ``data_dir``, ``config``, ``version``.
    """

    SPLIT_ALIASES: ClassVar[dict[str, str]] = {}
    """The publisher's own names of the splits, besides train, validation and test."""

    CROP_MARGIN: ClassVar[float] = 0.0
    """How far the images reach beyond a Haar box on each side, as a share of its side (experiments.crop_margin)."""

    def __init__(self, *, source: Path | None = None, skip_corrupt: bool = False, **builder_options: Any) -> None:
        self.source = source
        self.skip_corrupt = skip_corrupt
        self.notes: list[str] = []  # what the user should know of how the files were read
        super().__init__(file_format="array_record", **builder_options)

    @property
    def source_path(self) -> Path:
        """The given source.

        Raises:
            FaceflaxError: none was given, or nothing is there.
        """
        if self.source is None:
            raise FaceflaxError("source", self.name, "needs the publisher's files", self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        if not self.source.exists():
            remedy = f"name the path of the publisher's files. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            raise FaceflaxError("source", self.source, "nothing at {}", remedy)
        return self.source

    @property
    def is_prepared(self) -> bool:
        """Whether the dataset is in ``data_dir``, complete."""
        return self.data_path.exists()

    @property
    def skipped(self) -> dict[str, list[str]]:
        """The ids of the damaged rows that were left out, for each split that has any."""
        return dict(self.info.metadata or {}).get("skipped", {})

    def prepare(self) -> None:
        """Writes the dataset; an older one is replaced once the new one is complete, and otherwise stays as it is.

        Raises:
            FaceflaxError: the source or ``data_dir`` cannot be used.
        """
        root = files.writable_folder("data_dir", Path(self.data_dir_root))
        try:
            self._prepare(root)
        except OSError as error:
            problem = f"cannot turn {{}} into {self.name} in {str(root)!r} (data_dir): {error}"
            remedy = "make the one readable and room in the other"
            raise FaceflaxError("source", self.source, problem, remedy) from None

    def _prepare(self, root: Path) -> None:
        target = Path(self.data_dir)
        # TFDS deletes the older dataset before it writes the new one, so the new one is written next to it first. What
        # TFDS prints, apart from its progress bars, speaks of a download and of that passing folder.
        with (
            contextlib.redirect_stdout(io.StringIO()),
            tempfile.TemporaryDirectory(prefix="incomplete.", dir=root) as staging,
        ):
            staged = type(self)(
                source=self.source, skip_corrupt=self.skip_corrupt, config=self.builder_config, data_dir=staging
            )
            staged.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                os.replace(target, Path(staging, "replaced"))
            os.replace(staged.data_dir, target)
        self.notes = staged.notes
        self.info.read_from_directory(target)

    def _generate_examples(self, split: str, rows: Iterable[Row]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Reads the rows for TFDS; a split without examples is the source's fault and is said so."""
        empty, skipped = True, []
        for identity, read in rows:
            try:
                example = read()
            except FaceflaxError as error:
                if not self.skip_corrupt:
                    remedy = f"{error.remedy}, or leave damaged rows out with skip_corrupt"
                    raise FaceflaxError(error.field, error.value, error.problem, remedy) from None
                skipped.append(identity)
            else:
                empty = False
                yield identity, example | {"id": identity}
        if empty:
            damaged = f" but {len(skipped)} damaged ones" if skipped else ""
            problem = f"has no examples{damaged} for the {split} split of {self.name}"
            raise FaceflaxError("source", self.source, problem, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        if skipped:
            self.info.metadata.setdefault("skipped", {})[split] = skipped


def grey_image() -> tfds.features.Image:
    """The feature for a grey image of any size, stored as PNG."""
    return tfds.features.Image(shape=(None, None, 1), encoding_format="png")


def png(image: UInt8[np.ndarray, "height width"]) -> io.BytesIO:
    """Encodes a grey image in the form that TFDS stores without TensorFlow."""
    return io.BytesIO(cv2.imencode(".png", image)[1].tobytes())


def jpeg(image: UInt8[np.ndarray, "height width 3"]) -> io.BytesIO:
    """Encodes a BGR image in a form that TFDS stores without TensorFlow, at a quality that hardly shows."""
    return io.BytesIO(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())


def read_grey(file: Path) -> UInt8[np.ndarray, "height width"]:
    """Reads an image as grey, at most :data:`MAX_STORED_SIZE` pixels a side (aspect ratio kept).

    Raises:
        FaceflaxError: the file is missing or is not a whole image.
    """
    image = preprocessing.read_grey("source", file)
    scale = MAX_STORED_SIZE / max(image.shape)
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in image.shape)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return image


def read_example(file: Path, **labels: str) -> dict[str, Any]:
    """Reads an image as an example with the labels given; errors as for :func:`read_grey`."""
    return {"image": png(read_grey(file)), **labels}


def random_split(key: str, *, validation: float = 0.1, test: float = 0.1) -> str:
    """Puts ``key`` into train, validation or test by its SHA-256, so that it is in the same one on every machine.

    Example:
        >>> random_split("train/1.jpg"), random_split("train/1.jpg", validation=1, test=0)
        ('train', 'validation')
    """
    fraction = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if fraction < validation:
        return "validation"
    return "test" if fraction < validation + test else "train"
