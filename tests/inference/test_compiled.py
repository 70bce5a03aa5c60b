import logging

import jax
import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.inference.compiled import BATCH_SIZES, BatchFunction, compile


@pytest.fixture(scope="module")
def predict(network):
    predict = compile(*network)
    predict.warm_up(32)
    return predict


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(-1, 1, (130, 32, 32, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(network, images):
    model, variables = network
    return np.asarray(jax.jit(lambda x: model.apply(variables, x, train=False)[0])(images))


@pytest.mark.parametrize("batch", [1, 2, 4, 5, 17, 64, 65, 130])
def test_logits_are_the_networks_own_for_any_batch_size(predict, images, expected, batch):
    logits = predict(images[:batch])
    assert isinstance(logits, np.ndarray)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected[:batch], atol=1e-4)


def test_empty_batch(predict, images):
    assert predict(images[:0]).shape == (0, 7)


def test_nothing_compiles_after_warm_up(predict, images, caplog):
    def compilations(function):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            function()
        return sum("Compiling" in record.message for record in caplog.records)

    assert compilations(lambda: [predict(images[:batch]) for batch in (1, 3, 16, 64, 100)]) == 0
    double = BatchFunction(lambda x: 2 * x)
    rows = np.ones((3, 5), np.float32)
    assert compilations(lambda: double(rows)) == 1
    assert compilations(lambda: double.warm_up(jax.ShapeDtypeStruct((5,), np.float32))) == len(BATCH_SIZES) - 1
    assert compilations(lambda: double(rows)) == 0


def test_batch_function_takes_several_arguments_and_gives_a_tree():
    function = BatchFunction(lambda x, y: {"sum": x.sum(1) + y, "y": y})
    x = np.arange(210, dtype=np.float32).reshape(70, 3)
    y = np.arange(70, dtype=np.int32)
    result = function(x, y)
    np.testing.assert_allclose(result["sum"], x.sum(1) + y)
    np.testing.assert_array_equal(result["y"], y)


def bad(index, value):
    images = np.zeros((2, 32, 32, 1), np.float32)
    images[index] = value
    return images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((32, 32, 1), np.float32), r"shape \(32, 32, 1\)"),
        (np.zeros((1, 32, 32, 1), np.uint8), "type uint8"),
        (np.zeros((1, 32, 32, 1), np.float64), "type float64"),
        (np.zeros((1, 32, 32, 3), np.float32), r"shape \(1, 32, 32, 3\).* 3 channels"),
        (np.zeros((1, 31, 32, 1), np.float32), r"shape \(1, 31, 32, 1\) is under 32"),
        (bad((1, 2, 3, 0), np.nan), r"\(1, 2, 3, 0\) is nan"),
        (bad((0, 31, 0, 0), -np.inf), r"\(0, 31, 0, 0\) is -inf"),
    ],
)
def test_bad_images_are_named(predict, images, message):
    with pytest.raises(FaceflaxError, match=f"images: .*{message}"):
        predict(images)
