"""Writes weights files with their records."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from faceflax import files, models
from faceflax.errors import FaceflaxError
from faceflax.pretrained.loading import Variables, verify
from faceflax.pretrained.reading import SUFFIX, as_float32, check_values
from faceflax.pretrained.record import WeightsInfo, record_file, write_record


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
    sure: Mapping[str, float] | None = None,
    half: bool = False,
) -> WeightsInfo:
    """Writes ``path`` and its record, each in one step, after the checks that :func:`load` makes.

    Args:
        path: where to write; ends in ``.safetensors``. Its folder is made if needed, files there are replaced.
        variables: ``params`` and ``batch_stats`` of ``models.create(arch, len(labels))`` for one-channel images.
        arch: the network's name.
        dataset: the dataset that the weights were trained on.
        labels: class names in the order of the logits.
        image_size: side of the images it was trained on, in pixels.
        crop_margin: share of a detected box's side to add on each side.
        temperature: what to divide the logits by before the softmax.
        accuracy: share of images labelled correctly, in [0, 1], for each split measured.
        sure: from which probability on a label is sure, as :attr:`WeightsInfo.sure` says.
        half: round the parameters to float16, for half the file; measure ``accuracy`` with the rounded ones then.

    Returns:
        The record written.

    Raises:
        FaceflaxError: a place that cannot be written, variables that are not the network's or not finite, or a field
            of the record that cannot be right.
    """
    from flax.traverse_util import flatten_dict

    file = Path(path)
    if file.suffix != SUFFIX:
        raise FaceflaxError("path", file, f"does not end in {SUFFIX}", "name the file so")
    info = WeightsInfo(
        name=file.stem,
        arch=arch,
        dataset=dataset,
        labels=tuple(labels),
        image_size=image_size,
        crop_margin=crop_margin,
        temperature=temperature,
        accuracy=dict(accuracy or {}),
        sha256="0" * 64,  # until there are bytes to hash
        sure=None if sure is None else dict(sure),
    )
    tensors = {name: np.asarray(value) for name, value in flatten_dict(variables, sep="/").items()}
    try:
        verify(tensors, models.create(arch, len(info.labels)))
    except FaceflaxError as error:
        raise error.renamed("variables") from None
    if half:
        with np.errstate(over="ignore"):  # infinity is refused below
            tensors = {name: value.astype(np.float16) for name, value in tensors.items()}
        try:
            check_values(as_float32(tensors))
        except FaceflaxError as error:
            problem = f"as float16, {error.problem}"
            raise FaceflaxError("variables", error.value, problem, "store them as float32") from None
    content = safetensors.numpy.save(tensors)
    info = dataclasses.replace(
        info,
        image_size=int(image_size),
        crop_margin=float(crop_margin),
        temperature=float(temperature),
        accuracy={split: float(share) for split, share in info.accuracy.items()},
        sha256=hashlib.sha256(content).hexdigest(),
        sure=None if info.sure is None else {name: float(value) for name, value in info.sure.items()},
    )
    for target in (file, record_file(file)):
        files.writable_file("path", target)
    files.write(file, content)
    write_record(file, info)
    return info
