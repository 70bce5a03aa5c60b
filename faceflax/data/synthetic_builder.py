"""The synthetic faces of :mod:`faceflax.data.synthetic` as a dataset: training and tests need no download."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from faceflax import labels
from faceflax.data import builder
from faceflax.data.preparation import Row
from faceflax.data.synthetic import SyntheticFaces, render_faces

COUNTS = {"train": 2800, "validation": 700, "test": 700}


class Synthetic(builder.FaceBuilder):
    """64x64 synthetic faces: ``synthetic`` labels their expression, ``synthetic/gender`` their gender.

    The faces are the same in both. ``expression_mask`` is white where a pixel carries the expression. Each split has a
    seed of its own: 0 for train, 1 for validation, 2 for test.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name="emotion", description="Labelled by expression."),
        tfds.core.BuilderConfig(name="gender", description="Labelled by gender."),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return builder.Info(
            builder=self,
            description="Procedurally rendered faces with seven expressions and two genders.",
            features=tfds.features.FeaturesDict(
                {
                    "image": builder.grey_image(),
                    "expression_mask": builder.grey_image(),
                    "emotion": tfds.features.ClassLabel(names=labels.EMOTIONS),
                    "gender": tfds.features.ClassLabel(names=labels.GENDERS),
                    "id": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", self.builder_config.name),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {
            split: self._generate_examples(split, self._render(count, seed), count)
            for seed, (split, count) in enumerate(COUNTS.items())
        }

    def _render(self, count: int, seed: int) -> Iterator[Row]:
        faces = render_faces(count, seed)
        for i in range(count):
            yield Row(str(i), functools.partial(_example, faces, i))


def _example(faces: SyntheticFaces, i: int) -> dict[str, Any]:
    return {
        "image": builder.png(faces.images[i, :, :, 0]),
        "expression_mask": builder.png(faces.expression_masks[i].astype(np.uint8) * 255),
        "emotion": int(faces.emotions[i]),
        "gender": int(faces.genders[i]),
    }
