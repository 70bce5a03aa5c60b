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
        for output in config["config"]["output_layers"]:
            output[0] = rename(output[0])
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
    with pytest.raises(FaceflaxError, match=r"no layer 'batch_normalization_3', which 'add_\d+' takes as input"):
        keras.read(tmp_path / "x.hdf5")


def altered(tmp_path, name, **settings):
    copy_without_optimizer(EMOTION, tmp_path / "x.hdf5")
    with h5py.File(tmp_path / "x.hdf5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        (layer,) = [layer for layer in config["config"]["layers"] if layer["name"] == name]
        kind = settings.pop("class_name", layer["class_name"])
        layer["class_name"] = kind
        layer["config"] |= settings
        layer["inbound_nodes"] = layer["config"].pop("inbound_nodes", layer["inbound_nodes"])
        file.attrs["model_config"] = json.dumps(config)
    return tmp_path / "x.hdf5"


@needs_reference
@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("activation_3", {"activation": "elu"}, "activation 'elu', in mini-Xception it is 'relu'"),
        ("predictions", {"activation": "sigmoid"}, "activation 'sigmoid', in mini-Xception it is 'softmax'"),
        ("conv2d_2", {"activation": "relu"}, "activation 'relu', in mini-Xception it is 'linear'"),
        ("batch_normalization_5", {"epsilon": 0.1}, "epsilon 0.1, in mini-Xception it is 0.001"),
        ("conv2d_1", {"padding": "same"}, "padding 'same', in mini-Xception it is 'valid'"),
        ("conv2d_3", {"strides": [1, 1]}, "strides [1, 1], in mini-Xception it is [2, 2]"),
        ("separable_conv2d_4", {"dilation_rate": [2, 2]}, "dilation_rate [2, 2]"),
        ("max_pooling2d_2", {"class_name": "AveragePooling2D"}, "is a AveragePooling2D"),
        ("max_pooling2d_2", {"pool_size": [2, 2]}, "pool_size [2, 2]"),
        ("global_average_pooling2d_1", {"class_name": "GlobalMaxPooling2D"}, "is a GlobalMaxPooling2D"),
        ("conv2d_4", {"inbound_nodes": [[["activation_4", 0, 0, {}]]]}, "is a Activation"),
        ("input_1", {"batch_input_shape": [None, 64, 48, 1]}, "[None, 64, 48, 1]"),
        ("input_1", {"batch_input_shape": [None, None, None, 1]}, "size is None"),
    ],
)
def test_a_layer_that_differs_is_refused_by_name(tmp_path, name, settings, words):
    with pytest.raises(FaceflaxError, match=r"expected a mini-Xception") as caught:
        keras.read(altered(tmp_path, name, **settings))
    assert words in str(caught.value)
    if name != "input_1":
        assert repr(name) in str(caught.value) or "activation_4" in str(caught.value)


@needs_reference
def test_labels_of_a_file_that_is_not_the_references_must_be_given(tmp_path):
    copy_without_optimizer(GENDER, tmp_path / "x.hdf5")
    out = tmp_path / "weights.safetensors"
    with pytest.raises(FaceflaxError, match=r"file: .*2 classes without names"):
        convert_keras.main(convert_keras.Options(tmp_path / "x.hdf5", out))
    with pytest.raises(FaceflaxError, match=r"labels: 'cat' are 1, but .* has 2 classes"):
        convert_keras.main(convert_keras.Options(tmp_path / "x.hdf5", out, labels=("cat",)))
    assert not out.exists()
    convert_keras.main(convert_keras.Options(tmp_path / "x.hdf5", out, labels=("cat", "dog"), dataset="pets"))
    info = pretrained.weights_info(out)
    assert (info.labels, info.dataset, info.crop_margin) == (("cat", "dog"), "pets", 0.0)


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
    with pytest.raises(FaceflaxError, match=r"path: cannot read .*absent\.hdf5' \(No such"):
        keras.read(tmp_path / "absent.hdf5")
