"""Exported networks, run by foreign runtimes, against the library's own logits."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

import faceflax
from faceflax import exporting, pretrained
from faceflax.data.synthetic import render_faces
from faceflax.errors import FaceflaxError
from faceflax.inference import detector_in_jax
from faceflax.inference.detector_folding import fold_detector
from faceflax.preprocessing import normalize

LABELLING = ["mini_xception-fer2013", "sequential_cnn-fairface", "vgg-fer2013"]


def session(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def faces():
    """256 faces, uint8 ``[256, 48, 48, 1]``."""
    return render_faces(256, 5, 48).images


def expected(weights, faces):
    return faceflax.compile(*faceflax.load(weights))(normalize(faces))


@pytest.mark.parametrize("weights", LABELLING)
def test_onnx_runtime_gives_our_logits_and_probabilities(weights, faces):
    model = exporting.onnx_model(weights)
    onnx.checker.check_model(model, full_check=True)
    run = session(model)
    logits, probabilities = run.run(None, {"images": normalize(faces).transpose(0, 3, 1, 2)})
    right = expected(weights, faces)
    np.testing.assert_allclose(logits, right, rtol=0, atol=1e-4)
    scaled = np.exp(right.astype(np.float64) / faceflax.weights_info(weights).temperature)
    np.testing.assert_allclose(probabilities, scaled / scaled.sum(1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 48, 48), (3, 51, 64), (2, 32, 47)])
def test_an_onnx_file_takes_any_batch_and_size(batch, height, width):
    images = np.random.default_rng(0).uniform(-1, 1, (batch, height, width, 1)).astype(np.float32)
    for weights in LABELLING[:2]:
        logits = session(exporting.onnx_model(weights)).run(["logits"], {"images": images.transpose(0, 3, 1, 2)})[0]
        right = faceflax.compile(*faceflax.load(weights))(images)
        np.testing.assert_allclose(logits, right, rtol=0, atol=1e-4)


def test_normalisation_inside_the_graph_takes_pixels(faces):
    run = session(exporting.onnx_model(LABELLING[0], normalize=True))
    logits = run.run(["logits"], {"images": faces.transpose(0, 3, 1, 2)})[0]
    np.testing.assert_allclose(logits, expected(LABELLING[0], faces), rtol=0, atol=1e-4)


def test_an_onnx_file_says_what_it_is():
    told = session(exporting.onnx_model(LABELLING[0])).get_modelmeta().custom_metadata_map
    info = faceflax.weights_info(LABELLING[0])
    assert tuple(json.loads(told["labels"])) == info.labels
    assert float(told["temperature"]) == info.temperature
    assert (int(told["image_size"]), told["sha256"], told["dataset"]) == (info.image_size, info.sha256, info.dataset)


def test_the_detector_in_onnx_says_the_same_of_each_place():
    program = fold_detector(pretrained.read("face_detector-faces")[1])
    images = np.random.default_rng(1).uniform(-1, 1, (2, 64, 96, 3)).astype(np.float32)
    right = jax.jit(lambda images: detector_in_jax.evaluate(program, images))(images)
    run = session(exporting.onnx_model("face_detector-faces"))
    places = run.run(["places"], {"images": images.transpose(0, 3, 1, 2)})[0]
    np.testing.assert_allclose(places, right, rtol=0, atol=1e-4)


RUN_ALONE = """
import sys, numpy, jax.export
with open(sys.argv[1], "rb") as file:
    network = jax.export.deserialize(bytearray(file.read()))
images = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], network.call(images))
assert not any(name.partition(".")[0] == "faceflax" for name in sys.modules)
print(*network.platforms)
"""


def test_stablehlo_runs_in_a_process_without_faceflax(faces, tmp_path):
    written = faceflax.export(LABELLING[0], tmp_path / "emotions.stablehlo")
    assert [file.name for file in written] == [
        "emotions.stablehlo",
        "emotions.cpu.mlir",
        "emotions.cuda.mlir",
        "emotions.tpu.mlir",
    ]
    for text in written[1:]:
        assert "stablehlo.convolution" in text.read_text()
        assert "stablehlo.custom_call" not in text.read_text().replace("stablehlo.custom_call @shape_assertion", "")
    np.save(tmp_path / "images.npy", normalize(faces))
    command = [sys.executable, "-P", "-c", RUN_ALONE, written[0], tmp_path / "images.npy", tmp_path / "logits.npy"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cpu", "cuda", "tpu"]
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected(LABELLING[0], faces), rtol=0, atol=1e-4)


@pytest.mark.parametrize("normalized", [False, True])
def test_the_tflite_interpreter_gives_our_logits(normalized, faces):
    pytest.importorskip("litert_converter", reason="the extra tflite is not installed")
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="ai-edge-litert is not installed")
    model = exporting.tflite_model(LABELLING[0], normalize=normalized)
    run = litert.Interpreter(model_content=model).get_signature_runner("serving_default")
    for face, right in zip(faces[:16], expected(LABELLING[0], faces[:16]), strict=True):
        images = face[None] if normalized else normalize(face[None])
        np.testing.assert_allclose(run(images=images)["logits"][0], right, rtol=0, atol=1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_safetensors_come_back_as_they_were(half, tmp_path):
    written = faceflax.export(LABELLING[0], tmp_path / "mine.safetensors", half=half)
    assert [file.name for file in written] == ["mine.safetensors", "mine.json"]
    info, tensors = pretrained.read(written[0])
    original, before = pretrained.read(LABELLING[0])
    assert (info.labels, info.temperature, info.accuracy) == (original.labels, original.temperature, original.accuracy)
    for name, tensor in before.items():
        np.testing.assert_array_equal(tensors[name], tensor.astype(np.float16) if half else tensor)


def test_int8_keeps_nearly_all_labels_in_less_than_half_the_bytes(faces):
    model = exporting.onnx_model(LABELLING[1], normalize=True)
    before = model.SerializeToString()
    images = faces.transpose(0, 3, 1, 2)
    small = exporting.quantise(model, images[:128])
    assert model.SerializeToString() == before
    assert len(small.SerializeToString()) < 0.5 * len(before)
    run = session(small)
    assert run.get_modelmeta().custom_metadata_map["precision"] == "int8"
    logits = run.run(["logits"], {"images": images[128:]})[0]
    right = expected(LABELLING[1], faces[128:])
    assert (logits.argmax(1) == right.argmax(1)).mean() > 0.95
    assert np.abs(logits - right).max() < 0.1 * np.ptp(right)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("a.pb", {}, r"file: '.*a\.pb' ends in none of \.onnx, \.stablehlo, \.safetensors, \.tflite; name it so"),
        ("a.onnx", {"format": "pb"}, "format: unknown 'pb'; choose one of: onnx, stablehlo, safetensors, tflite"),
        ("a.onnx", {"format": "stablehlo"}, r"file: '.*a\.onnx' does not end in \.stablehlo"),
        ("a.onnx", {"half": True}, "half: is for safetensors, not for onnx; leave it out"),
        ("a.safetensors", {"normalize": True}, "normalize: is for programs, and safetensors holds none"),
    ],
)
def test_what_cannot_be_exported(name, options, said, tmp_path):
    with pytest.raises(FaceflaxError, match=said):
        faceflax.export(LABELLING[0], tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_weights_are_not_written_over(tmp_path):
    (file, _) = faceflax.export(LABELLING[0], tmp_path / "mine.safetensors")
    with pytest.raises(FaceflaxError, match="is the file of the weights; name another"):
        faceflax.export(file, file)
