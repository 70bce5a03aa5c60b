"""Weights on disk: ``NAME.safetensors`` and, beside it, ``NAME.json``, the record of what the numbers are for.

A file is loaded only if it is exactly what its record and its network say: SHA-256, tensor names, shapes, types, finite
numbers. Everything else is an error; nothing is ever filled in with random numbers. Numbers are float32, or float16 to
halve the file; in memory they are float32 always.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from faceflax import models
from faceflax.errors import FaceflaxError, unknown
from faceflax.files import writable_file

Variables = dict[str, Any]

_SHIPPED = Path(__file__).parent / "weights"
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file is for, as its record states.

    Attributes:
        name: the file's name without its suffix.
        arch: the network, one of ``faceflax.list_models()``.
        dataset: the dataset that the weights were trained on.
        labels: class names in the order of the logits.
        image_size: side of the images it was trained on, in pixels.
        crop_margin: share of a detected box's side that is added on each side before the face is cut out.
        temperature: the logits are divided by it before the softmax.
        accuracy: for each split, the share of its images labelled right, in [0, 1], as the model card states it.
        sha256: of the ``.safetensors`` file, in hexadecimal.

    Raises:
        FaceflaxError: a field's value cannot be right.
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

    def __post_init__(self) -> None:
        smallest, networks = models.MIN_IMAGE_SIZE, models.list_models()
        expected = {
            "arch": (self.arch in networks, f"one of {', '.join(networks)}"),
            "dataset": (isinstance(self.dataset, str) and bool(self.dataset), "a dataset's name"),
            "labels": (
                all(isinstance(label, str) for label in self.labels) and 0 < len(self.labels) == len(set(self.labels)),
                "distinct class names",
            ),
            "image_size": (
                isinstance(self.image_size, int) and self.image_size >= smallest,
                f"a whole number of pixels, {smallest} or more",
            ),
            "crop_margin": (_is_number(self.crop_margin) and self.crop_margin >= 0, "a finite number, 0 or more"),
            "temperature": (_is_number(self.temperature) and self.temperature > 0, "a finite number above 0"),
            "accuracy": (
                isinstance(self.accuracy, dict) and all(_is_number(v) and 0 <= v <= 1 for v in self.accuracy.values()),
                "a number in [0, 1] for each split",
            ),
            "sha256": (re.fullmatch("[0-9a-f]{64}", str(self.sha256)) is not None, "64 hexadecimal digits"),
        }
        for field, (right, meaning) in expected.items():
            if not right:
                raise FaceflaxError(f"{field}: {getattr(self, field)!r} is not {meaning}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def list_weights() -> list[str]:
    """Returns the names of the weights that come with the package."""
    return sorted(file.stem for file in _SHIPPED.glob(f"*{_SUFFIX}"))


def weights_info(name_or_path: str | Path) -> WeightsInfo:
    """Returns the record of a weights file; the numbers themselves are neither read nor verified.

    Args:
        name_or_path: one of :func:`list_weights`, or the path of a ``.safetensors`` file.

    Raises:
        FaceflaxError: unknown name, no such file, or a record that is missing or wrong.
    """
    return _read_record(_find(name_or_path))


def load(name_or_path: str | Path) -> tuple[nn.Module, Variables]:
    """Loads a network and its weights, after verifying them.

    Args:
        name_or_path: one of :func:`list_weights`, or the path of a ``.safetensors`` file with its ``.json`` record
            beside it.

    Returns:
        The network and its variables, float32, for ``model.apply(variables, images, train=False)``.

    Raises:
        FaceflaxError: unknown name, no such file, a missing or wrong record, a file that is not the one the record
            was written for, or tensors that are not exactly the network's.
    """
    file = _find(name_or_path)
    info = _read_record(file)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise FaceflaxError(f"weights: cannot read {str(file)!r} ({error.strerror})") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != info.sha256:
        raise FaceflaxError(
            f"weights: the SHA-256 of {str(file)!r} is {digest}, but its record says {info.sha256}; "
            f"the file is cut short or changed: fetch or save it again, together with {_record(file).name!r}"
        )
    try:
        tensors = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: a type that NumPy lacks, such as bfloat16
        raise FaceflaxError(
            f"weights: {str(file)!r} is not a safetensors file of float32 or float16 numbers ({error}); save it again"
        ) from None
    model = models.create(info.arch, len(info.labels))
    tensors = _as_float32(tensors)
    verify(tensors, model, f"weights: {str(file)!r}")
    return model, jax.device_put(unflatten_dict(tensors, sep="/"))


def save(
    path: str | Path,
    variables: Variables,
    *,
    arch: str,
    dataset: str,
    labels: Sequence[str],
    image_size: int,
    crop_margin: float = 0.0,
    temperature: float = 1.0,
    accuracy: Mapping[str, float] | None = None,
    half: bool = False,
) -> WeightsInfo:
    """Writes ``path`` and its record, each atomically, after the checks that :func:`load` makes.

    Args:
        path: where to write; ends in ``.safetensors``. Its folder is made if needed, files there are replaced.
        variables: ``params`` and ``batch_stats`` of ``models.create(arch, len(labels))`` for one-channel images.
        arch: the network's name.
        dataset: the dataset that the weights were trained on.
        labels: class names in the order of the logits.
        image_size: side of the images it was trained on, in pixels.
        crop_margin: share of a detected box's side to add on each side.
        temperature: what to divide the logits by before the softmax.
        accuracy: share of images labelled right, in [0, 1], for each split measured.
        half: round the numbers to float16, for half the file; measure ``accuracy`` with rounded ones then.

    Returns:
        The record written.

    Raises:
        FaceflaxError: a place that cannot be written, variables that are not the network's or not finite, or a field
            of the record that cannot be right.
    """
    file = Path(path)
    if file.suffix != _SUFFIX:
        raise FaceflaxError(f"path: {str(file)!r} does not end in {_SUFFIX}; name the file so")
    tensors = {name: np.asarray(value) for name, value in flatten_dict(variables, sep="/").items()}
    stored = tensors
    if half:
        with np.errstate(over="ignore"):  # infinity is refused below
            stored = {name: value.astype(np.float16) for name, value in tensors.items()}
    content = safetensors.numpy.save(stored)
    info = WeightsInfo(
        name=file.stem,
        arch=arch,
        dataset=dataset,
        labels=tuple(labels),
        image_size=image_size,
        crop_margin=float(crop_margin),
        temperature=float(temperature),
        accuracy={split: float(share) for split, share in (accuracy or {}).items()},
        sha256=hashlib.sha256(content).hexdigest(),
    )
    model = models.create(arch, len(info.labels))
    verify(tensors, model, "variables")
    if half:
        verify(_as_float32(stored), model, "variables as float16")
    record = asdict(info)
    del record["name"]  # the file's own name, so that a pair can be renamed
    for target in (file, _record(file)):
        writable_file("path", target)
    _write(file, content)
    _write(_record(file), (json.dumps(record, indent=2) + "\n").encode())
    return info


def verify(tensors: Mapping[str, np.ndarray], model: nn.Module, source: str) -> None:
    """Checks that ``tensors`` are exactly the variables of ``model`` for one-channel images, and finite.

    Args:
        tensors: the variables tree flattened, such as ``params/block1/conv1/depthwise``.
        model: the network that they are for.
        source: where they come from, the start of an error's message.

    Raises:
        FaceflaxError: a tensor is missing, too many, of another shape or type, or holds NaN or infinity.
    """
    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
    expected = flatten_dict(shapes, sep="/")
    network = f"{type(model).__name__} with {model.num_classes} classes"
    remedy = "use the weights and record of one and the same network"
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise FaceflaxError(f"{source}: tensor {name!r} {expected[name].shape} of {network} is missing; {remedy}")
        if name not in expected:
            raise FaceflaxError(f"{source}: {network} has no tensor {name!r} {tensors[name].shape}; {remedy}")
        found, wanted = (f"{t[name].dtype} {t[name].shape}" for t in (tensors, expected))
        if found != wanted:
            raise FaceflaxError(f"{source}: tensor {name!r} is {found}, in {network} it is {wanted}; {remedy}")
        if not np.isfinite(tensors[name]).all():
            raise FaceflaxError(f"{source}: tensor {name!r} holds NaN or infinity; train or convert the weights again")


def _as_float32(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Widens float16 to float32; other types stay, for :func:`verify` to refuse."""
    return {name: t.astype(np.float32) if t.dtype == np.float16 else t for name, t in tensors.items()}


def _find(name_or_path: str | Path) -> Path:
    """Returns the existing weights file that a shipped name or a path stands for."""
    text = os.fspath(name_or_path)
    file = Path(text)
    if file.name == text and not file.suffix:
        if text not in list_weights():
            raise unknown("weights", text, [*list_weights(), f"the path of a {_SUFFIX} file"])
        return _SHIPPED / f"{text}{_SUFFIX}"
    if file.suffix != _SUFFIX:
        raise FaceflaxError(
            f"weights: {text!r} is not a {_SUFFIX} file; name one, or make one of a Keras file with "
            "scripts/convert_keras.py"
        )
    if not file.is_file():
        raise FaceflaxError(f"weights: there is no file {text!r}; check the path")
    return file


def _record(file: Path) -> Path:
    return file.with_suffix(".json")


def _read_record(file: Path) -> WeightsInfo:
    record = _record(file)
    try:
        content = json.loads(record.read_bytes())
    except OSError as error:
        raise FaceflaxError(
            f"weights: cannot read {str(record)!r}, the record of {file.name!r} ({error.strerror}); "
            "put it beside the file"
        ) from None
    except ValueError as error:
        raise FaceflaxError(f"weights: the record {str(record)!r} is not JSON ({error}); restore it") from None
    names = {field.name for field in fields(WeightsInfo)} - {"name"}
    if not isinstance(content, dict) or content.keys() != names or not isinstance(content["labels"], list):
        raise FaceflaxError(
            f"weights: the record {str(record)!r} is not an object with exactly the fields {', '.join(sorted(names))} "
            "(labels is a list); restore it"
        )
    try:
        return WeightsInfo(name=file.stem, **content | {"labels": tuple(content["labels"])})
    except FaceflaxError as error:
        raise FaceflaxError(f"weights: in the record {str(record)!r}, {error}; restore it") from None


def _write(file: Path, content: bytes) -> None:
    """Replaces ``file`` in one step; on any failure what was there stays."""
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as temporary:
        try:
            temporary.write(content)
            temporary.close()
            os.chmod(temporary.name, 0o644)  # a temporary file is private, a weights file is not
            os.replace(temporary.name, file)
        except BaseException:
            os.unlink(temporary.name)
            raise
