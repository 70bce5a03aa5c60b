"""Networks that leave: weights as ONNX, StableHLO, TFLite or safetensors, for runtimes without faceflax."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faceflax.lazy import attach

if TYPE_CHECKING:
    from faceflax.exporting.files import FORMATS, export
    from faceflax.exporting.graph import onnx_model
    from faceflax.exporting.quantisation import quantise
    from faceflax.exporting.stablehlo import PLATFORMS, exported, lowered
    from faceflax.exporting.tflite import tflite_model

__all__ = ["FORMATS", "PLATFORMS", "export", "exported", "lowered", "onnx_model", "quantise", "tflite_model"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "files": ["FORMATS", "export"],
        "graph": ["onnx_model"],
        "quantisation": ["quantise"],
        "stablehlo": ["PLATFORMS", "exported", "lowered"],
        "tflite": ["tflite_model"],
    },
)
