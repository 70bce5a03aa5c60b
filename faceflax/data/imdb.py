"""IMDB-WIKI: photos of celebrities with their gender, from IMDb and from Wikipedia; two datasets, read in one way."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from faceflax import labels
from faceflax.data import builder
from faceflax.data.preparation import Row
from faceflax.errors import FaceflaxError

MIN_FACE_SCORE = 3.0


class ImdbWiki(builder.FaceBuilder, skip_registration=True):  # type: ignore[call-arg]  # a base class
    """One half of IMDB-WIKI (Rothe et al., 2018, https://doi.org/10.1007/s11263-016-0940-3).

    The source is the unpacked folder of face crops, ``imdb_crop`` or ``wiki_crop``, with the ``.mat`` file and the
    folders of JPEGs in it. Kept are photos with a detector score above 3, no second face and a known gender, as in
    Arriaga et al. (2017, https://arxiv.org/abs/1710.07557).

    Splits: train 80%, validation 10%, test 10% of the people, by a hash, so that nobody is in two splits.

    Colour becomes grey and photos are stored at most 128 pixels a side, without loss.
    """

    PUBLISHED: ClassVar[str]
    """What the publisher calls it."""
    SPLITS: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    PEOPLE: ClassVar[str]
    """The column of the ``.mat`` file that distinguishes the people."""

    CROP_MARGIN = 0.4  # as published, of another detector's box
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return builder.Info(
            builder=self,
            description="Photos of celebrities, cut around the face, with their gender.",
            homepage="https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki/",
            citation="Rothe, Timofte and Van Gool. Deep expectation of real and apparent age from a single image "
            "without facial landmarks. IJCV 2018.",
            features=tfds.features.FeaturesDict(
                {
                    "image": builder.grey_image(),
                    "gender": tfds.features.ClassLabel(names=labels.GENDERS),
                    "id": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "gender"),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        mat = self._mat_file()
        table = read_mat(mat, self.PUBLISHED, self.PEOPLE)
        kept = np.flatnonzero(
            (table["face_score"] > MIN_FACE_SCORE)
            & np.isnan(table["second_face_score"])
            & np.isin(table["gender"], (0, 1))
        )
        self.notes.append(
            f"{len(kept)} of {len(table['gender'])} photos have a face score above {MIN_FACE_SCORE:g}, no second face "
            "and a known gender."
        )
        files = [str(file) for file in table["full_path"][kept]]
        splits = self._split(files, [str(person) for person in table[self.PEOPLE][kept]])
        rows: dict[str, list[Row]] = {split: [] for split in self.SPLITS}
        for file, split, gender in zip(files, splits, table["gender"][kept], strict=True):
            read = functools.partial(_example, mat.parent, file, labels.GENDERS[int(gender)])
            rows[split].append(Row(file, read, mat.parent / file))
        return {split: self._generate_examples(split, rows[split]) for split in rows}

    def _split(self, files: Sequence[str], people: Sequence[str]) -> list[str]:
        """Says which split each photo is in."""
        return [builder.random_split(person or file) for file, person in zip(files, people, strict=True)]

    def _mat_file(self) -> Path:
        source = self.source_path
        name = f"{self.PUBLISHED}.mat"
        for file in (source, source / name, source / f"{self.PUBLISHED}_crop" / name):
            if file.name == name and file.is_file():
                return file
        raise FaceflaxError("source", source, f"no {name} in {{}}", self.MANUAL_DOWNLOAD_INSTRUCTIONS)


def _example(root: Path, file: str, gender: str) -> dict[str, Any]:
    return builder.read_example(builder.inside(root, file, "full_path"), gender=gender)


class Imdb(ImdbWiki):
    """The IMDb half of :class:`ImdbWiki`: 460,723 photos of 20,284 people before filtering."""

    PUBLISHED = "imdb"
    PEOPLE = "celeb_id"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki/ gives imdb_crop.tar (7 GB, 'faces only'); unpack it, "
        "the source is the folder imdb_crop with imdb.mat in it."
    )


class ImdbReference(Imdb):
    """:class:`Imdb` in the splits of Arriaga et al.'s code, to compare with their figures.

    Splits: train = the first 80% of the photos in the order of their names, validation = the others. There is no test
    split, so what is chosen on validation has no unbiased figure. A name begins with the last two digits of the
    person's number, so that hardly anybody is in both.

    The splits are those of https://github.com/oarriaga/face_classification.
    """

    SPLITS = ("train", "validation")
    TRAINED: ClassVar[float] = 0.8
    """Share of the photos in train."""

    def _split(self, files: Sequence[str], people: Sequence[str]) -> list[str]:
        first = set(sorted(files)[: round(self.TRAINED * len(files))])
        return ["train" if file in first else "validation" for file in files]


class Wiki(ImdbWiki):
    """The Wikipedia half of :class:`ImdbWiki`: 62,328 photos before filtering."""

    PUBLISHED = "wiki"
    PEOPLE = "name"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki/ gives wiki_crop.tar (1 GB, 'faces only'); unpack it, "
        "the source is the folder wiki_crop with wiki.mat in it."
    )


def read_mat(file: Path, name: str, people: str) -> dict[str, np.ndarray]:
    """Reads the columns used here from ``imdb.mat`` or ``wiki.mat``, a MATLAB 5 file with one struct called ``name``.

    A process of its own reads it: some damaged files end SciPy's reader with a segmentation fault.

    Returns:
        ``full_path``, ``gender``, ``face_score``, ``second_face_score`` and the column ``people`` as text, empty where
        it is not known, one entry a photo.

    Raises:
        FaceflaxError: the file is no such file.
    """
    with tempfile.TemporaryDirectory(prefix="faceflax-") as folder:
        table = Path(folder) / "table.npz"
        command = [sys.executable, "-c", _READER, str(file), name, people, str(table)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if done.returncode == 0:
            with np.load(table, allow_pickle=False) as columns:
                return dict(columns)
    reason = done.stderr.strip().rpartition("\n")[2] or "it ends the process that reads it"
    problem = f"is not IMDB-WIKI's {name}.mat, or is damaged ({reason})"
    raise FaceflaxError("source", file, problem, "unpack the archive again")


_READER = """
import sys

import numpy as np
import scipy.io

file, name, people, table = sys.argv[1:]
try:
    struct = scipy.io.loadmat(file, variable_names=[name], squeeze_me=True)[name]
    columns = {}
    for column in dict.fromkeys(("full_path", "gender", "face_score", "second_face_score", people)):
        values = np.atleast_1d(struct[column].item())
        if column in ("full_path", people):
            values = np.array(["".join(map(str, np.ravel(each)[:1])) for each in values], str)
        elif values.dtype.kind not in "biuf":
            raise ValueError(f"{column} is {values.dtype}")
        columns[column] = values
    for column, values in columns.items():
        if values.shape != columns["gender"].shape:
            raise ValueError(f"{column} has the shape {values.shape}")
except BaseException as error:  # it raises almost anything on a damaged file
    sys.exit(": ".join(filter(None, (type(error).__name__, " ".join(str(error).split())))))
np.savez(table, **columns)
"""
