"""FairFace: 97,698 faces balanced over seven race groups, with perceived gender, age group and race group."""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from faceflax import labels
from faceflax.data import builder
from faceflax.data.preparation import Row
from faceflax.errors import FaceflaxError, said
from faceflax.files import check_file

GENDERS = {"Female": "woman", "Male": "man"}
AGE_GROUPS = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
RACES = ("Black", "East Asian", "Indian", "Latino_Hispanic", "Middle Eastern", "Southeast Asian", "White")


class Fairface(builder.FaceBuilder):
    """FairFace (Karkkainen and Joo, 2021, https://arxiv.org/abs/1908.04913), labelled by perceived gender.

    Splits: test = the published validation set, on which nothing may be selected; validation = a tenth of the published
    training set, held out by a hash of the file's name; train = the rest. Race and age group are kept as features, so
    that accuracy can be reported per group.

    Grey photos are stored at most 128 pixels a side, without loss.
    """

    CROP_MARGIN = 0.016
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "https://github.com/joojs/fairface gives the images (padding 0.25) and the two CSV files; the source is a "
        "folder with train/, val/, fairface_label_train.csv and fairface_label_val.csv in it."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return builder.Info(
            builder=self,
            description="Faces balanced over seven race groups, with perceived gender, age group and race group.",
            homepage="https://github.com/joojs/fairface",
            citation="Karkkainen and Joo. FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age for Bias "
            "Measurement and Mitigation. WACV 2021.",
            features=tfds.features.FeaturesDict(
                {
                    "image": builder.grey_image(),
                    "gender": tfds.features.ClassLabel(names=labels.GENDERS),
                    "age": tfds.features.ClassLabel(names=AGE_GROUPS),
                    "race": tfds.features.ClassLabel(names=RACES),
                    "id": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "gender"),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        training = self._rows("fairface_label_train.csv")
        rows: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "test": []}
        for row in training:
            rows[builder.random_split(row["id"], test=0)].append(row)
        rows["test"] = self._rows("fairface_label_val.csv")
        return {split: self._generate_examples(split, [self._row(row) for row in rows[split]]) for split in rows}

    def _rows(self, name: str) -> list[dict[str, str]]:
        file = self.source_path / name
        check_file("source", file, most=builder.MOST_BYTES, remedy=self.MANUAL_DOWNLOAD_INSTRUCTIONS)
        try:
            with file.open(encoding="utf-8-sig", newline="") as lines:
                reader = csv.DictReader(lines)
                rows = []
                for row in reader:
                    line = f"line {reader.line_num}"
                    rows.append(
                        row | {"id": row.get("file") or f"{line} of {str(file)!r}", "line": line, "csv": str(file)}
                    )
                return rows
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            problem = f"cannot read {{}} ({said(error)})"
            raise FaceflaxError("source", file, problem, self.MANUAL_DOWNLOAD_INSTRUCTIONS) from None

    def _row(self, row: dict[str, str]) -> Row:
        return Row(
            row["id"], functools.partial(_example, self.source_path, row), self.source_path / (row.get("file") or "")
        )


def _example(source: Path, row: dict[str, str]) -> dict[str, Any]:
    valid = row.get("gender") in GENDERS and row.get("age") in AGE_GROUPS and row.get("race") in RACES
    if not (valid and row.get("file")):
        problem = f"{row['line']} of {{}} lacks FairFace's file, age, gender or race"
        raise FaceflaxError("source", row["csv"], problem, "download the file again")
    file = builder.inside(source, row["file"], row["line"])
    return builder.read_example(file, gender=GENDERS[row["gender"]], age=row["age"], race=row["race"])
