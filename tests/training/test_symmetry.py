"""Weights that are kept symmetric: mirrored images get the same answers, in every form of the network."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import faceflax
from faceflax import models, training
from faceflax.data import render_faces
from faceflax.errors import FaceflaxError
from faceflax.training import symmetry
from faceflax.training.config import TrainConfig
from faceflax.training.fitting import Trainer, cosine
from faceflax.training.targets import make_targets

SIZES = {"mini_xception": 53, "mini_xception_antialiased": 53, "sequential_cnn": 48}


def answers(arch, variables, images):
    model = models.create(arch, 2)
    return np.asarray(jax.jit(lambda x: model.apply(variables, x)[0])(jnp.asarray(images)))


@pytest.mark.parametrize("arch", SIZES)
def test_mirrored_weights_say_of_an_image_what_the_weights_say_of_its_mirrored_one(arch):
    size, rng = SIZES[arch], np.random.default_rng(0)
    shapes = models.init(models.create(arch, 2), jax.random.key(0), size, 1)
    variables = jax.tree.map(lambda v: rng.uniform(0.1, 1, v.shape).astype(np.float32) - 0.3 * (v.ndim > 1), shapes)
    images = rng.uniform(-1, 1, (3, size, size, 1)).astype(np.float32)
    other = {name: symmetry.mirrored(tree) for name, tree in variables.items()}
    first, second = answers(arch, variables, images[:, :, ::-1]), answers(arch, other, images)
    assert np.linalg.norm(first - second) < 1e-5 * np.linalg.norm(first)
    assert np.linalg.norm(first - answers(arch, variables, images)) > 1e-3 * np.linalg.norm(first)


def test_symmetric_weights_are_the_nearest():
    rng = np.random.default_rng(0)
    tree = {"block": {"kernel": rng.normal(size=(3, 3, 4, 6))}, "last_conv": {"bias": rng.normal(size=3)}}
    near = symmetry.symmetric(tree)
    assert symmetry.is_symmetric(near)
    assert not symmetry.is_symmetric(tree)
    np.testing.assert_array_equal(near["last_conv"]["bias"], tree["last_conv"]["bias"].astype(np.float32))
    off = np.asarray(tree["block"]["kernel"] - near["block"]["kernel"])
    for _ in range(5):  # what is left is at right angles to all that is symmetric
        other = symmetry.symmetric({"block": {"kernel": rng.normal(size=(3, 3, 4, 6))}})["block"]["kernel"]
        assert abs((off * np.asarray(other)).sum()) < 1e-4


def test_training_keeps_weights_symmetric_and_learns():
    faces = render_faces(64, seed=0, image_size=53)
    model = models.create("mini_xception", 2)
    batches = np.random.default_rng(0).permutation(64 * 12).reshape(24, 32) % 64
    trainer = Trainer(model, key=jax.random.key(1), symmetric=True, average=0.9)
    start = models.init(model, jax.random.key(0), 53)
    variables = trainer.fit(start, faces.images, make_targets(faces.genders, 2), batches, cosine(24, 4e-3))
    for tree in variables.values():
        for own, other in zip(*map(jax.tree.leaves, (tree, symmetry.mirrored(tree))), strict=True):
            np.testing.assert_array_equal(own, other)
    images = np.asarray(faces.images, np.float32) / 127.5 - 1
    first, second = (answers("mini_xception", variables, each) for each in (images, images[:, :, ::-1]))
    assert np.linalg.norm(first - second) < 1e-5 * np.linalg.norm(first)
    assert (first.argmax(1) == faces.genders).mean() > 0.8


def test_a_run_leaves_symmetric_weights_and_goes_on_from_them(tmp_path):
    config = TrainConfig(
        dataset="synthetic",
        output=tmp_path / "run",
        epochs=1,
        batch_size=32,
        image_size=53,
        symmetric=True,
        average=0.9,
    )
    file = training.train(config)
    predict = faceflax.compile(*faceflax.load(file)[:2])
    image = np.random.default_rng(0).uniform(-1, 1, (1, 53, 53, 1)).astype(np.float32)
    first, second = (np.asarray(predict(np.ascontiguousarray(each))) for each in (image, image[:, :, ::-1]))
    assert np.linalg.norm(first - second) < 1e-4 * np.linalg.norm(first)
    further = dataclasses.replace(config, output=tmp_path / "further", init_weights=str(file))
    assert training.train(further).exists()
    with pytest.raises(FaceflaxError, match="not symmetric"):
        training.train(dataclasses.replace(config, output=tmp_path / "other", init_weights="mini_xception-fairface"))


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"image_size": 48}, "image_size", "give 53"),
        ({"arch": "sequential_cnn", "image_size": 53}, "image_size", "give 48"),
        ({"arch": "vgg", "image_size": 48}, "symmetric", "mini_xception"),
    ],
)
def test_what_cannot_be_symmetric_is_refused_before_data_is_read(tmp_path, changes, field, words):
    settings = {"dataset": "synthetic", "output": tmp_path / "run", "image_size": 53, "symmetric": True} | changes
    with pytest.raises(FaceflaxError, match=words) as caught:
        training.train(TrainConfig(**settings))
    assert caught.value.field == field
