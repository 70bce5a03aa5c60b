"""Finds weights files and reads their tensors, without JAX or Flax."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.numpy

from faceflax import files
from faceflax.errors import FaceflaxError, said, unknown
from faceflax.pretrained.record import WeightsInfo, read_record, record_file

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Float32

SUFFIX = ".safetensors"
SHIPPED = Path(__file__).parent / "weights"
"""The folder of the weights that come with the package."""

MOST_BYTES = 2**28
"""Bytes of a weights file; the largest network here needs a tenth of that."""

LARGEST = 1e9
"""No trained network has such a weight or statistic; a few layers of them end in infinity."""


def list_weights() -> list[str]:
    """Returns the names of the weights that come with the package.

    Example:
        >>> "mini_xception-fer2013" in list_weights()
        True
    """
    return sorted(file.stem for file in SHIPPED.glob(f"*{SUFFIX}"))


def weights_info(weights: str | Path) -> WeightsInfo:
    """Returns the record of a weights file; the weights themselves are neither read nor verified.

    Args:
        weights: one of :func:`list_weights`, the path of a ``.safetensors`` file with its ``.json`` record beside it,
            or ``hf://OWNER/NAME`` on the Hugging Face Hub (extra ``hub``).

    Raises:
        FaceflaxError: unknown name, no such file, or a record that is missing or wrong.
    """
    return read_record(find(weights))


def read(weights: str | Path) -> tuple[WeightsInfo, dict[str, Float32[np.ndarray, "..."]]]:
    """Reads a weights file and its record, and verifies all that can be verified without building the network.

    That is the file's SHA-256, and that the tensors hold finite float32 or float16 values and no negative variance.
    Names and shapes are for those who know the network: :func:`faceflax.load`, or
    :func:`faceflax.inference.folding.fold`.

    Args:
        weights: one of :func:`list_weights`, the path of a ``.safetensors`` file with its ``.json`` record beside it,
            or ``hf://OWNER/NAME`` on the Hugging Face Hub (extra ``hub``).

    Returns:
        The record, and the float32 tensors by their place in the tree of variables, such as
        ``params/block1/conv1/depthwise``.

    Raises:
        FaceflaxError: unknown name, no such file, a missing or wrong record, a file that is not the one the record was
            written for, or values that no network has.

    Example:
        >>> info, tensors = read("mini_xception-fer2013")
        >>> tensors["params/stem1/kernel"].shape, sum(tensor.size for tensor in tensors.values())
        ((3, 3, 1, 8), 58423)
    """
    file = find(weights)
    info = read_record(file)
    content = files.read("weights", file, MOST_BYTES)
    digest = hashlib.sha256(content).hexdigest()
    if digest != info.sha256:
        raise FaceflaxError(
            "weights",
            file,
            f"the SHA-256 of {{}} is {digest}, but its record says {info.sha256}; the file is cut short or changed",
            f"fetch or save it again, together with {record_file(file).name!r}",
        )
    try:
        tensors = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: a type that NumPy lacks, such as bfloat16
        problem = f"{{}} is not a safetensors file of float32 or float16 tensors ({said(error)})"
        raise FaceflaxError("weights", file, problem, "save it again") from None
    tensors = as_float32(tensors)
    try:
        check_values(tensors)
    except FaceflaxError as error:
        raise FaceflaxError("weights", file, f"in {{}}, {error.reason}") from None
    return info, tensors


def find(weights: str | Path) -> Path:
    """Returns the existing weights file that a shipped name, a path or a place on the Hub stands for.

    Raises:
        FaceflaxError: there is none.
    """
    text = os.fspath(weights)
    if text.startswith("hf://"):
        return import_module("faceflax.pretrained.hub").fetch(text)  # which reads through this module
    file = Path(text)
    if file.name == text and not file.suffix:
        if text not in list_weights():
            raise unknown("weights", text, [*list_weights(), f"the path of a {SUFFIX} file"])
        return SHIPPED / f"{text}{SUFFIX}"
    if file.suffix != SUFFIX:
        remedy = "name one, or make one of a Keras file with faceflax convert-keras"
        raise FaceflaxError("weights", text, f"is not a {SUFFIX} file", remedy)
    if not os.path.isfile(file):  # Path.is_file raises for names that are too long
        raise FaceflaxError("weights", text, "there is no file {}", "check the path")
    return file


def as_float32(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Widens float16 to float32; other types stay, for :func:`check_values` to refuse."""
    return {name: t.astype(np.float32) if t.dtype == np.float16 else t for name, t in tensors.items()}


def check_values(tensors: Mapping[str, np.ndarray]) -> None:
    """Checks that tensors hold what a trained network can.

    Raises:
        FaceflaxError: one of ``tensors`` is not float32, holds NaN, infinity or a number beyond :data:`LARGEST`, or is
            a variance below 0.
    """
    remedy = "train or convert the weights again"
    for name in sorted(tensors):
        tensor = tensors[name]
        if tensor.dtype != np.float32:
            raise FaceflaxError("tensors", name, f"tensor {{}} is {tensor.dtype}, not float32 or float16", remedy)
        if not np.isfinite(tensor).all():
            raise FaceflaxError("tensors", name, "tensor {} holds NaN or infinity", remedy)
        if (np.abs(tensor) > LARGEST).any():
            raise FaceflaxError("tensors", name, f"tensor {{}} holds a number beyond {LARGEST:g}", remedy)
        if is_variance(name) and (tensor < 0).any():
            raise FaceflaxError("tensors", name, "tensor {} holds a negative variance", remedy)


def is_variance(name: str) -> bool:
    """Whether a tensor is the running variance of a batch normalisation."""
    return name.startswith("batch_stats/") and name.endswith("/var")
