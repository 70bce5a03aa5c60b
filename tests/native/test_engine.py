"""The engine for inference against plain XLA operators, and what it refuses."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from faceflax import models, native
from faceflax.errors import FaceflaxError
from faceflax.inference import program
from faceflax.native import Layer, engine

ROOT = Path(__file__).resolve().parents[2]

spec = importlib.util.spec_from_file_location("networks", Path(__file__).with_name("networks.py"))
networks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(networks)

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native kernels: {native.status()}")


def small(seed=0, channels=1):
    """Every kind of layer; pixels folded by two where the width is even."""
    rng = np.random.default_rng(seed)
    return (
        networks.convolution(rng, 3, channels, 8, padding="VALID"),
        networks.convolution(rng, 3, 8, 8, relu=False),
        networks.shortcut(rng, 8, 16),
        networks.separable(rng, 8, 16),
        networks.separable(rng, 16, 16, relu=False),
        Layer("max_pool"),
        networks.convolution(rng, 2, 16, 32),
        Layer("average_pool"),
        networks.convolution(rng, 1, 32, 96, relu=False),
        Layer("max_pool"),
        networks.head(rng, 96, 5),
    )


# Heads of few channels, a single layer, other first layers, kernels of odd and even sides.
OTHERS = {
    "head alone": lambda rng: (networks.head(rng, 3, 2),),
    "head of 8 channels": lambda rng: (networks.convolution(rng, 3, 1, 8), networks.head(rng, 8, 3)),
    "dense layer": lambda rng: (
        networks.convolution(rng, 3, 1, 32),
        Layer("max_pool"),
        networks.head(rng, 32, 4, size=1),
    ),
    "separable first": lambda rng: (networks.separable(rng, 32, 8), networks.head(rng, 8, 3)),
    "shortcut first": lambda rng: (
        networks.shortcut(rng, 16, 16),
        networks.convolution(rng, 3, 16, 16),
        Layer("max_pool"),
        networks.head(rng, 16, 3),
    ),
    "antialiased": lambda rng: (
        networks.convolution(rng, 3, 1, 8),
        networks.shortcut(rng, 8, 32, "blurred_shortcut"),
        networks.separable(rng, 8, 32, relu=False),
        Layer("blurred_max_pool"),
        networks.convolution(rng, 3, 32, 32),
        Layer("blurred_max_pool"),
        networks.head(rng, 32, 3),
    ),
    "a pixel of one channel": lambda rng: (networks.convolution(rng, 1, 1, 8), networks.head(rng, 8, 3)),
    "colours": lambda rng: (networks.convolution(rng, 5, 3, 16), networks.head(rng, 16, 3)),
    "even kernels": lambda rng: (
        networks.convolution(rng, 4, 1, 8),
        networks.convolution(rng, 2, 8, 32, padding="VALID"),
        networks.head(rng, 32, 3),
    ),
}


def drawn(rng, shape):
    return rng.uniform(-1, 1, shape).astype(np.float32)


def close(found, expected, tolerance=2e-6):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1, float(np.abs(expected).max())))


def in_float64(function, *arrays):
    with jax.enable_x64(True):
        wide = [a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays]
        return jax.tree.map(np.asarray, jax.jit(function)(*wide))


def assert_right(layers, images, targets=None):
    """Logits and, where they can be computed, maps against float64."""
    network = native.Network(layers)
    close(native.run([(network, images)])[0], in_float64(lambda x: networks.reference(layers, x), images))
    if not network.explains:
        return
    targets = np.full(len(images), -1) if targets is None else targets
    logits, maps = network.guided(images, targets)
    wide, wide_maps = in_float64(lambda x: networks.guided_reference(layers, x, targets), images)
    close(logits, wide)
    close(maps, wide_maps, 1e-5)


@pytest.mark.parametrize("size", [(9, 9), (12, 10), (7, 23)])
def test_every_kind_of_layer(size):
    rng = np.random.default_rng(1)
    assert_right(small(), drawn(rng, (3, *size, 1)), np.array([4, -1, 0]))


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("size", [(2, 2), (6, 7), (13, 12)])
def test_other_networks(name, size):
    rng = np.random.default_rng(2)
    layers = OTHERS[name](rng)
    channels = {"separable first": 32, "shortcut first": 16}.get(name, layers[0].weights[0].shape[-2])
    assert_right(layers, drawn(rng, (2, *size, channels)))
    assert native.Network(layers).explains == (name not in ("colours",))


@pytest.mark.parametrize("size", [(5, 5), (8, 7), (13, 9), (34, 3), (3, 70), (70, 66)])
def test_convolutions_of_many_channels(size):
    """By Winograd's form where there are some pixels; odd sides leave tiles that reach beyond the image."""
    rng = np.random.default_rng(9)
    layers = (
        networks.convolution(rng, 3, 1, 32),
        networks.convolution(rng, 3, 32, 64, relu=False),
        networks.convolution(rng, 3, 64, 32, padding="VALID"),
        networks.head(rng, 32, 3),
    )
    assert_right(layers, drawn(rng, (2, *size, 1)))


@pytest.mark.parametrize("arch", ["mini_xception", "mini_xception_antialiased", "sequential_cnn", "vgg"])
@pytest.mark.parametrize(
    ("batch", "size"), [(0, (32, 32)), (2, (47, 51)), pytest.param(40, (33, 40), marks=pytest.mark.slow)]
)
def test_this_project_s_networks(arch, batch, size):
    model, rng = models.create(arch, 7), np.random.default_rng(3)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        return networks.weights(rng, *leaf.shape)

    variables = jax.tree.map_with_path(draw, jax.eval_shape(lambda: models.init(model, jax.random.key(0))))
    folded = program.fold(model, variables)
    images = drawn(rng, (batch, *size, 1))
    (logits,) = native.run([(native.Network(folded), images)])
    assert logits.shape == (batch, 7)
    if batch:
        close(logits, in_float64(lambda x: program.evaluate(folded, x), images), 5e-6)


@pytest.mark.parametrize("batch", range(0, 41, 4))
def test_any_batch_size(batch):
    layers, rng = small(), np.random.default_rng(4)
    images = drawn(rng, (40, 12, 11, 1))
    network = native.Network(layers)
    (everything,) = native.run([(network, images)])
    np.testing.assert_array_equal(native.run([(network, images[:batch])])[0], everything[:batch])
    logits, maps = network.guided(images[:batch], np.full(batch, -1))
    np.testing.assert_array_equal(logits, everything[:batch])
    assert maps.shape == (batch, 12, 11, 1)


def test_several_networks_in_one_call():
    rng = np.random.default_rng(5)
    batches = [
        (native.Network(small(0)), drawn(rng, (3, 12, 12, 1))),
        (native.Network(small(1, 3)), drawn(rng, (0, 9, 9, 3))),
        (native.Network(small(2, 3)), drawn(rng, (2, 10, 21, 3))),
    ]
    together = native.run(batches)
    for found, batch in zip(together, batches, strict=True):
        np.testing.assert_array_equal(found, native.run([batch])[0])
    assert native.run([]) == []


def test_images_that_do_not_lie_in_order():
    rng, network = np.random.default_rng(6), native.Network(small())
    images = drawn(rng, (12, 4, 13, 1)).transpose(1, 0, 2, 3)[:, ::-1]
    np.testing.assert_array_equal(
        native.run([(network, images)])[0], native.run([(network, np.ascontiguousarray(images))])[0]
    )


def test_many_threads_use_one_network():
    rng, network = np.random.default_rng(7), native.Network(small())
    images = [drawn(rng, (1 + i % 3, 12 + i, 20 - i, 1)) for i in range(8)]
    expected = [network.guided(x, np.full(len(x), -1)) for x in images]

    def calls(i):
        for _ in range(100):
            (logits,) = native.run([(network, images[i])])
            np.testing.assert_array_equal(logits, expected[i][0])
            for found, wanted in zip(network.guided(images[i], np.full(len(images[i]), -1)), expected[i], strict=True):
                np.testing.assert_array_equal(found, wanted)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(calls, range(8)))


ALONE = """
import os, sys
import numpy as np
from faceflax import native
rng = np.random.default_rng(0)
head = native.Layer("head", (rng.normal(size=(3, 3, 8, 4)).astype(np.float32), np.zeros(4, np.float32)))
stem = native.Layer("convolution", (rng.normal(size=(3, 3, 1, 8)).astype(np.float32), np.ones(8, np.float32)), True)
network = native.Network([stem, head])
images = rng.normal(size=(16, 24, 24, 1)).astype(np.float32)
first = native.run([(network, images)])[0]
assert not {"jax", "jaxlib", "flax", "optax", "orbax"} & set(sys.modules)
"""


def alone(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", ALONE + code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_inference_does_without_jax():
    done = alone("print(first.shape)")
    assert done.stdout == "(16, 4)\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_threads_of_its_own():
    done = alone(
        "for _ in range(5):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        same = all((native.run([(network, images)])[0] == first).all() for _ in range(20))\n"
        "        os._exit(0 if same else 3)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "print('done')"
    )
    assert done.stdout == "done\n", done.stderr


@pytest.mark.parametrize("threads", ["0", "-2", "two", "1.5"])
def test_a_wrong_number_of_threads_is_named(threads):
    done = alone("", FACEFLAX_THREADS=threads)
    assert f"FaceflaxError: FACEFLAX_THREADS: '{threads}' is no number of threads; give 1 or more" in done.stderr


def test_the_number_of_threads_does_not_change_the_result():
    answers = {alone("print(first.tobytes().hex())", FACEFLAX_THREADS=n).stdout for n in ("1", "2", "64")}
    assert len(answers) == 1
    assert len(answers.pop()) > 100


def array(*shape):
    return np.zeros(shape, np.float32)


STEM = Layer("convolution", (array(3, 3, 1, 8), array(8)))
HEAD = Layer("head", (array(3, 3, 8, 2), array(2)))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "layers: none; give at least a head"),
        ([STEM], r"layers\[0\] \(convolution\).kind: a head must be the last layer"),
        ([HEAD, HEAD], r"layers\[0\] \(head\).kind: a head must be the last layer"),
        ([Layer("dense")], r"layers\[0\].kind: unknown 'dense'; choose one of: convolution, separable"),
        ([Layer("convolution", STEM.weights, False, "FULL"), HEAD], r"padding: unknown 'FULL'; choose one of: SAME, V"),
        ([Layer("convolution", STEM.weights[:1]), HEAD], r"weights: 1 arrays; give 2: kernel, bias"),
        ([Layer("max_pool", (array(1),))], r"weights: 1 arrays; give 0: none"),
        ([Layer("convolution", (array(3, 3, 8), array(8)))], r"kernel: float32 of shape \(3, 3, 8\) is not .* 4 axes"),
        ([Layer("convolution", (array(3, 3, 1, 8).astype(np.float64), array(8)))], r"kernel: float64 of shape"),
        ([Layer("convolution", (array(3, 5, 1, 8), array(8))), HEAD], r"kernel: shape \(3, 5, 1, 8\) is not square"),
        ([Layer("convolution", (array(3, 3, 1, 8), array(9))), HEAD], r"bias: 9 numbers where .* ask for 8"),
        (
            [Layer("convolution", (array(3, 3, 1, 24), array(24))), HEAD],
            r"outputs: 24 channels cannot be computed",
        ),
        ([Layer("convolution", (array(3, 3, 1, 1), array(1))), HEAD], r"outputs: 1 channels cannot be computed"),
        ([Layer("convolution", (array(65, 65, 1, 8), array(8))), HEAD], r"size: a kernel of 65 pixels .* give 1 to 64"),
        ([STEM, Layer("head", (array(3, 3, 16, 2), array(2)))], r"layers\[1\] \(head\).inputs: 16 .* before gives 8"),
        (
            [STEM, Layer("head", (array(5, 5, 8, 2), array(2)))],
            r"size: a kernel of 5 pixels a side is not .* give 1 or 3",
        ),
        ([STEM, Layer("head", HEAD.weights, True)], r"relu: 1 is not possible for this kind"),
        ([STEM, Layer("head", HEAD.weights, False, "VALID")], r"same: 0 is not possible for this kind"),
        ([Layer("max_pool"), HEAD], r"layers\[0\] \(max_pool\).kind: a pooling cannot come first"),
        ([Layer("separable", (array(3, 3, 1, 3), array(3, 8), array(8))), HEAD], r"inputs: 3 channels of a separable"),
        ([Layer("separable", (array(3, 3, 2, 8), array(8, 8), array(8)))], r"kernel: shape \(3, 3, 2, 8\) is not \[3"),
        (
            [STEM, Layer("separable", (array(3, 3, 1, 8), array(16, 8), array(8))), HEAD],
            r"layers\[1\] \(separable\).inputs: 16 channels where the layer before gives 8",
        ),
        (
            [Layer("blurred_shortcut", (array(3, 8), array(8))), HEAD],
            r"layers\[0\] \(blurred_shortcut\).inputs: 3 channels of a blurred shortcut cannot be computed",
        ),
        (
            [STEM, Layer("blurred_shortcut", (array(8, 16), array(16))), Layer("blurred_max_pool"), HEAD],
            r"layers\[2\] \(blurred_max_pool\).inputs: 8 channels where the shortcut gives 16",
        ),
        ([STEM, Layer("shortcut", (array(8, 16), array(16))), HEAD], r"kind: not possible between a shortcut and its"),
        (
            [STEM, Layer("shortcut", (array(8, 16), array(16))), Layer("max_pool"), HEAD],
            r"layers\[2\] \(max_pool\).inputs: 8 channels where the shortcut gives 16",
        ),
        (
            [
                STEM,
                Layer("shortcut", (array(8, 8), array(8))),
                Layer("convolution", (array(3, 3, 8, 8), array(8)), False, "VALID"),
                Layer("max_pool"),
                HEAD,
            ],
            r"layers\[2\] \(convolution\).kind: not possible between a shortcut and its max-pool",
        ),
    ],
)
def test_layers_that_cannot_be_computed_are_named(layers, message):
    with pytest.raises(FaceflaxError, match=message):
        native.Network(layers)


def layer(**changes):
    """A grey stem as C++ is given it, with some fields changed; its arrays live as long as the process."""
    kernel, bias = (ctypes.c_float * 72)(), (ctypes.c_float * 8)()
    KEPT.extend([kernel, bias])
    values = {"kind": 0, "relu": 1, "same": 1, "size": 3, "inputs": 1, "outputs": 8}
    values |= {"kernel": ctypes.addressof(kernel), "bias": ctypes.addressof(bias), "kernel_count": 72, "bias_count": 8}
    return engine._Layer(**{**values, **changes})


KEPT = []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": 8}, r"layers\[0\].kind: 8 is unknown; give one of 0 to 7"),
        ({"kind": -1}, r"layers\[0\].kind: -1 is unknown"),
        ({"relu": 2}, r"relu: 2 is not possible"),
        ({"same": 7}, r"same: 7 is not possible"),
        ({"size": 0}, r"size: a kernel of 0 pixels"),
        ({"inputs": 0}, r"inputs: 0 channels where the layer before gives 1 to 65536"),
        ({"inputs": 2**40}, r"inputs: 1099511627776 channels"),
        ({"outputs": -8}, r"outputs: -8 channels"),
        ({"kernel": None}, r"kernel: null where the layer's sizes ask for 72"),
        ({"kernel_count": 71}, r"kernel: 71 numbers where the layer's sizes ask for 72"),
        ({"bias": None}, r"bias: null"),
        ({"pointwise_count": 3}, r"pointwise: null where the layer's sizes ask for 0"),
    ],
)
def test_the_c_functions_check_for_themselves(changes, message):
    library = native.library.load("float32")
    handle = ctypes.c_void_p(1)
    assert library.faceflax_create(ctypes.byref(layer(**changes)), ctypes.c_int64(1), ctypes.byref(handle)) == 1
    assert handle.value is None
    assert re.search(message, library.faceflax_problem().decode())


def test_null_pointers_and_counts_are_refused():
    library = native.library.load("float32")
    network = native.Network([STEM, HEAD])
    assert library.faceflax_create(None, ctypes.c_int64(1), ctypes.byref(ctypes.c_void_p())) == 1
    assert library.faceflax_create(ctypes.byref(layer()), ctypes.c_int64(1), None) == 1
    assert library.faceflax_run(None, ctypes.c_int64(1)) == 1
    handle = network._handle
    for batch, message in (
        (engine._Batch(None, None, 0, 8, 8, None), "network: null"),
        (engine._Batch(handle, None, 1, 8, 8, None), "images: null"),
        (engine._Batch(handle, None, -1, 8, 8, None), "images: a count of -1"),
        (engine._Batch(handle, None, 0, 0, 8, None), "images: 0x8 pixels is no size"),
        (engine._Batch(handle, None, 0, 8, 2**40, None), "images: 8x1099511627776 pixels is no size"),
        (engine._Batch(handle, None, 0, 2**20, 2**20, None), "images: 1048576x1048576 pixels is too large"),
    ):
        assert library.faceflax_run(ctypes.byref(batch), ctypes.c_int64(1)) == 1
        assert message in library.faceflax_problem().decode()
        assert library.faceflax_guided(ctypes.byref(batch), None, None) == 1
    assert library.faceflax_guided(None, None, None) == 1


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (
            array(2, 8, 8, 3),
            None,
            r"images: float32 of shape \(2, 8, 8, 3\) is not .*, width, 1\]",
        ),
        (array(8, 8, 1), None, r"images: float32 of shape \(8, 8, 1\) is not"),
        (array(2, 8, 8, 1).astype(np.uint8), None, "images: uint8 of shape"),
        (array(2, 2, 8, 1), None, "images: 2x8 pixels is too small for the network; enlarge them"),
        (array(2, 8, 8, 1), [0], r"targets: int64 of shape \(1,\) is not one integer for each of 2 images"),
        (array(2, 8, 8, 1), [0.0, 1.0], "targets: float64"),
        (array(2, 8, 8, 1), [0, 2], "targets: 2 is no class; give 0 to 1, or -1 for the highest logit"),
        (array(2, 8, 8, 1), [-2, 0], "targets: -2 is no class"),
        (array(2, 8, 8, 1), [0, 2**40], "targets: 1099511627776 is no class; give 0 to 1"),
    ],
)
def test_wrong_images_and_targets_are_named(images, targets, message):
    network = native.Network([Layer("convolution", STEM.weights, False, "VALID"), HEAD])
    with pytest.raises(FaceflaxError, match=message):
        network.guided(images, np.array([0, 0] if targets is None else targets))
    if targets is None:
        with pytest.raises(FaceflaxError, match=message):
            native.run([(network, images)])


def test_maps_of_colours_are_refused():
    network = native.Network([Layer("convolution", (array(3, 3, 3, 8), array(8))), HEAD])
    assert not network.explains
    with pytest.raises(FaceflaxError, match="the way back to images of 3 channels cannot be computed"):
        network.guided(array(1, 8, 8, 3), np.array([0]))


@pytest.mark.parametrize(("inputs", "outputs", "size"), [(1, 8, (6, 8)), (8, 8, (5, 6)), (32, 32, (9, 9))])
def test_an_infinity_reaches_no_pixel_that_does_not_see_it(inputs, outputs, size):
    """Where ReLU takes it away nothing is left of it; pixels that are computed together would make it NaN."""
    rng = np.random.default_rng(11)
    kernel = np.abs(networks.weights(rng, 3, 3, inputs, outputs))
    layers = (Layer("convolution", (kernel, networks.weights(rng, outputs)), True), networks.head(rng, outputs, 3))
    places = list(np.ndindex(size))
    images = drawn(rng, (len(places), *size, inputs))
    for image, place in zip(images, places, strict=True):
        image[(*place, 0)] = -np.inf
    assert_right(layers, images)


def test_a_pixel_s_gradient_of_one_channel():
    """By the input of a 1x1 convolution of one channel: eight pixels a vector, whatever the width."""
    rng = np.random.default_rng(8)
    for width in (5, 8, 16):
        g, kernel = jnp.asarray(drawn(rng, (2, 3, width, 8))), jnp.asarray(drawn(rng, (1, 1, 8, 1)))
        close(np.asarray(native.convolve(g, kernel, 1, 0, (3, width))), np.asarray(g) @ np.asarray(kernel)[0, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: native.convolve(jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 8, 24)), 1, 1, (4, 4)),
            "channels is not",
        ),
        (
            lambda: native.convolve(jnp.ones((1, 4, 4, 8)), jnp.ones((1, 1, 8, 1)), 2, 0, (2, 2)),
            "channels is not",
        ),
        (lambda: native.convolve(jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 4, 8)), 1, 1, (4, 4)), "shapes do not fit"),
        (lambda: native.convolve(jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 8, 8)), 1, 1, (9, 4)), "shapes do not fit"),
        (lambda: native.depthwise(jnp.ones((1, 4, 4, 24)), jnp.ones((3, 3, 1, 24))), "channels is not"),
        (lambda: native.depthwise(jnp.ones((1, 4, 4, 8)), jnp.ones((3, 3, 1, 16))), "shapes do not fit"),
        (lambda: native.max_pool(jnp.ones((1, 4, 4, 12))), "channels is not"),
        (lambda: native.max_pool_gradient(jnp.ones((1, 2, 2, 8)), jnp.ones((1, 2, 2, 8)), (9, 4)), "shapes do not fit"),
        (lambda: native.batch_norm(jnp.ones((1, 4, 4, 7)), jnp.ones(7), jnp.ones(7), 1e-3, True), "channels is not 8"),
        (lambda: native.batch_norm(jnp.ones((1, 4, 4, 8)), jnp.ones(8), jnp.ones(9), 1e-3, True), "shapes do not fit"),
    ],
)
def test_operations_refuse_what_they_cannot_compute(call, message):
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match=message):
        jax.block_until_ready(call())


def test_no_shape_is_computed_in_part():
    x = jnp.ones((1, 4, 4, 8))
    for outputs in (3, 9, 33, 48):
        with pytest.raises(jax.errors.JaxRuntimeError, match="channels is not"):
            jax.block_until_ready(native.convolve(x, jnp.ones((3, 3, 8, outputs)), 1, 1, (4, 4)))
    for low, size in ((3, (4, 4)), (-1, (4, 4)), (2**62, (4, 4)), (1, (6, 4)), (1, (4, 2**20))):
        with pytest.raises(jax.errors.JaxRuntimeError, match="shapes do not fit"):
            jax.block_until_ready(native.convolve(x, jnp.ones((3, 3, 8, 8)), 1, low, size))
