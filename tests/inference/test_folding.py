"""Folded layers against BatchNorm written out in float64, and every damage to a network's tensors refused by name."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import faceflax
from faceflax import models, pretrained
from faceflax.errors import FaceflaxError
from faceflax.inference import folding, program

ROOT = Path(__file__).resolve().parents[2]
ARCHS = ["mini_xception", "mini_xception_antialiased", "sequential_cnn", "vgg"]

# Of the layers that were folded from Linen modules' variables before folding worked on names, bit for bit; of weights
# that have not been trained again since.
DIGESTS = {
    "sequential_cnn-fairface": "9e9d4f396155082c125467435ccac8a8fe8d3c2190d235790884d43cfb89601b",
}


def digest(layers):
    total = hashlib.sha256()
    for layer in layers:
        total.update(repr((layer.kind, layer.relu, layer.padding, [w.shape for w in layer.weights])).encode())
        for weights in layer.weights:
            total.update(np.ascontiguousarray(weights).tobytes())
    return total.hexdigest()


def random_tensors(arch, num_classes=7, channels=1):
    """The tensors of a network as Linen makes them, with random values and positive variances."""
    model = models.create(arch, num_classes)
    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0), channels=channels))
    rng = np.random.default_rng(5)
    return {
        name: (rng.uniform(0.5, 1.5, s.shape) if name.endswith(("scale", "var")) else rng.normal(0, 0.1, s.shape))
        .astype(np.float32)
        for name, s in flatten_dict(shapes, sep="/").items()
    }  # fmt: skip


@pytest.mark.parametrize("name", DIGESTS)
def test_shipped_weights_fold_bit_for_bit_as_before(name):
    info, layers = folding.load(name)
    assert info == pretrained.weights_info(name)
    assert digest(layers) == DIGESTS[name]


def test_every_shipped_classifier_is_folded_and_from_linen_s_variables_the_same():
    classifiers = [name for name in pretrained.list_weights() if pretrained.weights_info(name).arch in ARCHS]
    assert set(DIGESTS) < set(classifiers)
    for name in classifiers:
        assert digest(program.fold(*faceflax.load(name))) == digest(folding.load(name)[1]), name


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("arch", ARCHS)
def test_linen_s_variables_are_taken_whole_and_batch_norm_is_what_its_formula_says(arch, channels):
    tensors = random_tensors(arch, channels=channels)
    wide = {name: value.astype(np.float64) for name, value in tensors.items()}
    layers = folding.fold(arch, tensors, num_classes=7, channels=channels)

    def folded(name, norm):
        scale, bias = (wide[f"params/{norm}/{leaf}"] for leaf in ("scale", "bias"))
        mean, var = (wide[f"batch_stats/{norm}/{leaf}"] for leaf in ("mean", "var"))
        kernel = wide[next(n for n in wide if n in {f"params/{name}/kernel", f"params/{name}/pointwise"})]
        start = wide.get(f"params/{name}/bias", 0.0)
        return kernel * (scale / np.sqrt(var + 1e-3)), bias + (start - mean) * scale / np.sqrt(var + 1e-3)

    if arch.startswith("mini_xception"):
        names = [("stem1", "stem1_bn"), ("stem2", "stem2_bn")]
        for i in range(1, 5):
            names.append((f"block{i}/shortcut", f"block{i}/shortcut_bn"))
            names += [(f"block{i}/conv{half}", f"block{i}/bn{half}") for half in (1, 2)]
    elif arch == "vgg":
        convolutions = [
            f"conv{stage}_{i}" for stage, depth in ((1, 2), (2, 2), (3, 3), (4, 3)) for i in range(1, depth + 1)
        ]
        names = [(name, f"{name}_bn") for name in convolutions]
    else:
        names = [(f"stage{i}{half}", f"stage{i}{half}_bn") for i in range(1, 5) for half in "ab"]
        names.append(("stage5a", "stage5a_bn"))
    *inner, head = [layer for layer in layers if layer.weights]
    for layer, name in zip(inner, names, strict=True):
        *_, kernel, offset = layer.weights
        expected_kernel, expected_offset = folded(*name)
        np.testing.assert_allclose(kernel, expected_kernel.reshape(kernel.shape), rtol=1e-6, atol=0)
        np.testing.assert_allclose(offset, expected_offset, rtol=1e-5, atol=1e-7)
        if layer.kind == "separable":
            np.testing.assert_array_equal(layer.weights[0], tensors[f"params/{name[0]}/depthwise"])
    last = tensors["params/classifier/kernel" if arch == "vgg" else "params/last_conv/kernel"]
    np.testing.assert_array_equal(head.weights[0], last.reshape(head.weights[0].shape))
    np.testing.assert_array_equal(
        head.weights[1], tensors["params/classifier/bias" if arch == "vgg" else "params/last_conv/bias"]
    )
    assert {weights.dtype for layer in layers for weights in layer.weights} == {np.dtype(np.float32)}


def refused(arch, tensors, *words, **sizes):
    with pytest.raises(FaceflaxError, match=r"^tensors: ") as caught:
        folding.fold(arch, tensors, **sizes)
    for word in words:
        assert word in str(caught.value)
    return caught.value


@pytest.mark.parametrize("arch", ARCHS)
def test_each_missing_tensor_is_named(arch):
    tensors = random_tensors(arch)
    for name, value in tensors.items():
        rest = {other: kept for other, kept in tensors.items() if other != name}
        error = refused(arch, rest, f"'{name}'", str(value.shape), "missing", num_classes=7, channels=1)
        assert error.value == name


@pytest.mark.parametrize("arch", ARCHS)
def test_each_tensor_of_another_shape_is_named(arch):
    tensors = random_tensors(arch)
    for name, value in tensors.items():
        for axis in range(value.ndim):
            wrong = np.concatenate([value, value], axis)
            words = f"'{name}'", str(wrong.shape), str(value.shape)
            refused(arch, tensors | {name: wrong}, *words, num_classes=7, channels=1)
        refused(arch, tensors | {name: value[None]}, f"'{name}'", num_classes=7, channels=1)
        refused(arch, tensors | {name: value[:0]}, f"'{name}'", num_classes=7, channels=1)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_superfluous_tensor_is_named(arch):
    refused(arch, random_tensors(arch) | {"params/extra/kernel": np.zeros((3, 3))}, "'params/extra/kernel'", "(3, 3)")


def test_tensors_of_another_network_are_refused():
    refused("mini_xception", random_tensors("sequential_cnn"), "'params/stem1/kernel'", "missing")


def test_classes_and_channels_are_those_asked_for():
    tensors = random_tensors("mini_xception")
    refused("mini_xception", tensors, "'params/last_conv/kernel'", "(3, 3, 128, 2)", num_classes=2)
    refused("mini_xception", tensors, "'params/stem1/kernel'", "(3, 3, 3, 8)", channels=3)
    assert len(folding.fold("mini_xception", tensors)) == 19


def test_values_that_no_network_has_are_refused():
    tensors = random_tensors("mini_xception")
    name = "batch_stats/block1/bn1/var"
    refused("mini_xception", tensors | {name: -tensors[name]}, f"'{name}'", "negative variance")
    large = {"params/stem1/kernel": np.full((3, 3, 1, 8), 3e38, np.float32), "params/stem1_bn/scale": np.full(8, 3e38)}
    refused("mini_xception", tensors | large, "'stem1'", "no finite float32")
    none = {"params/last_conv/bias": np.full(7, np.nan, np.float32)}
    refused("mini_xception", tensors | none, "'last_conv'", "no finite float32")


@pytest.mark.parametrize("arch", ["face_detector", "another"])
def test_a_network_that_layers_cannot_express_is_none(arch):
    assert folding.fold(arch, {}) is None


def test_damage_is_refused_with_the_caller_s_name_of_it(tmp_path, network):
    model, variables = network
    params = {name: value for name, value in variables["params"].items() if name != "stem1"}
    with pytest.raises(FaceflaxError, match=r"^variables: tensor 'params/stem1/kernel' \(3, 3, any, 8\) .* missing"):
        faceflax.compile(model, variables | {"params": params})
    file = tmp_path / "mine.safetensors"
    pretrained.save(file, variables, arch="mini_xception", dataset="none", labels=tuple("abcdefg"), image_size=48)
    record = file.with_suffix(".json")
    record.write_text(record.read_text().replace('"g"', '"g", "h"'))
    message = rf"^weights: in {re.escape(repr(str(file)))}, tensor 'params/last_conv/kernel' is \(3, 3, 128, 7\).*, 8\)"
    with pytest.raises(FaceflaxError, match=message):
        folding.load(file)


def test_reading_and_folding_import_neither_jax_nor_flax():
    code = (
        "import sys, faceflax.pretrained; from faceflax.inference import folding; "
        "folding.load('mini_xception-fer2013'); "
        "print({'jax', 'jaxlib', 'flax', 'optax', 'orbax', 'scipy', 'h5py'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
