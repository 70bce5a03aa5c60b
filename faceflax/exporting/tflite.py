"""A network as a TFLite file, for phones: made from StableHLO by LiteRT's converter, without TensorFlow."""

from __future__ import annotations

from pathlib import Path

from faceflax.errors import needing_extras


def tflite_model(weights: str | Path, *, normalize: bool = False) -> bytes:
    """Makes a TFLite model of a network's weights, for one image at a time.

    Its input is ``images``, ``[1, size, size, 1]`` of the record's size, and its output ``logits``, ``[1, classes]``;
    those of a face detector are ``[1, size, size, 3]``, blue first, and ``places``, ``[1, places, 15]``. They are named
    in the signature ``serving_default``.

    Args:
        weights: one of ``faceflax.list_weights()``, or the path of a ``.safetensors`` file with its record.
        normalize: the images are uint8, 0 to 255; otherwise they are float32 in [-1, 1].

    Raises:
        FaceflaxError: as :func:`faceflax.exporting.exported` does, or the converter is not installed (extra
            ``tflite``).
    """
    with needing_extras():
        from litert_converter import converter_api_ext as converter
        from litert_converter.mlir import ir, passmanager

    from faceflax import pretrained
    from faceflax.exporting.stablehlo import exported

    output = "places" if pretrained.weights_info(weights).arch == "face_detector" else "logits"
    text = exported(weights, normalize=normalize, platforms=["tpu"], batch=1).mlir_module()  # as plain as can be
    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context:
        context.allow_unregistered_dialects = True
        module = ir.Module.parse(text)
        converter.set_signature(module.operation, "serving_default", ["images"], [output])
        converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), converter.ConvertToTFLConfig())
        return bytes(converter.export_flatbuffer_to_bytes(module.operation))
