"""What every dataset builder shares: the user's files as source, grey images, reproducible splits, atomic writing."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from faceflax import files, preprocessing
from faceflax.data import digests
from faceflax.data.preparation import Counted, Kept, Outcome, Preparation, Row, outcomes
from faceflax.errors import FaceflaxError, said
from faceflax.opencv import cv2

_log = logging.getLogger("faceflax")

MOST_BYTES = 2**28
"""Bytes that a publisher's list of files or labels, which is read whole, may have."""

MAX_STORED_SIZE = 128
"""Longest side, in pixels, at which a photo is stored: twice what the networks take by default, which leaves room for
larger inputs and crops, at about 12 kB a photo as lossless grey PNG (FairFace: 1 GB, IMDB: 2 GB)."""


class Info(tfds.core.DatasetInfo):
    """What is known of a dataset; TFDS's own also looks for it in Google's cloud, and leaves a temporary folder."""

    def initialize_from_bucket(self) -> None:
        """Does nothing: all is said here and in the prepared files."""


class FaceBuilder(tfds.core.GeneratorBasedBuilder):
    """A TFDS builder of grey faces that reads the publisher's files where the user has put them.

    Nothing is downloaded: the publishers want a log-in, a form or a licence accepted. A subclass says in
    ``MANUAL_DOWNLOAD_INSTRUCTIONS`` where the files are given. Its examples hold at least ``image`` (grey, stored
    without loss), ``id`` (where in the publisher's files the example is) and the label named by ``supervised_keys``.

    Args:
        source: the publisher's files; needed to prepare, not to read.
        skip_corrupt: leave damaged rows out and keep their ids, per split, in ``info.metadata["skipped"]``; otherwise
            the first one is an error.
        how: how it is prepared.
        **builder_options: as TFDS has them: ``data_dir``, ``config``, ``version``.
    """

    SPLIT_ALIASES: ClassVar[dict[str, str]] = {}
    """The publisher's own names of the splits, besides train, validation and test."""

    CROP_MARGIN: ClassVar[float] = 0.0
    """How far the images reach beyond a Haar box on each side, as a share of its side (experiments.crop_margin)."""

    def __init__(
        self,
        *,
        source: Path | None = None,
        skip_corrupt: bool = False,
        how: Preparation = Preparation(),  # noqa: B008  # frozen
        **builder_options: Any,
    ) -> None:
        self.source = source
        self.skip_corrupt = skip_corrupt
        self.how = how
        self.notes: list[str] = []  # what the user should know of how the files were read
        try:
            super().__init__(file_format="array_record", **builder_options)
            self.verify(lambda name: ".array_record" not in name)  # those are verified when they are read
        except FaceflaxError:
            raise
        except Exception as error:  # TFDS raises anything for damaged files
            if not hasattr(self, "_data_dir") or not self.is_prepared:
                raise
            raise self._damaged(said(error)) from None

    @property
    def source_path(self) -> Path:
        """The given source.

        Raises:
            FaceflaxError: none was given, or nothing is there.
        """
        if self.source is None:
            raise FaceflaxError("source", self.name, "needs the publisher's files", self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        if not os.path.exists(self.source):  # Path.exists raises for names that are too long
            remedy = f"name the path of the publisher's files. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            raise FaceflaxError("source", self.source, "nothing at {}", remedy)
        return self.source

    @property
    def is_prepared(self) -> bool:
        """Whether the dataset is in ``data_dir``, complete."""
        return os.path.exists(self.data_path)

    def verify(self, chosen: Callable[[str], bool]) -> None:
        """Checks that prepared files, of the names that ``chosen`` takes, are what was prepared.

        Raises:
            FaceflaxError: one is not.
        """
        folder = Path(self.data_dir)
        if not self.is_prepared:
            return
        if not digests.is_sealed(folder):
            _unsealed(folder)
            return
        problem = digests.damage(folder, chosen)
        if problem is not None:
            raise self._damaged(problem)

    def _damaged(self, problem: str) -> FaceflaxError:
        return FaceflaxError(
            "dataset",
            self.name,
            f"in {str(self.data_dir)!r} is damaged: {problem}",
            f"run: {self.preparation} --overwrite",
        )

    @property
    def preparation(self) -> str:
        """The command that prepares what this builder reads."""
        source = " --source PATH" if self.MANUAL_DOWNLOAD_INSTRUCTIONS else ""
        config = self.builder_config
        name = f" --name {config.name}" if self.name == "folder" and config.name != "default" else ""
        root = Path(self.data_dir_root)
        data_dir = "" if root == default_data_dir() else f" --data-dir {root}"
        return f"faceflax prepare-data {self.name}{source}{name}{data_dir}"

    @property
    def skipped(self) -> dict[str, list[str]]:
        """The ids of the damaged rows that were left out, for each split that has any."""
        return dict(self.info.metadata or {}).get("skipped", {})

    def prepare(self) -> None:
        """Writes the dataset; an older one is replaced once the new one is complete, and otherwise stays as it is.

        Raises:
            FaceflaxError: the source or ``data_dir`` cannot be used.
        """
        options = {
            "source": self.source,
            "skip_corrupt": self.skip_corrupt,
            "how": self.how,
            "config": self.builder_config,
        }
        self._reader = self.prepared(Path(self.data_dir_root), **options)
        self.notes = self._reader.notes

    _reader: FaceBuilder | None = None
    """What reads the dataset that this builder has prepared: TFDS's keep what they knew of an older one."""

    @property
    def info(self) -> tfds.core.DatasetInfo:
        """What is known of the dataset."""
        return super().info if self._reader is None else self._reader.info

    @classmethod
    def prepared(cls, root: Path, **options: Any) -> Self:
        """Writes the dataset as :meth:`prepare` does, whatever is in its place, and returns the builder that reads it.

        Args:
            root: ``data_dir``.
            **options: the builder's others.

        Raises:
            FaceflaxError: the source or ``root`` cannot be used.
        """
        files.writable_folder("data_dir", root)
        how = options.get("how", Preparation())
        if how.runner is not None:  # what is wrong with it is said before anything is read
            from faceflax import runners

            runners.choose(how.runner, how.runner_options)
        try:
            return cls._prepared(root, options)
        except OSError as error:
            place = f" at {error.filename!r}" if error.filename else ""
            problem = f"cannot turn {{}} into {cls.name} in {str(root)!r} (data_dir): {said(error)}{place}"
            remedy = "make the one readable and room in the other"
            raise FaceflaxError("source", options["source"], problem, remedy) from None

    @classmethod
    def _prepared(cls, root: Path, options: dict[str, Any]) -> Self:
        # TFDS deletes the older dataset before it writes the new one, so the new one is written next to it first. What
        # TFDS prints, apart from its progress bars, speaks of a download and of that passing folder.
        with contextlib.redirect_stdout(io.StringIO()), _staging(root) as staging:
            staged = cls(**options, data_dir=staging)
            try:
                staged._write()
            except BaseException:
                if staged._kept_in.is_dir():
                    place = str(staged._kept_in)
                    _log.warning("faceflax: what has been read is kept in %r; the same command goes on with it", place)
                raise
            digests.seal(Path(staged.data_dir))
            target = root / Path(staged.data_dir).relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            older = target.with_name(f"{target.name}{_OLDER}")
            with contextlib.suppress(FileNotFoundError):
                os.replace(target, older)
            os.replace(staged.data_dir, target)
            shutil.rmtree(older, ignore_errors=True)
        shutil.rmtree(staged._kept_in, ignore_errors=True)
        fresh = cls(**options, data_dir=root)
        fresh.notes = staged.notes
        return fresh

    @property
    def _kept_in(self) -> Path:
        """Where what has been read is kept while the dataset is being written, in a folder beside it."""
        config = "" if self.builder_config is None else f".{self.builder_config.name}"
        return Path(self.data_dir_root).parent / f"{_UNFINISHED}{self.name}{config}"

    def _write(self) -> None:
        """Lets TFDS write the dataset, from what this process or the workers of a pipeline read."""
        download = {"try_download_gcs": False}
        if self.how.runner is None:
            self.download_and_prepare(download_config=tfds.download.DownloadConfig(**download))
            return
        from faceflax import runners
        from faceflax.data import beam

        runner, options = runners.choose(self.how.runner, self.how.runner_options)
        with runners.running(self.how.runner):
            config = tfds.download.DownloadConfig(beam_runner=runner, beam_options=options, **download)
            self.download_and_prepare(download_config=config)
        for split in self.info.splits:
            if skipped := beam.skipped(self._skipped_in(split)):
                self.info.metadata.setdefault("skipped", {})[split] = skipped
        self.info.write_to_directory(self.data_dir)

    def _skipped_in(self, split: str) -> Path:
        return Path(self.data_dir_root) / f"skipped-{split}"

    def _generate_examples(self, split: str, rows: Iterable[Row], count: int | None = None) -> Any:
        """Reads rows for TFDS.

        Args:
            split: its name.
            rows: those of it.
            count: how many, if ``rows`` does not know.
        """
        if self.how.runner is not None:
            from faceflax.data import beam

            rows = list(rows)
            if not rows:
                raise self._without_examples(split, 0)
            return beam.Examples(rows, self._skipped_in(split) if self.skip_corrupt else None)
        if count is None and isinstance(rows, Sized):
            count = len(rows)
        found = outcomes(rows, self.how.threads, Kept(self._kept_in, f"{self.name} {self.version}").read)
        examples = self._examples(split, found)
        return examples if count is None else Counted(examples, count)

    def _examples(self, split: str, found: Iterable[Outcome]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The examples among what was found; a split without any is the source's fault and is said so."""
        empty, skipped = True, []
        for identity, example in found:
            if not isinstance(example, FaceflaxError):
                empty = False
                yield identity, example
            elif self.skip_corrupt:
                skipped.append(identity)
            else:
                remedy = ", or ".join(filter(None, (example.remedy, "leave damaged rows out with skip_corrupt")))
                raise FaceflaxError(example.field, example.value, example.problem, remedy) from None
        if empty:
            raise self._without_examples(split, len(skipped))
        if skipped:
            self.info.metadata.setdefault("skipped", {})[split] = skipped

    def _without_examples(self, split: str, skipped: int) -> FaceflaxError:
        damaged = f" but {skipped} damaged ones" if skipped else ""
        problem = f"has no examples{damaged} for the {split} split of {self.name}"
        return FaceflaxError("source", self.source, problem, self.MANUAL_DOWNLOAD_INSTRUCTIONS)


_STAGING = "incomplete."
_UNFINISHED = "unfinished."
"""Begins the name of the folder of what has been read for a dataset that is not complete yet."""
_OLDER = ".older"
"""Ends the name of a dataset while the one that replaces it takes its place."""


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """Makes a folder in ``root`` for one preparation, and removes what killed ones have left there."""
    recover(root)
    folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=root))
    try:
        with files.exclusively("data_dir", folder, folder / "lock", keep=True):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def recover(root: Path) -> None:
    """Puts a dataset back whose replacement was killed before it was in place, and removes what killed ones left."""
    if not os.path.isdir(root):
        return
    staging = [folder for folder in root.glob(f"{_STAGING}*") if folder.is_dir()]
    for folder in staging:
        try:
            with files.exclusively("data_dir", folder, folder / "lock", keep=True):
                pass
        except FaceflaxError:  # it is being written, and may be about to replace a dataset
            return
        shutil.rmtree(folder, ignore_errors=True)
    for older in (folder for depth in ("*", "*/*") for folder in root.glob(f"{depth}/*{_OLDER}")):
        target = older.with_name(older.name.removesuffix(_OLDER))
        if target.exists():
            shutil.rmtree(older, ignore_errors=True)
        else:
            older.rename(target)
            _log.warning("faceflax: %s is back as it was before its replacement was killed", target)


def default_data_dir() -> Path:
    """TFDS's own place for prepared datasets: ``$TFDS_DATA_DIR``, or else ``~/tensorflow_datasets``."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


@functools.cache
def _unsealed(folder: Path) -> None:
    """Says once that a dataset cannot be verified."""
    _log.warning("faceflax: %s was prepared by faceflax 0.1, without digests, and cannot be verified", folder)


def grey_image() -> tfds.features.Image:
    """The feature for a grey image of any size, stored as PNG."""
    return tfds.features.Image(shape=(None, None, 1), encoding_format="png")


def png(image: UInt8[np.ndarray, "height width"]) -> io.BytesIO:
    """Encodes a grey image in the form that TFDS stores without TensorFlow."""
    return io.BytesIO(cv2.imencode(".png", image)[1].tobytes())


def jpeg(image: UInt8[np.ndarray, "height width 3"]) -> io.BytesIO:
    """Encodes a BGR image in a form that TFDS stores without TensorFlow, at a quality that hardly shows."""
    return io.BytesIO(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())


def inside(root: Path, name: str, where: str) -> Path:
    """Returns the path of what a publisher's list names, which must be in the publisher's folder.

    Args:
        root: the folder.
        name: relative to it.
        where: what names it, for the error.

    Raises:
        FaceflaxError: it would be elsewhere.

    Example:
        >>> inside(Path("fairface"), "../secret.jpg", "line 2")
        Traceback (most recent call last):
        faceflax.errors.FaceflaxError: source: 'fairface' does not hold '../secret.jpg', which line 2 names; ...
    """
    path = Path(root, name)
    try:
        within = "\0" not in name and path.resolve().is_relative_to(root.resolve())
    except OSError:
        within = False
    if not within:
        problem = f"does not hold {name!r}, which {where} names"
        raise FaceflaxError("source", root, problem, "name what the publisher gives")
    return path


def shown(path: Path) -> str:
    """A path as text that UTF-8 can hold, whatever the bytes of its name.

    Example:
        >>> shown(Path("a") / "b.png")
        'a/b.png'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


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
    fraction = int.from_bytes(hashlib.sha256(os.fsencode(key)).digest()[:8], "big") / 2**64
    if fraction < validation:
        return "validation"
    return "test" if fraction < validation + test else "train"
