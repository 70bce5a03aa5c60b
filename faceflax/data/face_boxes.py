"""Photographs with the boxes of their faces, to train a detector on: WIDER FACE as published, and five sources in one.

Sources frame faces differently. All are brought to the convention of WIDER FACE, which is stated at
:class:`~faceflax.data.scenes.Scene`: upright boxes from the forehead to the chin and from ear to ear.
"""

from __future__ import annotations

import csv
import functools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float32, UInt8

from faceflax import files, preprocessing
from faceflax.data import builder, fer2013
from faceflax.data.preparation import Row
from faceflax.data.scenes import Scene
from faceflax.errors import FaceflaxError, said
from faceflax.opencv import cv2

GROUPS = ("wider", "mask", "portrait", "closeup", "noface")
"""Kinds of pictures: photographs of people, of people with masks, portraits, close faces, and none with a face."""

INCOMPLETE = ("portrait", "closeup")
"""Kinds of pictures in which only the face in the middle has a box; many portraits have others behind it."""

LONGEST_SIDE = 640
"""Longest side, in pixels, at which a photograph is stored: what a detector searches by default."""

FRAMING: Mapping[str, tuple[float, float, float, float]] = {
    "portrait": (1.10, 1.44, 0.010, -0.070),
    "closeup": (1.00, 1.28, 0.008, -0.065),
    "mask": (0.97, 1.116, -0.010, -0.150),
}
"""What makes WIDER FACE's boxes of a source's: factors of width and height, and by how much the centre moves right and
down, in shares of the longer side. Medians of where YuNet, which was trained on WIDER FACE, frames the same faces (400
pictures of each; over WIDER FACE's own boxes it gives 0.985, 0.998, 0.001 and -0.004)."""


class SceneBuilder(builder.FaceBuilder):
    """A builder of photographs with boxes, which :func:`load_scenes` reads. Images are at most 640 pixels."""

    def _features(self) -> tfds.features.FeaturesDict:
        return tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
                "landmarks": tfds.features.Tensor(shape=(None, 10), dtype=np.float32),
                "ignored": tfds.features.Tensor(shape=(None,), dtype=np.bool_),
                "group": tfds.features.ClassLabel(names=GROUPS),
                "id": tfds.features.Text(),
            }
        )


class Faces(SceneBuilder):
    """Five sources of faces in one archive: ``GROUP/NUMBER.webp`` and ``boxes.csv``.

    The columns of ``boxes.csv`` are split (train or validation), file, x, y, width, height, ignore, and lx1, ly1 to
    lx5, ly5: the left eye, right eye, nose, left and right corner of the mouth as the image shows them. A file without
    a face has a row with empty columns. A tenth of the group ``mask``, which has no validation split, is put into one
    by a hash of the file's name.
    """

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {"2.0.0": "In colour.", "1.0.0": "First version."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The source is the archive faces.zip, or the folder it unpacks to, with boxes.csv."

    def _info(self) -> tfds.core.DatasetInfo:
        return builder.Info(
            builder=self,
            description="Photographs, people with masks, portraits and close faces, with boxes; and none with a face.",
            features=self._features(),
            supervised_keys=("image", "group"),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        rows: dict[str, dict[str, list[dict[str, str]]]] = {"train": {}, "validation": {}}
        for row in self._rows():
            name, split = row.get("file") or "", row.get("split") or ""
            if name.partition("/")[0] not in GROUPS or split not in rows:
                problem = f"line {row['line']} of boxes.csv in {{}} has file {name!r} and split {split!r}"
                raise FaceflaxError("source", self.source, problem, self.MANUAL_DOWNLOAD_INSTRUCTIONS)
            if name.startswith("mask/") and split == "train":
                split = builder.random_split(name, test=0)
            rows[split].setdefault(name, []).append(row)
        source = self.source_path
        return {
            split: self._generate_examples(
                split, [Row(name, functools.partial(_boxed, source, name, of)) for name, of in rows[split].items()]
            )
            for split in rows
        }

    def _rows(self) -> Iterator[dict[str, str]]:
        try:
            lines = _bytes(self.source_path, "boxes.csv").decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            problem = f"boxes.csv in {{}} is not UTF-8 ({said(error)})"
            raise FaceflaxError("source", self.source, problem, self.MANUAL_DOWNLOAD_INSTRUCTIONS) from None
        reader = csv.DictReader(lines)
        for row in reader:
            yield row | {"line": str(reader.line_num)}


class Wider(SceneBuilder):
    """WIDER FACE (Yang, Luo, Loy and Tang, CVPR 2016, http://shuoyang1213.me/WIDERFACE) as it is published.

    Splits: test = the published validation set, on which nothing may be selected; validation = a tenth of the published
    training set, held out by a hash of the file's name; train = the rest. It has no landmarks.
    """

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {"2.0.0": "In colour.", "1.0.0": "First version."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "http://shuoyang1213.me/WIDERFACE gives the images and the annotations; the source is a folder with "
        "WIDER_train/images, WIDER_val/images and wider_face_split/ in it."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return builder.Info(
            builder=self,
            description="Photographs of people, with a box for each face.",
            homepage="http://shuoyang1213.me/WIDERFACE",
            citation="Yang, Luo, Loy and Tang. WIDER FACE: A Face Detection Benchmark. CVPR 2016.",
            features=self._features(),
            supervised_keys=("image", "group"),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        rows: dict[str, list[tuple[Path, str, list[str]]]] = {"train": [], "validation": [], "test": []}
        for entry in self._entries("train"):
            rows[builder.random_split(entry[1], test=0)].append(entry)
        rows["test"] = list(self._entries("val"))
        return {
            split: self._generate_examples(
                split,
                [Row(name, functools.partial(_photograph, file, name, of), file) for file, name, of in rows[split]],
            )
            for split in rows
        }

    def _entries(self, part: str) -> Iterator[tuple[Path, str, list[str]]]:
        """The images of one published part: the file, its name and the lines of its boxes."""
        file = self.source_path / "wider_face_split" / f"wider_face_{part}_bbx_gt.txt"
        try:
            whole = files.read("source", file, builder.MOST_BYTES, remedy=self.MANUAL_DOWNLOAD_INSTRUCTIONS)
            lines = iter(whole.decode("utf-8").splitlines())
            for name in lines:
                count = int(next(lines))
                boxes = [next(lines) for _ in range(max(count, 1))]  # an image without a face has a line of zeros
                path = builder.inside(self.source_path / f"WIDER_{part}" / "images", name, file.name)
                yield path, f"{part}/{name}", boxes[:count]
        except FaceflaxError:
            raise
        except (OSError, ValueError, StopIteration) as error:
            problem = f"cannot read {{}} ({'it ends too early' if isinstance(error, StopIteration) else said(error)})"
            raise FaceflaxError("source", file, problem, self.MANUAL_DOWNLOAD_INSTRUCTIONS) from None


@functools.lru_cache(maxsize=1)
def _archive(source: Path, state: tuple[int, int]) -> zipfile.ZipFile:
    """Opens an archive once, while it stays as it is: its size and time are ``state``."""
    return zipfile.ZipFile(source)


def _bytes(source: Path, name: str) -> bytes:
    """Reads what is called ``name`` in the archive or the folder."""
    remedy = Faces.MANUAL_DOWNLOAD_INSTRUCTIONS
    try:
        if source.is_dir():
            place = builder.inside(source, name, "boxes.csv")
            return files.read("source", place, builder.MOST_BYTES, remedy="unpack it again")
        files.check_file("source", source, remedy=remedy)
        state = source.stat()
        archive = _archive(source, (state.st_size, state.st_mtime_ns))
        if archive.getinfo(name).file_size > builder.MOST_BYTES:
            raise ValueError("it is too large when unpacked")
        return archive.read(name)
    except FaceflaxError:
        raise
    except (KeyError, *fer2013.READ_ERRORS) as error:
        problem = f"cannot read {name} in {{}} ({said(error)})"
        raise FaceflaxError("source", source, problem, remedy) from None


def _boxed(source: Path, name: str, rows: list[dict[str, str]]) -> dict[str, Any]:
    """An example of :class:`Faces`."""
    group = name.partition("/")[0]
    image = cv2.imdecode(np.frombuffer(_bytes(source, name), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise FaceflaxError("source", source, f"{name} in {{}} is not an image", "unpack it again")
    faces = []
    for row in rows:
        if not row["x"]:
            continue
        try:
            box = [float(row[column]) for column in ("x", "y", "width", "height")]
            points = [float(row[f"l{axis}{i}"] or "nan") for i in range(1, 6) for axis in "xy"]
        except (KeyError, TypeError, ValueError):
            problem = f"line {row['line']} of boxes.csv in {{}} is not a box"
            raise FaceflaxError("source", source, problem, "unpack it again") from None
        faces.append((reframed(box, group), points, row["ignore"] == "1"))
    return _example(np.asarray(image), faces, group)


def _photograph(file: Path, name: str, lines: list[str]) -> dict[str, Any]:
    """An example of :class:`Wider`."""
    faces = []
    for line in lines:
        try:
            x, y, width, height, _, _, _, invalid, *_ = (float(value) for value in line.split())
        except ValueError:
            problem = f"the box {line!r} of {{}} is not ten numbers"
            raise FaceflaxError("source", file, problem, "download the annotations again") from None
        if width > 0 and height > 0:
            faces.append(([x, y, width, height], [np.nan] * 10, invalid == 1))
    return _example(preprocessing.read_image("source", file), faces, "wider" if faces else "noface")


def reframed(box: list[float], group: str) -> list[float]:
    """Returns a source's box (x, y, width, height) in WIDER FACE's convention.

    Example:
        >>> [round(value, 2) for value in reframed([10, 10, 100, 100], "portrait")]
        [6.0, -19.0, 110.0, 144.0]
    """
    if group not in FRAMING:
        return box
    x, y, width, height = box
    across, down, right, below = FRAMING[group]
    side = max(width, height)
    centre = x + width / 2 + right * side, y + height / 2 + below * side
    width, height = width * across, height * down
    return [centre[0] - width / 2, centre[1] - height / 2, width, height]


def _example(
    image: UInt8[np.ndarray, "height width 3"], faces: list[tuple[list[float], list[float], bool]], group: str
) -> dict[str, Any]:
    height, width = image.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale < 1:
        rows, columns = (max(1, round(side * scale)) for side in (height, width))
        factors = np.array([columns / width, rows / height], np.float32)
        image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    else:
        factors = np.ones(2, np.float32)
    boxes = np.array([box for box, _, _ in faces], np.float32).reshape(-1, 4)
    landmarks = np.array([points for _, points, _ in faces], np.float32).reshape(-1, 10)
    return {
        "image": builder.jpeg(image),
        "boxes": boxes * np.tile(factors, 2),
        "landmarks": landmarks * np.tile(factors, 5),
        "ignored": np.array([ignored for _, _, ignored in faces], bool),
        "group": group,
    }


def read_scene(example: Mapping[str, Any]) -> Scene:
    """Makes a scene of what TFDS reads."""
    landmarks: Float32[np.ndarray, "faces 5 2"] = example["landmarks"].reshape(-1, 5, 2)
    complete = GROUPS[example["group"]] not in INCOMPLETE
    return Scene(
        np.ascontiguousarray(example["image"][:, :, ::-1]), example["boxes"], landmarks, example["ignored"], complete
    )
