"""Writes a network's weights to files of other runtimes."""

from __future__ import annotations

from pathlib import Path

from faceflax import files, pretrained
from faceflax.errors import FaceflaxError, unknown

FORMATS: dict[str, str] = {
    "onnx": ".onnx",
    "stablehlo": ".stablehlo",
    "safetensors": ".safetensors",
    "tflite": ".tflite",
}
"""The formats, and what their files end in."""


def export(
    weights: str | Path, file: str | Path, *, format: str | None = None, normalize: bool = False, half: bool = False
) -> list[Path]:
    """Writes weights for another runtime.

    * ``onnx``: one file, see :func:`faceflax.exporting.onnx_model`.
    * ``stablehlo``: what ``jax.export.deserialize`` reads, for CPU, CUDA and TPU at once, and beside it the text for
      each (``NAME.cpu.mlir`` and so on); see :func:`faceflax.exporting.exported`.
    * ``tflite``: one file, for one image at a time; see :func:`faceflax.exporting.tflite_model`.
    * ``safetensors``: the tensors by name, and beside them the record (``.json``), as ``faceflax.load`` reads them.

    Args:
        weights: one of ``faceflax.list_weights()``, or the path of a ``.safetensors`` file with its record.
        file: where to write. Its folder is made if needed, and files there are replaced.
        format: one of :data:`FORMATS`; what the file's name ends in if not given.
        normalize: the images are uint8, 0 to 255, and the network scales them itself; otherwise they are float32 in
            [-1, 1]. Not for safetensors, which hold no program.
        half: round the tensors to float16; for safetensors alone.

    Returns:
        The files written.

    Raises:
        FaceflaxError: an unknown format, weights that cannot be loaded or exported, a place that cannot be written, or
            a missing extra: ``export`` for ONNX, ``tflite`` for TFLite.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [written] = export("mini_xception-fer2013", Path(folder) / "emotions.onnx")
        ...     written.name
        'emotions.onnx'
    """
    place = Path(file)
    chosen = format or next((name for name, suffix in FORMATS.items() if place.suffix == suffix), None)
    if chosen is None:
        raise FaceflaxError("file", place, f"ends in none of {', '.join(FORMATS.values())}", "name it so")
    if chosen not in FORMATS:
        raise unknown("format", chosen, FORMATS)
    if place.suffix != FORMATS[chosen]:
        raise FaceflaxError("file", place, f"does not end in {FORMATS[chosen]}", "name it so")
    if normalize and chosen == "safetensors":
        raise FaceflaxError("normalize", None, "is for programs, and safetensors holds none", "leave it out")
    if half and chosen != "safetensors":
        raise FaceflaxError("half", None, f"is for safetensors, not for {chosen}", "leave it out")
    if chosen == "safetensors":
        return _copy(weights, place, half)
    content: dict[Path, str | bytes]
    if chosen == "onnx":
        from faceflax.exporting.graph import onnx_model

        content = {place: onnx_model(weights, normalize=normalize).SerializeToString(deterministic=True)}
    elif chosen == "tflite":
        from faceflax.exporting.tflite import tflite_model

        content = {place: tflite_model(weights, normalize=normalize)}
    else:
        from faceflax.exporting.stablehlo import PLATFORMS, exported, lowered

        content = {place: bytes(exported(weights, normalize=normalize).serialize())}
        for platform in PLATFORMS:
            content[place.with_suffix(f".{platform}.mlir")] = lowered(weights, platform, normalize=normalize)
    for each in content:
        files.writable_file("file", each)
    for each, data in content.items():
        files.write(each, data)
    return list(content)


def _copy(weights: str | Path, place: Path, half: bool) -> list[Path]:
    """The weights again, float32 or float16, with a record of their own."""
    from flax.traverse_util import unflatten_dict

    from faceflax.pretrained.reading import find
    from faceflax.pretrained.record import record_file

    info, tensors = pretrained.read(weights)
    if find(weights).resolve() == place.resolve():
        raise FaceflaxError("file", place, "is the file of the weights", "name another")
    try:
        pretrained.save(
            place,
            {"batch_stats": {}} | unflatten_dict(tensors, sep="/"),
            arch=info.arch,
            dataset=info.dataset,
            labels=info.labels,
            image_size=info.image_size,
            crop_margin=info.crop_margin,
            temperature=info.temperature,
            accuracy=info.accuracy,
            half=half,
        )
    except FaceflaxError as error:
        raise error.renamed("file" if error.field == "path" else error.field) from None
    return [place, record_file(place)]
