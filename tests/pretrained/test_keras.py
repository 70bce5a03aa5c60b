"""The reference's Keras files against logits computed elsewhere from the same weights, and files of other kinds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

from faceflax import models, pretrained
from faceflax.cli import convert_keras
from faceflax.errors import FaceflaxError
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.preprocessing import normalize
from faceflax.pretrained import keras

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "../shared/reference"
EMOTION = REFERENCE / "fer2013_mini_XCEPTION.102-0.66.hdf5"
GENDER = REFERENCE / "gender_mini_XCEPTION.21-0.95.hdf5"

needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason="needs ../shared/reference")


def copy_without_optimizer(source, target, rename=lambda name: name):
    """Copies the model in a Keras file, giving every layer another name, as a later model in one session has."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        config = json.loads(old.attrs["model_config"])
        for layer in config["config"]["layers"]:
            layer["config"]["name"] = layer["name"] = rename(layer["name"])
            for node in layer["inbound_nodes"]:
                for inbound in node:
                    inbound[0] = rename(inbound[0])
        new.attrs["model_config"] = json.dumps(config)
        for name, group in old["model_weights"].items():
            copied = new.create_group(f"model_weights/{rename(name)}")
            copied.attrs["weight_names"] = group.attrs["weight_names"]
            for weight in group.attrs["weight_names"]:
                copied[weight.decode()] = group[weight][()]


@needs_reference
def test_emotion_logits_and_last_convolution_are_the_reference_networks():
    expected = np.load(REFERENCE / "captum_emotion.npz")
    arch, num_classes, image_size, variables = keras.read(EMOTION)
    assert (arch, num_classes, image_size) == ("mini_xception", 7, 64)
    images = normalize(expected["images_uint8"][..., None])
    logits, features = jax.jit(models.create(arch, num_classes).apply)(variables, images)
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(features["last_conv"], expected["last_conv"], rtol=0, atol=1e-4)


@needs_reference
def test_the_names_of_layers_do_not_matter(tmp_path):
    numbers: dict[str, str] = {}
    copy_without_optimizer(EMOTION, tmp_path / "other.hdf5", lambda name: numbers.setdefault(name, f"l{len(numbers)}"))
    found, expected = keras.read(tmp_path / "other.hdf5"), keras.read(EMOTION)
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)


@needs_reference
@pytest.mark.parametrize(("source", "labels", "dataset"), [(EMOTION, EMOTIONS, "fer2013"), (GENDER, GENDERS, "imdb")])
def test_the_command_writes_weights_that_load(tmp_path, source, labels, dataset):
    out = tmp_path / "weights.safetensors"
    convert_keras.main(convert_keras.Options(source, out))
    info = pretrained.weights_info(out)
    assert (info.arch, info.labels, info.dataset, info.image_size) == ("mini_xception", labels, dataset, 64)
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(out)[1], keras.read(source).variables)


@needs_reference
def test_a_keras_model_without_a_layer_is_refused(tmp_path):
    copy_without_optimizer(EMOTION, tmp_path / "x.hdf5")
    with h5py.File(tmp_path / "x.hdf5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        layers = config["config"]["layers"]
        del layers[[layer["name"] for layer in layers].index("batch_normalization_3")]
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(FaceflaxError, match=r"'batch_stats/block1/shortcut_bn/mean'.*missing.*mini-Xception"):
        keras.read(tmp_path / "x.hdf5")


@needs_reference
def test_a_keras_model_of_another_width_is_refused(tmp_path):
    copy_without_optimizer(EMOTION, tmp_path / "x.hdf5")
    with h5py.File(tmp_path / "x.hdf5", "r+") as file:
        del file["model_weights/conv2d_1/conv2d_1_1/kernel:0"]
        file["model_weights/conv2d_1/conv2d_1_1/kernel:0"] = np.zeros((5, 5, 1, 8), np.float32)
    with pytest.raises(FaceflaxError, match=r"'params/stem1/kernel' is float32 \(5, 5, 1, 8\).*\(3, 3, 1, 8\)"):
        keras.read(tmp_path / "x.hdf5")


def test_weights_without_a_model_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["conv2d_1/kernel:0"] = np.zeros((3, 3, 1, 8))
    with pytest.raises(FaceflaxError, match=r"x\.hdf5'.*model_config.*expected a mini-Xception saved whole"):
        keras.read(tmp_path / "x.hdf5")


@pytest.mark.parametrize(
    "config", ["not JSON", "[]", '{"config": []}', '{"config": {"layers": [{"class_name": "Dense", "config": {}}]}}']
)
def test_other_models_are_refused(tmp_path, config):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file.attrs["model_config"] = config
        file.create_group("model_weights")
    with pytest.raises(FaceflaxError, match="expected a mini-Xception saved whole"):
        keras.read(tmp_path / "x.hdf5")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(100)])
def test_a_file_that_is_not_hdf5_is_refused(tmp_path, content):
    (tmp_path / "x.hdf5").write_bytes(content)
    with pytest.raises(FaceflaxError, match="expected a mini-Xception"):
        keras.read(tmp_path / "x.hdf5")


@needs_reference
def test_a_truncated_file_is_refused(tmp_path):
    shutil.copy(EMOTION, tmp_path / "x.hdf5")
    with (tmp_path / "x.hdf5").open("r+b") as file:
        file.truncate(EMOTION.stat().st_size // 2)
    with pytest.raises(FaceflaxError, match="cannot be converted"):
        keras.read(tmp_path / "x.hdf5")


def test_no_such_file(tmp_path):
    with pytest.raises(FaceflaxError, match=r"absent\.hdf5' is not a file"):
        keras.read(tmp_path / "absent.hdf5")
