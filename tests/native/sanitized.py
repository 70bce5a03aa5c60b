"""What test_sanitizers.py runs in a library compiled with sanitizers; without JAX, which need not be part of it."""

import ctypes
import itertools
import sys
import threading

import numpy as np

from faceflax import native
from faceflax.errors import FaceflaxError
from faceflax.native import DetectorLayer, DetectorNetwork, Layer, Region, detector, engine

rng = np.random.default_rng(0)
VECTORS = (8, 16, 32, 96)
KINDS = "convolution", "separable", "shortcut", "blurred_shortcut", "max_pool", "blurred_max_pool", "average_pool"


def weights(*shape):
    return rng.normal(0, 0.1, shape).astype(np.float32)


def convolution(size, inputs, outputs, padding="SAME"):
    kernel = weights(size, size, inputs, outputs)
    return Layer("convolution", (kernel, weights(outputs)), bool(rng.integers(2)), padding)


def drawn(channels):
    """A random network for images of at least 17 pixels a side."""
    layers, shortcut = [], None
    for _ in range(rng.integers(1, 7)):
        outputs = int(rng.choice(VECTORS))
        kind = rng.choice(list(KINDS))
        if kind == "convolution" or channels not in VECTORS:
            padding = "SAME" if layers or rng.integers(3) else "VALID"
            layers.append(convolution(int(rng.integers(1, 4)), channels, outputs, padding))
        elif kind == "separable":
            kernels = weights(3, 3, 1, channels), weights(channels, outputs), weights(outputs)
            layers.append(Layer("separable", kernels, bool(rng.integers(2))))
        elif kind.endswith("shortcut") and shortcut is None:
            shortcut = outputs
            layers.append(Layer(kind, (weights(channels, outputs), weights(outputs))))
            continue
        elif shortcut is None and layers:
            layers.append(Layer(kind))
            continue
        else:
            continue
        channels = outputs
    if shortcut:
        layers += [convolution(1, channels, shortcut), Layer("max_pool")]
        channels = shortcut
    return [*layers, Layer("head", (weights(3, 3, channels, 3), weights(3)))]


def compute(seed, networks):
    own = np.random.default_rng(seed)
    for network in networks:
        batch, height, width = own.integers(0, 4), *own.integers(17, 30, 2)
        images = own.normal(size=(batch, height, width, network.channels)).astype(np.float32)
        (logits,) = native.run([(network, images)])
        assert np.isfinite(logits).all()
        odd = images.copy()
        odd.flat[own.integers(0, max(odd.size, 1), min(odd.size, 1))] = own.choice([np.nan, np.inf, -np.inf])
        native.run([(network, odd)])  # computed by other code
        if network.explains:
            found, maps = network.guided(images, own.integers(-1, 3, batch))
            np.testing.assert_array_equal(found, logits)
            assert np.isfinite(maps).all()


def drawn_detector():
    """A random network of maps that are read by any later layer."""
    width = int(rng.choice(VECTORS))
    layers = [DetectorLayer("patches", width, weights=(weights(48, width), weights(width)), relu=True)]
    strides = [4]
    for _ in range(rng.integers(1, 10)):
        source, outputs = int(rng.integers(len(layers))), int(rng.choice(VECTORS))
        inputs, stride = layers[source].channels, strides[source]
        alike = [i for i, layer in enumerate(layers) if (layer.channels, strides[i]) == (inputs, 2 * stride)]
        kind = rng.choice(["separable", "separable", "pointwise", "max_pool", "doubled_sum"])
        if kind == "separable":
            same = [i for i, layer in enumerate(layers) if (layer.channels, strides[i]) == (outputs, stride)]
            add = int(rng.choice([*same, -1]))
            kernels = weights(3, 3, 1, inputs), weights(inputs, outputs), weights(outputs)
            layers.append(DetectorLayer("separable", outputs, source, add, kernels, bool(rng.integers(2))))
        elif kind == "pointwise":
            layers.append(DetectorLayer("pointwise", outputs, source, -1, (weights(inputs, outputs), weights(outputs))))
        elif kind == "max_pool" and stride < 32:
            layers.append(DetectorLayer("max_pool", inputs, source))
            stride *= 2
        elif kind == "doubled_sum" and alike:
            layers.append(DetectorLayer("doubled_sum", inputs, source, int(rng.choice(alike))))
        else:
            continue
        strides.append(stride)
    for source in {0, len(layers) - 1}:
        says = weights(layers[source].channels, 15), weights(15)
        layers.append(DetectorLayer("places", 15, source, weights=says))
    return layers


def search(seed, networks):
    own = np.random.default_rng(seed)
    for network in networks:
        height, width = (int(side) for side in own.choice([1, 2, 7, 40, 99], 2))
        image = own.integers(0, 256, (height, width, 3), dtype=np.uint8)
        regions = [
            Region(*own.uniform(-120, 120, 2), *own.choice([0.01, 3, 31.5, 64, 700], 2), *(int(s) * 32 for s in sides))
            for sides in own.integers(1, 4, (own.integers(0, 5), 2))
        ]
        faces = network.detect(image, regions, min_score=0.3, max_faces=int(own.integers(0, 50)))
        assert np.isfinite(faces).all()


def main(rounds):
    """Random networks, from one thread and from several, then calls that must be refused."""
    networks = [native.Network(drawn(int(channels))) for channels in rng.choice([1, 3, 8, 16, 32], rounds)]
    compute(0, networks)
    threads = [threading.Thread(target=compute, args=(seed, networks[:10])) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    detectors = [DetectorNetwork(drawn_detector()) for _ in range(rounds)]
    search(0, detectors)
    threads = [threading.Thread(target=search, args=(seed, detectors[:10])) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    library = native.library.load("float32")
    numbers = (ctypes.c_float * 72)()
    at = ctypes.addressof(numbers)
    refused = 0
    for kind, size, inputs, outputs, count in itertools.product(
        (-1, 0, 1, 2, 3, 5, 6), (-1, 0, 1, 3), (0, 1, 8, 2**62), (0, 1, 8, 24, 2**62), (0, 8, 72)
    ):
        made = engine._Layer(kind, 0, 1, size, inputs, outputs, at, at, at, count, count, count)
        handle = ctypes.c_void_p()
        if library.faceflax_create(ctypes.byref(made), ctypes.c_int64(1), ctypes.byref(handle)):
            refused += 1
        else:
            library.faceflax_destroy(handle)
    for kind, source, add, inputs, outputs, count in itertools.product(
        (-1, 0, 1, 2, 5, 6), (-(2**62), -1, 0), (-1, 0), (0, 8, 16, 2**62), (0, 8, 24, 2**62), (0, 8, 72)
    ):
        made = detector._Layer(kind, 0, source, add, inputs, outputs, at, at, at, count, count, count)
        assert library.faceflax_detector_create(ctypes.byref(made), ctypes.c_int64(1), ctypes.byref(handle))
        refused += 1
    assert refused > 2000
    small = native.Network([convolution(3, 1, 8, "VALID"), Layer("head", (weights(3, 3, 8, 2), weights(2)))])
    for height, width in ((0, 5), (1, 1), (2, 2), (2, 2**20)):
        try:
            native.run([(small, np.zeros((0, height, width, 1), np.float32))])
        except FaceflaxError:
            continue
        raise AssertionError(f"{height} x {width} was not refused")
    print(f"{len(networks)} networks, {len(detectors)} detectors, {refused} refusals, {native.status()}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
