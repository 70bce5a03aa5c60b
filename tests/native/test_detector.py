"""The detector in C++ against the Linen module and its form in JAX and NumPy, and what it refuses."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from faceflax import native
from faceflax.errors import FaceflaxError
from faceflax.inference.detector_in_jax import InJax, evaluate
from faceflax.models.face_detector import FaceDetector
from faceflax.native import DetectorLayer, DetectorNetwork, Region, detector

ROOT = Path(__file__).resolve().parents[2]

spec = importlib.util.spec_from_file_location("detectors", Path(__file__).with_name("detectors.py"))
detectors = importlib.util.module_from_spec(spec)
spec.loader.exec_module(detectors)

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native kernels: {native.status()}")


@pytest.fixture(scope="module")
def network():
    return DetectorNetwork(detectors.program())


@pytest.mark.parametrize(("batch", "rows", "columns"), [(0, 32, 32), (3, 32, 32), (2, 96, 64), (1, 64, 160)])
def test_outputs_are_those_of_the_linen_module(network, batch, rows, columns):
    images = np.random.default_rng(1).uniform(-1, 1, (batch, rows, columns, 3)).astype(np.float32)
    found = network.outputs(images)
    assert found.shape == (batch, rows * columns // 64 * 21 // 16, 15)
    if not batch:
        return
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda w: w.astype(np.float64), detectors.variables())
        expected, _ = jax.jit(FaceDetector().apply)(wide, images.astype(np.float64))
        folded = jax.jit(lambda x: evaluate(detectors.program(), x))(images.astype(np.float64))
    scale = np.abs(expected).max()
    assert np.ptp(expected[..., 0]) > 1  # it says something
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(folded, expected, rtol=0, atol=1e-6 * scale)


def same_faces(found, expected, within=1e-3):
    """Faces of equal scores may come in another order, as their scores differ in the last bit."""
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[:, 4], expected[:, 4], rtol=0, atol=1e-5)
    for rows in (found, expected):
        assert (np.diff(rows[:, 4]) <= 0).all()
    key = lambda rows: rows[np.lexsort([rows[:, 1].round(1), rows[:, 0].round(1), rows[:, 15]])]  # noqa: E731
    np.testing.assert_allclose(key(found), key(expected), rtol=1e-6, atol=within)


@pytest.mark.parametrize("number", range(len(detectors.REGIONS)))
def test_one_region_gives_the_faces_of_the_form_in_jax(network, number):
    image, regions = detectors.image(168, 320), detectors.REGIONS[number : number + 1]
    for limits in ({"min_score": 0.4}, {"min_score": 0.2, "max_overlap": 0.7}):
        found = network.detect(image, regions, **limits)
        same_faces(found, InJax(detectors.program()).detect(image, regions, **limits))
    assert len(found) > 0


def test_faces_of_all_regions_together(network):
    image = detectors.image(168, 320)
    found = network.detect(image, detectors.REGIONS, min_score=0.4, max_overlap=0.3)
    same_faces(found, InJax(detectors.program()).detect(image, detectors.REGIONS, min_score=0.4, max_overlap=0.3))
    assert len(set(found[:, 15])) > 3
    few = network.detect(image, detectors.REGIONS, min_score=0.4, max_overlap=0.3, max_faces=5)
    np.testing.assert_array_equal(few, found[:5])
    assert network.detect(image, [], min_score=0.4).shape == (0, 16)
    assert network.detect(image, detectors.REGIONS, min_score=0.4, max_faces=0).shape == (0, 16)


def test_equal_regions_give_each_face_once_and_the_first_of_them(network):
    image = detectors.image(168, 320)
    once = network.detect(image, detectors.REGIONS[:1], min_score=0.4)
    np.testing.assert_array_equal(network.detect(image, detectors.REGIONS[:1] * 9, min_score=0.4), once)


def test_regions_of_more_pixels_than_are_computed_side_by_side(network):
    image = detectors.image(168, 320)
    regions = [Region(left, 0, 224, 224, 224, 224) for left in range(0, 120, 10)]
    limits = {"min_score": 0.5, "max_overlap": 1, "max_faces": 1 << 20}
    every = network.detect(image, regions, **limits)
    assert len(every) > 1024
    for number, region in enumerate(regions):
        alone = network.detect(image, [region], **limits)
        alone[:, 15] = number
        np.testing.assert_array_equal(every[every[:, 15] == number], alone)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20000), (3000, 1), (2, 3)])
def test_images_of_any_shape(network, shape):
    image = detectors.image(*shape)
    regions = [
        Region(-3, -5, 40, 40, 64, 64),
        Region(0, 0, shape[1], shape[0], 32, 64),
        Region(shape[1] - 1.5, shape[0] - 1.5, 99, 99, 32, 32),
    ]
    for region in regions:
        limits = {"min_score": 0.3, "max_overlap": 0.6}
        found = network.detect(image, [region], **limits)
        expected = InJax(detectors.program()).detect(image, [region], **limits)
        same_faces(found, expected, 1e-3 * max(1, region.width / region.columns))


def test_rows_that_lie_apart(network):
    wide = detectors.image(168, 640)
    for image in (wide[:, 100:420], wide[::-1, :320], wide[:, ::2], wide.swapaxes(0, 1)[:168], wide[..., ::-1]):
        np.testing.assert_array_equal(
            network.detect(image, detectors.REGIONS, min_score=0.4),
            network.detect(np.ascontiguousarray(image), detectors.REGIONS, min_score=0.4),
        )


def test_many_threads_use_one_network(network):
    images = [detectors.image(100 + 7 * i, 150 + 11 * i, i) for i in range(8)]
    expected = [network.detect(image, detectors.REGIONS, min_score=0.3) for image in images]

    def calls(i):
        for _ in range(50):
            np.testing.assert_array_equal(network.detect(images[i], detectors.REGIONS, min_score=0.3), expected[i])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(calls, range(8)))


ALONE = """
import sys
import numpy as np
from faceflax.native import DetectorLayer, DetectorNetwork, Region
rng = np.random.default_rng(0)
draw = lambda *shape: rng.normal(0, 0.2, shape).astype(np.float32)
layers = [DetectorLayer("patches", 32, weights=(draw(48, 32), draw(32)), relu=True)]
for i in range(3):
    weights = draw(3, 3, 1, 32), draw(32, 32), draw(32)
    layers.append(DetectorLayer("separable", 32, i, i if i else -1, weights, True))
layers += [DetectorLayer("max_pool", 32, 3), DetectorLayer("places", 15, 4, weights=(draw(32, 15), draw(15)))]
network = DetectorNetwork(layers)
image = rng.integers(0, 256, (300, 500, 3), dtype=np.uint8)
faces = network.detect(image, [Region(0, 0, 500, 300, 192, 320), Region(9, 9, 70, 70, 64, 64)], min_score=0.5)
assert not {"jax", "jaxlib", "flax"} & set(sys.modules)
print(faces.tobytes().hex())
"""


def test_the_number_of_threads_does_not_change_the_faces():
    answers = {
        subprocess.run(
            [sys.executable, "-c", ALONE],
            cwd=ROOT,
            env={**os.environ, "FACEFLAX_THREADS": threads},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        ).stdout
        for threads in ("1", "2", "64")
    }
    assert len(answers) == 1
    assert len(answers.pop()) > 1000


IMAGE = np.zeros((20, 30, 3), np.uint8)
WHOLE = Region(0, 0, 30, 20, 32, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"left": np.nan}, r"regions\[0\]: left, top, width, height of \(nan, 0, 30, 20\) are no part of an image"),
        ({"top": np.inf}, r"regions\[0\]: left, top"),
        ({"width": 0}, "are no part of an image; give finite numbers up to 16777216, a width and a height above 0"),
        ({"height": -1}, "are no part of an image"),
        ({"height": np.nan}, "are no part of an image"),
        ({"width": 1e30}, "are no part of an image"),
        ({"rows": 0}, r"rows, columns of \(0, 32\) are no size of the network's input; give multiples of 32 up to"),
        ({"rows": 40}, r"rows, columns of \(40, 32\)"),
        ({"columns": -32}, r"rows, columns of \(32, -32\)"),
        ({"columns": 2**40}, r"rows, columns of \(32, 1099511627776\)"),
        ({"rows": 8192, "columns": 4096}, "at most 16777216 pixels together"),
    ],
)
def test_regions_that_cannot_be_searched_are_named(network, changes, message):
    region = replace(WHOLE, **changes)
    for search in (network, InJax(detectors.program())):
        with pytest.raises(FaceflaxError, match=message):
            search.detect(IMAGE, [region], min_score=0.5)
    handle, faces, found = network._handle, np.empty((4, 16), np.float32), ctypes.c_int64()
    made = detector._Region(region.left, region.top, region.width, region.height, region.rows, region.columns)
    library = network._library
    pixels, room = ctypes.c_void_p(IMAGE.ctypes.data), ctypes.c_void_p(faces.ctypes.data)
    sizes = [ctypes.c_int64(n) for n in (20, 30, 90)]
    shares = [ctypes.c_double(share) for share in (0.5, 0.5)]
    ends = [ctypes.c_int64(1), *shares, ctypes.c_int64(4), room, ctypes.byref(found)]
    assert library.faceflax_detect(handle, pixels, *sizes, ctypes.byref(made), *ends) == 1
    assert library.faceflax_problem().decode().startswith("regions[0]: ")


@pytest.mark.parametrize(
    ("image", "limits", "message"),
    [
        (IMAGE[..., 0], {}, r"image: uint8 of shape \(20, 30\) is not uint8 \[height, width, 3\]"),
        (IMAGE[..., :2], {}, r"image: uint8 of shape \(20, 30, 2\)"),
        (IMAGE.astype(np.float32), {}, "image: float32 of shape"),
        (IMAGE[:0], {}, r"image: uint8 of shape \(0, 30, 3\)"),
        (IMAGE, {"min_score": np.nan}, "min_score: nan is not between 0 and 1"),
        (IMAGE, {"min_score": -0.1}, "min_score: -0.1"),
        (IMAGE, {"max_overlap": 1.5}, "max_overlap: 1.5 is not between 0 and 1"),
        (IMAGE, {"max_faces": -1}, "max_faces: -1 is no number of faces; give 0 to 1048576"),
        (IMAGE, {"max_faces": 2**40}, "max_faces: 1099511627776"),
    ],
)
def test_what_cannot_be_searched_is_named(network, image, limits, message):
    for search in (network, InJax(detectors.program())):
        with pytest.raises(FaceflaxError, match=message):
            search.detect(image, [WHOLE], **{"min_score": 0.5, **limits})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 32, 32, 1), np.float32), r"images: float32 of shape \(1, 32, 32, 1\) is not"),
        (np.zeros((1, 32, 32, 3)), "images: float64"),
        (np.zeros((0, 32, 48, 3), np.float32), "images: 32x48 pixels cannot be the network's input; give multiples"),
        (np.zeros((0, 0, 32, 3), np.float32), "images: 0x32 pixels"),
        (np.zeros((0, 32, 2**30, 3), np.float32), "images: 32x1073741824 pixels"),
    ],
)
def test_wrong_images_are_named(network, images, message):
    with pytest.raises(FaceflaxError, match=message):
        network.outputs(images)


def test_null_pointers_and_counts_are_refused(network):
    library, null = network._library, ctypes.c_void_p()
    zero, one, row = (ctypes.c_int64(n) for n in (0, 1, 3))
    half = ctypes.c_double(0.5)
    size = ctypes.c_int64(32)
    pixels = ctypes.c_void_p(IMAGE.ctypes.data)
    found = ctypes.byref(ctypes.c_int64())
    layer = detector._Layer()
    for call, message in (
        (lambda: library.faceflax_detector_create(None, one, found), "layers: none"),
        (lambda: library.faceflax_detector_create(ctypes.byref(layer), zero, found), "layers: none"),
        (lambda: library.faceflax_detector_create(ctypes.byref(layer), one, None), "detector: null"),
        (lambda: library.faceflax_detector_outputs(null, null, zero, size, size, null), "detector: null"),
        (lambda: library.faceflax_detector_outputs(network._handle, null, one, size, size, null), "images: null"),
        (
            lambda: library.faceflax_detector_outputs(network._handle, null, ctypes.c_int64(-1), size, size, null),
            "images: a count of -1",
        ),
        (
            lambda: library.faceflax_detect(null, pixels, one, one, one, null, zero, half, half, zero, null, found),
            "detector: null",
        ),
        *(
            (lambda arguments=arguments: library.faceflax_detect(network._handle, *arguments), message)
            for arguments, message in (
                ((null, one, one, one, null, zero, half, half, zero, null, found), "image: null"),
                ((pixels, zero, one, row, null, zero, half, half, zero, null, found), "image: 0x1"),
                ((pixels, one, size, one, null, zero, half, half, zero, null, found), "image: rows 1 bytes apart"),
                ((pixels, one, one, row, null, one, half, half, zero, null, found), "regions: null"),
                ((pixels, one, one, row, null, zero, half, half, one, null, found), "max_faces: 1 faces, or no room"),
                ((pixels, one, one, row, null, zero, half, half, zero, null, null), "max_faces: 0 faces, or no room"),
                ((pixels, one, one, row, null, zero, ctypes.c_double(7), half, zero, null, found), "min_score: 7"),
                ((pixels, one, one, row, null, zero, half, ctypes.c_double(-1), zero, null, found), "max_overlap: -1"),
            )
        ),
    ):
        assert call() == 1
        assert message in library.faceflax_problem().decode()
    assert library.faceflax_detector_places(null, size, size) == -1
    assert library.faceflax_detector_places(network._handle, size, size) == 21


def array(*shape):
    return np.zeros(shape, np.float32)


PATCHES = DetectorLayer("patches", 8, weights=(array(48, 8), array(8)), relu=True)
POOL = DetectorLayer("max_pool", 8, 0)
UNIT = DetectorLayer("separable", 8, 0, weights=(array(3, 3, 1, 8), array(8, 8), array(8)))
PLACES = DetectorLayer("places", 15, 0, weights=(array(8, 15), array(15)))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "layers: none; give at least patches and places"),
        ([PATCHES], "layers: none gives places; add one"),
        ([replace(PATCHES, kind="dense")], r"layers\[0\].kind: unknown 'dense'; choose one of: patches, separable"),
        ([replace(PATCHES, weights=PATCHES.weights[:1])], "weights: 1 arrays; give 2: kernel, bias"),
        ([replace(PATCHES, weights=(array(48, 8).astype(np.float64), array(8)))], "kernel: float64 of shape"),
        ([replace(PATCHES, weights=(array(48, 9), array(8)))], "kernel: 432 numbers where .* ask for 384"),
        ([replace(PATCHES, channels=24)], r"layers\[0\] \(patches\).outputs: 24 channels cannot be computed"),
        ([replace(PATCHES, source=0)], r"from: 0 where this layer needs none, which is -1; make them agree"),
        ([PATCHES, replace(UNIT, source=1)], r"layers\[1\] \(separable\).from: 1 where this layer needs an earlier"),
        ([PATCHES, replace(UNIT, source=-1)], "from: -1 where this layer needs an earlier layer"),
        ([PATCHES, replace(UNIT, add=5)], "add: 5 where this layer needs an earlier layer that gives a map"),
        ([PATCHES, POOL, replace(UNIT, add=1)], r"add: layer 1 has another shape; give one of as many channels"),
        ([PATCHES, replace(POOL, add=0)], r"layers\[1\] \(max_pool\).add: 0 where this layer needs none"),
        ([PATCHES, replace(POOL, relu=True)], r"relu: 1 is not possible for this kind; give 0"),
        ([PATCHES, replace(POOL, channels=16)], "outputs: 16 channels of 8; give as many"),
        (
            [PATCHES, POOL, replace(POOL, source=1), replace(POOL, source=2), replace(POOL, source=3)],
            r"layers\[4\] \(max_pool\).kind: the map is too coarse to be pooled",
        ),
        ([PATCHES, DetectorLayer("doubled_sum", 8, 0, 0)], "add: layer 0 has another shape; .* channels, half as fine"),
        (
            [PATCHES, PLACES, replace(UNIT, source=1)],
            "from: 1 where this layer needs an earlier layer that gives a map",
        ),
        ([PATCHES, replace(PLACES, channels=16)], "channels: 16 numbers of a place; give 15"),
        ([PATCHES, replace(UNIT, weights=(array(3, 3, 1, 8), array(8, 9), array(8)))], "pointwise: 72 numbers"),
    ],
)
def test_layers_that_cannot_be_computed_are_named(layers, message):
    with pytest.raises(FaceflaxError, match=message):
        DetectorNetwork(layers)


def test_the_c_functions_check_layers_for_themselves(network):
    handle = ctypes.c_void_p(1)
    for changes, message in (
        ({"kind": 6}, r"layers[0].kind: 6 is unknown; give one of 0 to 5"),
        ({"kind": -1}, "kind: -1 is unknown"),
        ({"relu": 2}, "relu: 2 is not possible"),
        ({"inputs": 15}, "inputs: 15 channels where there are 48"),
        ({"outputs": 0}, "outputs: 0 channels"),
        ({"outputs": 2**40}, "outputs: 1099511627776 channels"),
        ({"kernel": None}, "kernel: null where the layer's sizes ask for 384"),
        ({"bias_count": 7}, "bias: 7 numbers"),
        ({"pointwise_count": 1}, "pointwise: null"),
    ):
        kernel, bias = (array.ctypes.data for array in PATCHES.weights)
        values = {"kind": 0, "relu": 1, "source": -1, "add": -1, "inputs": 48, "outputs": 8}
        values |= {"kernel": kernel, "bias": bias, "kernel_count": 384, "bias_count": 8, **changes}
        made = detector._Layer(**values)
        library = network._library
        assert library.faceflax_detector_create(ctypes.byref(made), ctypes.c_int64(1), ctypes.byref(handle)) == 1
        assert handle.value is None
        assert message in library.faceflax_problem().decode()
