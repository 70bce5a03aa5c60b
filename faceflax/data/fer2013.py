"""FER-2013: 35,887 grey 48x48 faces with one of seven perceived emotions."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import lzma
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from faceflax import labels
from faceflax.data import builder, folder
from faceflax.data.preparation import Row
from faceflax.errors import FaceflaxError, said
from faceflax.files import check_file

SIZE = 48
_MOST_BYTES = 2**31  # the CSV has 302 MB
_LONGEST_LINE = 2**20  # characters; an image has some 9,000. A small archive can hold a line of gigabytes
CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")
SPLIT_OF_USAGE = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
FOLDER_NAMES = {
    **{name: name for name in labels.EMOTIONS},
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "happiness": "happy",
    "sadness": "sad",
    "surprised": "surprise",
}
READ_ERRORS = (
    *(OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, csv.Error),
    *(RuntimeError, NotImplementedError, ValueError),  # of an encrypted archive, of a newer one, of an odd header
)


class Place(NamedTuple):
    """Where a row is, for an error's message."""

    file: Path
    row: str


class Fer2013(builder.FaceBuilder):
    """FER-2013 (Goodfellow et al., 2013, https://arxiv.org/abs/1307.0414).

    Splits: train = Training (28,709), validation = PublicTest (3,589), test = PrivateTest (3,589).

    The source is Kaggle's ``fer2013.csv`` or ``icml_face_data.csv``, a ``.tar.gz`` or ``.zip`` that holds one of them,
    or a folder with any of these in it. The folder-of-images download (``train/angry/...``, ``test/angry/...``) is read
    as well, but it has lost which test image was PublicTest: there test = all 7,178 published test images,
    validation = a tenth of the training images, and accuracies do not compare with those of the CSV's PrivateTest.
    """

    CROP_MARGIN = 0.016  # 0.013 was measured; as FairFace's, one crop of a face is for both networks
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012
    SPLIT_ALIASES = SPLIT_OF_USAGE
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Kaggle gives fer2013.csv (in fer2013.tar.gz, or as icml_face_data.csv) to everyone with an account at "
        "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge/data ; "
        "the source is the CSV, the archive or their folder."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return builder.Info(
            builder=self,
            description="48x48 grey faces from image search with one of seven perceived emotions.",
            homepage="https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge",
            citation="Goodfellow et al. Challenges in Representation Learning: A report on three machine learning "
            "contests. ICONIP 2013.",
            features=features(),
            supervised_keys=("image", "emotion"),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        source = find_source(self.source_path)
        splits = SPLIT_OF_USAGE.values()
        if source.is_dir():
            self.notes.append(
                "The folder of images does not say which test images are PublicTest: a tenth of train/ was held "
                "out as the validation split, and test is the whole published test folder."
            )
            images = folder.find_images(source, self.notes)
            return {split: self._generate_examples(split, self._rows(images.get(split, ()))) for split in splits}
        counts = Counter(split_of(row) for _, row, _ in csv_rows(source))
        return {split: self._generate_examples(split, read_rows(source, split), counts[split]) for split in splits}

    def _rows(self, images: Iterable[tuple[str, Path]]) -> list[Row]:
        rows = []
        for name, file in images:
            emotion = FOLDER_NAMES.get(name.lower())
            if emotion is None:
                problem = f"the folder {{}} is not named after one of the emotions {', '.join(labels.EMOTIONS)}"
                raise FaceflaxError("source", file.parent, problem, "rename it")
            rows.append(folder.image_row(self.source_path, file, emotion=emotion))
        return rows


def features() -> tfds.features.FeaturesDict:
    """What an example holds."""
    return tfds.features.FeaturesDict(
        {
            "image": builder.grey_image(),
            "emotion": tfds.features.ClassLabel(names=labels.EMOTIONS),
            "id": tfds.features.Text(),
        }
    )


def find_source(source: Path) -> Path:
    """Returns the CSV or archive that ``source`` is or has in it, or else ``source``, a folder with a ``train`` folder.

    Raises:
        FaceflaxError: there is nothing of FER-2013 in the folder.
    """
    if not source.is_dir():
        return source
    inside = (source, source / "fer2013")
    for name in (*CSV_NAMES, "fer2013.tar.gz", "fer2013.zip"):
        for parent in inside:
            if (parent / name).is_file():
                return parent / name
    if (source / "train").is_dir():
        return source
    problem = f"none of {', '.join(CSV_NAMES)}, fer2013.tar.gz, fer2013.zip and train/ is in the folder {{}}"
    raise FaceflaxError("source", source, problem, "name the one you have")


def split_of(row: dict[str, str | None]) -> str:
    """Returns the split of a row: a damaged one is in ``train`` where it does not even say its split."""
    return SPLIT_OF_USAGE.get(row["Usage"] or "", "train")


def read_rows(source: Path, split: str) -> Iterator[Row]:
    """Yields the rows of a split; the id is the row's number, from 0, in the file, as is said where it is damaged.

    Raises:
        FaceflaxError: the file is none of FER-2013's forms, or cannot be read on.
    """
    for number, row, place in csv_rows(source):
        if split_of(row) == split:
            yield Row(str(number), functools.partial(parse, row, place))


def csv_rows(source: Path) -> Iterator[tuple[int, dict[str, str | None], Place]]:
    """Yields the number, from 0, the columns and the place of each row, as they stand.

    Raises:
        FaceflaxError: the file is none of FER-2013's forms, or cannot be read on.
    """
    rows = None
    check_file("source", source, most=_MOST_BYTES, remedy="name FER-2013's CSV or archive")
    try:
        with _open_csv(source) as file:
            lines = iter(functools.partial(file.readline, _LONGEST_LINE), "")
            rows = csv.DictReader(lines, skipinitialspace=True)
            columns = set(rows.fieldnames or ())
            if not columns >= {"emotion", "pixels", "Usage"}:
                problem = f"has the columns {sorted(columns)!r}, not emotion, pixels and Usage"
                raise FaceflaxError("source", source, problem, "name FER-2013's own CSV")
            for number, row in enumerate(rows):
                yield number, row, Place(source, f"row {number} (line {rows.line_num})")
    except FaceflaxError:
        raise
    except READ_ERRORS as error:
        place = f" after line {rows.line_num}" if rows else ""
        raise FaceflaxError("source", source, f"cannot read {{}}{place} ({said(error)})", "download it again") from None


def parse(row: dict[str, str | None], place: Place) -> dict[str, Any]:
    """Makes an example of a row.

    Raises:
        FaceflaxError: the row is damaged.
    """
    try:
        emotion, pixels = int(row["emotion"] or ""), bytearray(map(int, (row["pixels"] or "").split()))
        if emotion not in range(len(labels.EMOTIONS)) or row["Usage"] not in SPLIT_OF_USAGE:
            raise ValueError
        return {"image": builder.png(np.array(pixels).reshape(SIZE, SIZE)), "emotion": emotion}
    except ValueError:
        usages = ", ".join(SPLIT_OF_USAGE)
        needed = f"needs an emotion from 0 to 6, {SIZE * SIZE} pixels from 0 to 255 and a Usage of {usages}"
        problem = f"{place.row} of {{}} {needed}"
        raise FaceflaxError("source", place.file, problem, "download the file again") from None


@contextlib.contextmanager
def _open_csv(source: Path) -> Iterator[IO[str]]:
    """Opens the CSV that ``source`` is or holds, wherever in the archive it lies."""
    with contextlib.ExitStack() as stack:
        if zipfile.is_zipfile(source):
            archive = stack.enter_context(zipfile.ZipFile(source))
            raw: IO[bytes] | None = archive.open(_member(source, archive.namelist()))
        elif tarfile.is_tarfile(source):
            tar = stack.enter_context(tarfile.open(source))
            raw = tar.extractfile(_member(source, [member.name for member in tar if member.isreg()]))
        elif source.suffix.lower() == ".csv":
            raw = source.open("rb")
        else:
            problem = "is not a whole CSV, .zip or .tar.gz file"
            raise FaceflaxError("source", source, problem, "name FER-2013's, or download it again")
        assert raw is not None
        # A byte that is no UTF-8 makes its own row damaged, not the file.
        yield stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline=""))


def _member(source: Path, names: Iterable[str]) -> str:
    for name in names:
        if name.rsplit("/", 1)[-1] in CSV_NAMES:
            return name
    problem = f"neither {' nor '.join(CSV_NAMES)} is in {{}}"
    raise FaceflaxError("source", source, problem, "if it holds a folder of images, unpack it and name the folder")
