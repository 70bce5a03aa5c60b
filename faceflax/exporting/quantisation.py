"""An ONNX model in int8: weights and activations of 8 bits, whose ranges are measured on faces."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from faceflax.errors import FaceflaxError, needing_extras

if TYPE_CHECKING:  # slow to import, and only annotations need it
    import onnx
    from jaxtyping import Float32, UInt8

_BATCH = 32


def quantise(
    model: onnx.ModelProto, faces: Float32[np.ndarray, "n 1 size size"] | UInt8[np.ndarray, "n 1 size size"]
) -> onnx.ModelProto:
    """Quantises a model of :func:`~faceflax.exporting.onnx_model` statically.

    Convolutions and what lies between them are computed in int8, the weights with a scale a channel (symmetric, in 7
    bits, which a processor without VNNI adds up without overflow), the activations with one a tensor (asymmetric), from
    the smallest to the largest value seen.

    Args:
        model: not changed.
        faces: typical images as the model takes them, of a split that nothing is measured on afterwards.

    Raises:
        FaceflaxError: there are no faces, or ONNX Runtime is not installed.
    """
    with needing_extras():
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    if not len(faces):
        raise FaceflaxError("faces", None, "there are none", "give some hundred")

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(range(0, len(faces), _BATCH))

        def get_next(self) -> dict[str, Any] | None:
            start = next(self._batches, None)
            return None if start is None else {"images": faces[start : start + _BATCH]}

    quiet = logging.getLogger()
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # it advises, through the root logger, a step that this graph does not need
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "int8.onnx"
            source = place.with_name("float32.onnx")
            source.write_bytes(model.SerializeToString())
            quantize_static(
                str(source),
                str(place),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                reduce_range=True,  # weights of 7 bits: x86 without VNNI adds two products in 16 bits, which overflow
                op_types_to_quantize=["Conv", "MaxPool", "AveragePool", "Add", "Relu"],
            )
            quantised = onnx.load(place)
    finally:
        quiet.setLevel(level)
    onnx.helper.set_model_props(quantised, {p.key: p.value for p in model.metadata_props} | {"precision": "int8"})
    return quantised
