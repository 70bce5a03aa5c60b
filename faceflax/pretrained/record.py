"""The record of a weights file: what the weights are for, and how to feed and read the network."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from pathlib import Path

from faceflax import files, models
from faceflax.errors import FaceflaxError, said, unknown
from faceflax.models.architectures import MAX_IMAGE_SIZE

MAX_CROP_MARGIN = 2.0
"""Such a crop is five times as wide as the face; a record that says more is damaged."""

TEMPERATURES = 1e-3, 1e3
"""Lowest and highest temperature: beyond them every probability is 0, 1 or uniform."""

_MOST_BYTES = 2**24

SURE: tuple[str, ...] = ("confidence", "accuracy", "coverage")
"""What a record says of the labels that are sure."""


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file is for, as its record states.

    :func:`faceflax.weights_info` reads it alone; :func:`faceflax.load` returns it as ``.info``, together with the
    network and the variables that it describes.

    Attributes:
        name: the file's name without its suffix.
        arch: the network, one of ``faceflax.list_models()``.
        dataset: the dataset that the weights were trained on.
        labels: class names in the order of the logits.
        image_size: side of the images it was trained on, in pixels, from 32 to 4096.
        crop_margin: share of a detected box's side that is added on each side before the face is cut out, from 0 to 2.
        temperature: the logits are divided by it before the softmax, from 0.001 to 1000.
        accuracy: for each split, the share of its images labelled correctly, in [0, 1], as the model card states it.
        sha256: of the ``.safetensors`` file, in hexadecimal.
        sure: ``confidence``, the lowest probability at which a label is sure, with the ``accuracy`` of the labels from
            there on and their ``coverage``, the share of all; shares in [0, 1], of the validation faces that
            ``faceflax export`` measured. None where it was not measured.

    Raises:
        FaceflaxError: a field's value cannot be right.

    Example:
        >>> import faceflax
        >>> info = faceflax.weights_info("mini_xception-fer2013")
        >>> info.arch, info.image_size, info.labels[0]
        ('mini_xception', 48, 'angry')
    """

    name: str
    arch: str
    dataset: str
    labels: tuple[str, ...]
    image_size: int
    crop_margin: float
    temperature: float
    accuracy: dict[str, float]
    sha256: str
    sure: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if self.arch not in models.list_models():
            raise unknown("arch", self.arch, models.list_models())
        smallest = models.MIN_IMAGE_SIZE
        labels = self.labels
        expected = {
            "dataset": (isinstance(self.dataset, str) and bool(self.dataset), "a dataset's name"),
            "labels": (
                all(isinstance(label, str) and label for label in labels) and 0 < len(labels) == len(set(labels)),
                "distinct class names",
            ),
            "image_size": (
                isinstance(self.image_size, Integral) and _is_in(self.image_size, smallest, MAX_IMAGE_SIZE),
                f"a whole number of pixels from {smallest} to {MAX_IMAGE_SIZE}",
            ),
            "crop_margin": (_is_in(self.crop_margin, 0, MAX_CROP_MARGIN), f"a number from 0 to {MAX_CROP_MARGIN:g}"),
            "temperature": (
                _is_in(self.temperature, *TEMPERATURES),
                "a number from {:g} to {:g}".format(*TEMPERATURES),
            ),
            "accuracy": (
                isinstance(self.accuracy, dict)
                and all(isinstance(split, str) and _is_in(share, 0, 1) for split, share in self.accuracy.items()),
                "a number in [0, 1] for each split",
            ),
            "sure": (
                self.sure is None
                or (
                    isinstance(self.sure, dict)
                    and self.sure.keys() == set(SURE)
                    and all(_is_in(share, 0, 1) for share in self.sure.values())
                ),
                f"null or {', '.join(SURE)}, each in [0, 1]",
            ),
            "sha256": (re.fullmatch("[0-9a-f]{64}", str(self.sha256)) is not None, "64 hexadecimal digits"),
        }
        for field, (right, meaning) in expected.items():
            if not right:
                raise FaceflaxError(field, getattr(self, field), f"is not {meaning}")


def _is_in(value: object, low: float, high: float) -> bool:
    """Whether ``value`` is a number in [low, high], which NaN is not; compares integers of any length."""
    return isinstance(value, Real) and not isinstance(value, bool) and bool(low <= value <= high)  # type: ignore[operator]


def record_file(file: Path) -> Path:
    """The place of the record of a weights file."""
    return file.with_suffix(".json")


def read_record(file: Path) -> WeightsInfo:
    """Reads and checks the record of a weights file.

    Raises:
        FaceflaxError: the record of ``weights`` is missing or wrong.
    """
    record = record_file(file)
    what = f", the record of {file.name!r}"
    whole = files.read("weights", record, _MOST_BYTES, what=what, remedy="put it beside the file")
    try:
        content = json.loads(whole)
    except (ValueError, RecursionError) as error:
        raise FaceflaxError("weights", record, f"the record {{}} is not JSON ({said(error)})", "restore it") from None
    names = {field.name for field in fields(WeightsInfo)} - {"name"}
    if not isinstance(content, dict) or content.keys() | {"sure"} != names or not isinstance(content["labels"], list):
        problem = (
            f"the record {{}} is not an object with exactly the fields {', '.join(sorted(names))} (labels is a list)"
        )
        raise FaceflaxError("weights", record, problem, "restore it")
    try:
        return WeightsInfo(name=file.stem, **content | {"labels": tuple(content["labels"])})
    except FaceflaxError as error:
        raise FaceflaxError("weights", record, f"in the record {{}}, {error}", "restore it") from None


def write_record(file: Path, info: WeightsInfo) -> None:
    """Writes the record of a weights file in one step."""
    content = asdict(info)
    del content["name"]  # the file's own name, so that a pair can be renamed
    files.write(record_file(file), json.dumps(content, indent=2) + "\n")
