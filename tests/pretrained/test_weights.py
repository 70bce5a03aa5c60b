"""The weights store: what is saved comes back, and a file that is not exactly right is refused with a reason."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

import faceflax
from faceflax import models, pretrained
from faceflax.errors import FaceflaxError
from faceflax.pretrained.reading import SHIPPED

RECORD = {"arch": "mini_xception", "dataset": "folder", "labels": ("cat", "dog"), "image_size": 48}


@pytest.fixture(scope="module")
def variables():
    shapes = jax.eval_shape(lambda: models.init(models.create("mini_xception", 2), jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda v: rng.uniform(0.5, 1.5, v.shape).astype(np.float32), shapes)


@pytest.fixture
def file(tmp_path, variables):
    path = tmp_path / "mine.safetensors"
    pretrained.save(path, variables, **RECORD)
    return path


def rewrite(file, change):
    """Changes the tensors of a saved file and makes its record agree, as an honest but wrong writer would."""
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    rewrite_bytes(file, safetensors.numpy.save(tensors))


def rewrite_bytes(file, content):
    file.write_bytes(content)
    edit_record(file, sha256=hashlib.sha256(content).hexdigest())


def edit_record(file, **values):
    record = file.with_suffix(".json")
    record.write_text(json.dumps(json.loads(record.read_text()) | values))


def refused(file, *words):
    with pytest.raises(FaceflaxError, match=r"^weights: ") as caught:
        pretrained.load(file)
    for word in words:
        assert word in str(caught.value)
    assert "--" not in str(caught.value)


def test_what_is_saved_comes_back_bit_for_bit(tmp_path, variables):
    path = tmp_path / "new folder" / "mine.safetensors"
    info = pretrained.save(
        *(path, variables),
        **RECORD,
        **{"crop_margin": 0.25, "temperature": 1.5, "accuracy": {"test": np.float32(0.5)}},
        sure={"confidence": np.float32(0.625), "accuracy": 0.8, "coverage": 0.5},
    )
    model, loaded = pretrained.load(path)
    assert model == models.create("mini_xception", 2)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    assert pretrained.weights_info(str(path)) == info
    assert (info.name, info.labels, info.image_size) == ("mine", ("cat", "dog"), 48)
    assert (info.crop_margin, info.temperature, info.accuracy) == (0.25, 1.5, {"test": 0.5})
    assert info.sure == {"confidence": 0.625, "accuracy": 0.8, "coverage": 0.5}
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sorted(p.name for p in path.parent.iterdir()) == ["mine.json", "mine.safetensors"]
    assert path.stat().st_size < 300_000


def test_the_record_comes_with_the_network_and_its_variables(file):
    loaded = faceflax.load(file)
    model, variables = loaded
    assert (len(loaded), model, variables) == (2, loaded.model, loaded.variables)
    assert loaded.info == pretrained.weights_info(file)
    assert "MiniXception(num_classes=2)" in repr(loaded)
    assert "52,658 parameters" in repr(loaded)
    assert repr(loaded.info) in repr(loaded)


def test_what_is_loaded_cannot_be_changed(file):
    loaded = faceflax.load(file)
    for field in ("model", "variables", "info", "another"):
        with pytest.raises(AttributeError, match=field):
            setattr(loaded, field, None)
        with pytest.raises(AttributeError, match=field):
            delattr(loaded, field)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda loaded: pickle.loads(pickle.dumps(loaded))])
def test_what_is_loaded_can_be_copied_and_pickled(file, copied):
    loaded = faceflax.load(file)
    same = copied(loaded)
    assert type(same) is type(loaded)
    assert (same.model, same.info) == (loaded.model, loaded.info)
    jax.tree.map(np.testing.assert_array_equal, same.variables, loaded.variables)


def test_tensors_are_read_flat_as_float32(tmp_path, variables):
    path = tmp_path / "half.safetensors"
    pretrained.save(path, variables, **RECORD, half=True)
    info, tensors = pretrained.read(path)
    assert info == pretrained.weights_info(path)
    expected = flatten_dict(variables, sep="/")
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert type(tensor) is np.ndarray
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, expected[name].astype(np.float16).astype(np.float32))


def test_half_precision_halves_the_file_and_comes_back_rounded(tmp_path, variables):
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    pretrained.save(whole, variables, **RECORD)
    pretrained.save(half, variables, **RECORD, half=True)
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    loaded = pretrained.load(half)[1]
    for number, stored in zip(jax.tree.leaves(variables), jax.tree.leaves(loaded), strict=True):
        assert stored.dtype == np.float32
        np.testing.assert_allclose(stored, number, rtol=2**-11, atol=0)


def test_a_number_too_large_for_half_precision_is_refused(tmp_path, variables):
    large = jax.tree.map(lambda v: np.float32(1e5) * v, variables)
    with pytest.raises(FaceflaxError, match=r"^variables: as float16, tensor '.*' holds NaN or infinity"):
        pretrained.save(tmp_path / "x.safetensors", large, **RECORD, half=True)
    assert list(tmp_path.iterdir()) == []


def test_tensors_are_named_by_their_place_in_the_tree(file, variables):
    tensors = safetensors.numpy.load_file(file)
    kernel = variables["params"]["block1"]["conv1"]["depthwise"]
    np.testing.assert_array_equal(tensors["params/block1/conv1/depthwise"], kernel)


def test_a_renamed_pair_loads(file):
    for suffix in (".safetensors", ".json"):
        file.with_suffix(suffix).rename(file.with_name(f"other{suffix}"))
    assert pretrained.weights_info(file.with_name("other.safetensors")).name == "other"


def test_saving_again_replaces_both_files(file, variables):
    doubled = jax.tree.map(lambda v: 2 * v, variables)
    pretrained.save(file, doubled, **RECORD | {"labels": ("cow", "hen")})
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(file)[1], doubled)
    assert pretrained.weights_info(file).labels == ("cow", "hen")


@pytest.mark.parametrize("name", pretrained.list_weights())
def test_shipped_weights_load(name):
    info = pretrained.weights_info(name)
    model, _ = pretrained.load(name)
    assert info.name == name
    assert name.startswith(info.arch)
    assert model == models.create(info.arch, len(info.labels))
    sizes = {"sequential_cnn": 2_700_000, "vgg": 4_000_000, "face_detector": 400_000}
    assert (SHIPPED / f"{name}.safetensors").stat().st_size <= sizes.get(info.arch, 300_000)


def test_an_unknown_name_is_told_the_valid_ones():
    with pytest.raises(FaceflaxError, match="weights: unknown 'nope'") as caught:
        pretrained.load("nope")
    for name in pretrained.list_weights():
        assert name in str(caught.value)


def test_no_such_file(tmp_path):
    refused(tmp_path / "absent.safetensors", "absent.safetensors", "no file")


def test_another_kind_of_file_is_pointed_to_the_converter():
    refused("emotion.hdf5", "'emotion.hdf5'", "faceflax convert-keras")


def test_a_missing_record(file):
    file.with_suffix(".json").unlink()
    refused(file, "mine.json", "No such file")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"x"', "[" * 100_000, '{"image_size": ' + 5000 * "9" + "}"])
def test_a_record_that_is_something_else(file, text):
    file.with_suffix(".json").write_text(text)
    refused(file, "mine.json")


def test_a_record_from_before_there_was_a_threshold_loads(file):
    record = file.with_suffix(".json")
    content = json.loads(record.read_text())
    del content["sure"]
    record.write_text(json.dumps(content))
    assert pretrained.load(file).info.sure is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("arch", "resnet"),
        ("arch", ["mini_xception"]),
        ("dataset", 3),
        ("labels", "ab"),
        ("labels", []),
        ("labels", ["cat", "cat"]),
        ("labels", [["cat"], "dog"]),
        ("image_size", 16),
        ("image_size", 48.5),
        ("image_size", True),
        ("image_size", 10**9),
        ("image_size", 10**400),
        ("crop_margin", -1),
        ("crop_margin", "much"),
        ("crop_margin", 1e6),
        ("crop_margin", 10**400),
        ("temperature", 0),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", 1e-300),
        ("temperature", -(10**400)),
        ("temperature", True),
        ("accuracy", {"test": 65}),
        ("accuracy", 0.65),
        ("accuracy", {"test": 10**400}),
        ("labels", ["cat", ""]),
        ("sure", {"confidence": 0.5}),
        ("sure", {"confidence": 1.5, "accuracy": 0.8, "coverage": 0.5}),
        ("sure", 0.5),
        ("sha256", "abc"),
        ("colour", "blue"),
    ],
)
def test_a_record_with_a_wrong_field(file, field, value):
    edit_record(file, **{field: value})
    refused(file, "mine.json", field if field != "colour" else "exactly the fields")


@pytest.mark.parametrize("change", [lambda b: b[:-4], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_a_truncated_empty_or_changed_file(file, change):
    file.write_bytes(change(file.read_bytes()))
    refused(file, "SHA-256", "mine.safetensors")


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_a_file_that_is_not_safetensors_although_its_record_agrees(file, content):
    rewrite_bytes(file, content)
    refused(file, "not a safetensors file")


def test_a_missing_tensor(file):
    rewrite(file, lambda tensors: tensors.pop("batch_stats/stem1_bn/mean"))
    refused(file, "mine.safetensors", "'batch_stats/stem1_bn/mean'", "missing")


def test_a_tensor_too_many(file):
    rewrite(file, lambda tensors: tensors.update(extra=np.zeros(3, np.float32)))
    refused(file, "'extra'")


def test_a_tensor_of_another_shape_names_both(file):
    rewrite(file, lambda tensors: tensors.update({"params/stem1/kernel": np.zeros((3, 3, 3, 8), np.float32)}))
    refused(file, "'params/stem1/kernel'", "(3, 3, 3, 8)", "(3, 3, 1, 8)")


def test_a_tensor_of_another_type(file):
    rewrite(file, lambda tensors: tensors.update({"params/stem1/kernel": np.zeros((3, 3, 1, 8))}))
    refused(file, "'params/stem1/kernel'", "float64", "float32")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none(file, value):
    rewrite(file, lambda tensors: tensors["params/last_conv/bias"].__setitem__(0, value))
    refused(file, "'params/last_conv/bias'", "NaN or infinity")


@pytest.mark.parametrize("value", [1e10, -3e38])
def test_a_number_that_no_network_has(file, value):
    rewrite(file, lambda tensors: tensors["params/last_conv/kernel"].__setitem__((0, 0, 0, 0), value))
    refused(file, "'params/last_conv/kernel'", "beyond 1e+09")


def test_a_negative_variance(file):
    rewrite(file, lambda tensors: tensors["batch_stats/stem1_bn/var"].__setitem__(3, -0.5))
    refused(file, "'batch_stats/stem1_bn/var'", "negative variance")


def test_labels_of_another_number_than_the_logits(file):
    edit_record(file, labels=["a", "b", "c"])
    refused(file, "'params/last_conv/bias'", "(2,)", "(3,)")


def test_save_refuses_what_load_would(tmp_path, variables):
    with pytest.raises(FaceflaxError, match=re.escape("'params/last_conv/bias' is float32 (2,)")):
        pretrained.save(tmp_path / "x.safetensors", variables, **RECORD | {"labels": ("a", "b", "c")})
    with pytest.raises(FaceflaxError, match="temperature: -1"):
        pretrained.save(tmp_path / "x.safetensors", variables, **RECORD, temperature=-1)
    for field, value in (("arch", "resnet"), ("labels", ()), ("image_size", 10**400), ("crop_margin", "much")):
        with pytest.raises(FaceflaxError, match=f"^{field}: "):
            pretrained.save(tmp_path / "x.safetensors", variables, **RECORD | {field: value})
    with pytest.raises(FaceflaxError, match=r"^accuracy: "):
        pretrained.save(tmp_path / "x.safetensors", variables, **RECORD, accuracy={"test": "good"})
    wide = jax.tree.map(lambda v: v.astype(np.float64), variables)
    with pytest.raises(FaceflaxError, match=r"^variables: tensor '.*' is float64"):
        pretrained.save(tmp_path / "x.safetensors", wide, **RECORD)
    with pytest.raises(FaceflaxError, match=r"x.npz' does not end in \.safetensors"):
        pretrained.save(tmp_path / "x.npz", variables, **RECORD)
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_the_old_pair(file, variables):
    before = [file.read_bytes(), file.with_suffix(".json").read_bytes()]
    broken = jax.tree.map(lambda v: v * np.float32(np.nan), variables)
    with pytest.raises(FaceflaxError, match="NaN"):
        pretrained.save(file, broken, **RECORD)
    assert [file.read_bytes(), file.with_suffix(".json").read_bytes()] == before
    assert len(list(file.parent.iterdir())) == 2


def test_save_says_where_it_cannot_write(tmp_path, variables):
    (tmp_path / "occupied").write_text("")
    with pytest.raises(FaceflaxError, match=r"path: cannot write into .*occupied"):
        pretrained.save(tmp_path / "occupied" / "x.safetensors", variables, **RECORD)
