"""Folded networks in both engines against the networks themselves, and programs kept on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

import faceflax
from faceflax import files, models, native
from faceflax.errors import FaceflaxError
from faceflax.inference import Classifiers, program
from faceflax.inference.compiled import compile
from faceflax.opencv import cv2
from faceflax.preprocessing import normalize

ROOT = Path(__file__).resolve().parents[2]
FER = ROOT / "../shared/data/fer2013.zip"


def random_network(arch, num_classes=7):
    """Running statistics included, so that folding them wrongly shows."""
    model = models.create(arch, num_classes)
    rng = np.random.default_rng(3)

    def draw(path, shape):
        positive = path[-1].key in ("scale", "var")
        return (rng.uniform(0.5, 1.5, shape.shape) if positive else rng.normal(0, 0.1, shape.shape)).astype(np.float32)

    return model, jax.tree.map_with_path(draw, jax.eval_shape(lambda: models.init(model, jax.random.key(0), 64)))


def both_engines(networks, images):
    programs = [program.fold(*network) for network in networks]
    yield jax.jit(lambda *x: [program.evaluate(p, xi) for p, xi in zip(programs, x, strict=True)])(*images)
    if native.available():
        yield native.run([(native.Network(p), x) for p, x in zip(programs, images, strict=True)])


@pytest.mark.parametrize("arch", ["mini_xception", "mini_xception_antialiased", "sequential_cnn", "vgg"])
@pytest.mark.parametrize(
    "size", [pytest.param((32, 32), marks=pytest.mark.slow), (47, 51), pytest.param((64, 64), marks=pytest.mark.slow)]
)
def test_a_folded_network_is_the_network(arch, size):
    model, variables = random_network(arch)
    images = np.random.default_rng(0).uniform(-1, 1, (3, *size, 1)).astype(np.float32)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype(np.float64), variables)
        expected = np.asarray(jax.jit(lambda x: model.apply(wide, x, train=False)[0])(images.astype(np.float64)))
    folded, *kernels = (logits for (logits,) in both_engines([(model, variables)], [images]))
    for logits in (folded, *kernels):
        assert np.linalg.norm(logits - expected) <= 2e-6 * np.linalg.norm(expected)
    # The worst logit too, but where XLA's own of the plain network can be 2.0e-6 off already, on AVX2.
    for logits in kernels if (arch, size) == ("vgg", (32, 32)) else (folded, *kernels):
        np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_networks_of_different_sizes_and_batches_run_in_one_call():
    networks = [
        random_network("mini_xception", 7),
        random_network("mini_xception", 2),
        random_network("sequential_cnn"),
        random_network("vgg"),
    ]
    rng = np.random.default_rng(0)
    shapes = [(2, 48, 48, 1), (5, 64, 64, 1), (1, 33, 40, 1), (2, 48, 48, 1)]
    images = [rng.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]
    apart = [compile(*network)(x) for network, x in zip(networks, images, strict=True)]
    for together in both_engines(networks, images):
        for found, expected in zip(together, apart, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def real_faces():
    """The first 256 faces of FER-2013, 64x64 in [-1, 1]."""
    if not FER.exists():
        pytest.skip("needs the real faces in ../shared/data/fer2013.zip")
    with zipfile.ZipFile(FER) as archive:
        encoded = [np.frombuffer(archive.read(f"{row:05d}.webp"), np.uint8) for row in range(256)]
    faces = [cv2.resize(cv2.imdecode(image, cv2.IMREAD_GRAYSCALE), (64, 64)) for image in encoded]
    return normalize(np.stack(faces)[..., None]).astype(np.float32)


@pytest.mark.parametrize("name", ["mini_xception-fer2013", "mini_xception-fairface", "vgg-fer2013"])
def test_logits_of_256_real_faces_are_those_of_plain_float32(name, real_faces):
    model, variables = faceflax.load(name)
    plain = np.asarray(jax.jit(lambda x: model.apply(variables, x, train=False)[0])(real_faces))
    np.testing.assert_allclose(compile(model, variables)(real_faces), plain, rtol=0, atol=1e-4)
    for (logits,) in both_engines([(model, variables)], [real_faces]):
        np.testing.assert_allclose(logits, plain, rtol=0, atol=1e-4)


def test_another_nonlinearity_or_network_runs_as_it_stands():
    model, variables = random_network("mini_xception")
    bent = model.clone(activation=nn.leaky_relu)
    assert program.fold(bent, variables) is None
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 1)).astype(np.float32)
    expected = bent.apply(variables, images, train=False)[0]
    np.testing.assert_allclose(compile(bent, variables)(images), expected, rtol=1e-4, atol=1e-4)


def test_outputs_that_are_not_numbers_are_refused():
    model, variables = random_network("mini_xception")
    variables["params"] = jax.tree.map(lambda x: 1e8 * x, variables["params"])
    with pytest.raises(FaceflaxError, match=r"^variables: the network's outputs are not numbers"):
        compile(model, variables)(np.ones((2, 64, 64, 1), np.float32))
    with pytest.raises(FaceflaxError, match=r"^weights: the network's outputs are not numbers"):
        Classifiers([program.fold(model, variables)], [1.0], [64])


SECOND_START = """
import jax, numpy as np
compiled = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
import faceflax
from faceflax.media import demo
predict = faceflax.compile(*faceflax.load("mini_xception-fer2013"))
print(float(predict(np.zeros((3, 64, 64, 1), np.float32)).sum()))
print(faceflax.FaceAnalyzer()(demo.photograph())[0].gender)
print(sum("backend_compile" in name for name in compiled))
"""


def start(folder, **environment):
    environment = {**os.environ, "FACEFLAX_CACHE_DIR": str(folder), **environment}
    done = subprocess.run(
        [sys.executable, "-c", SECOND_START], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *answers, compilations = done.stdout.split()
    return answers, int(compilations)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["0", ""])
def test_the_second_start_of_a_process_compiles_nothing(tmp_path, engine):
    first, everything = start(tmp_path, FACEFLAX_NATIVE=engine)
    if engine == "" and native.available():
        assert everything == 0  # the kernels compute all of it
        return
    assert everything > 0
    second, compilations = start(tmp_path, FACEFLAX_NATIVE=engine)
    assert second == first
    assert compilations == 0
    damaged = min((tmp_path / "programs").iterdir(), key=lambda file: file.stat().st_size)  # it alone is made again
    damaged.write_bytes(b"\x80\x04" + damaged.read_bytes()[:100])
    third, compilations = start(tmp_path, FACEFLAX_NATIVE=engine)
    assert third == first
    assert 0 < compilations < everything


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    answers, compilations = start(blocked, FACEFLAX_NATIVE="0")
    assert len(answers) == 2
    assert compilations > 0


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("FACEFLAX_CACHE_DIR", "/somewhere")
    assert files.cache_folder() == Path("/somewhere")
    monkeypatch.delenv("FACEFLAX_CACHE_DIR")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert files.cache_folder() == Path("/elsewhere/faceflax")
