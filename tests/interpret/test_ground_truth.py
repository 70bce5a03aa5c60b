"""Attributions of a briefly trained network must land on the pixels that are known to carry the expression."""

from __future__ import annotations

import json
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from faceflax import models
from faceflax.data.synthetic import render_faces
from faceflax.errors import FaceflaxError
from faceflax.preprocessing import normalize
from faceflax.training.step import in_batches, make_eval_step
from interpret import benchmark, ground_truth, metrics, sanity
from interpret.ground_truth import Options
from interpret.methods import ATTENTION

pytestmark = pytest.mark.usefixtures("optimized")


class Small(nn.Module):
    """Four convolutions: enough to learn in seconds."""

    num_classes: int = 7

    @nn.compact
    def __call__(self, images, train=False):
        x = images
        for i, (width, stride) in enumerate(((16, 2), (32, 2), (48, 1))):
            x = nn.Conv(width, (3, 3), strides=stride, use_bias=False, name=f"conv{i}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, name=f"bn{i}")(x))
        x = nn.Conv(self.num_classes, (3, 3), name="last_conv")(x)
        return x.mean((1, 2)), {"last_conv": x}


@pytest.fixture(scope="module")
def trained():
    """A network that learned the true labels, and one that learned shuffled ones."""
    faces = render_faces(1400, seed=0, image_size=32)
    fit = ground_truth.trainer(Small(), faces, epochs=16)
    shuffled = np.random.default_rng(0).permutation(faces.emotions)
    return [fit(labels, seed) for labels, seed in ((faces.emotions, 0), (faces.emotions, 1), (shuffled, 2))]


@pytest.fixture(scope="module")
def faces():
    return render_faces(112, seed=ground_truth.TEST_SEED, image_size=32)


@pytest.mark.slow
def test_the_networks_learned_what_they_were_taught(trained, faces):
    score = make_eval_step(Small())
    true, again, shuffled = (
        score(variables, in_batches(jnp.asarray(faces.images), jnp.asarray(faces.emotions)))[1] for variables in trained
    )
    assert min(true, again) > 0.4
    assert shuffled < 0.25  # chance is 0.14


def landing(name, method, variables, faces):
    """Pointing game and energy inside, of each face."""
    images, target = jnp.asarray(normalize(faces.images)), jnp.asarray(faces.emotions)
    matters = metrics.importance(method(Small(), variables, images, target), signed=name not in benchmark.SENSITIVITIES)
    return [
        np.asarray(metric(matters, faces.expression_masks)) for metric in (metrics.pointing_game, metrics.energy_inside)
    ]


@pytest.mark.slow
def test_the_random_floor_is_the_masks_area(trained, faces):
    points, energy = landing("random", benchmark.random, trained[0], faces)
    area = faces.expression_masks.mean()
    assert abs(points.mean() - area) < 3 * np.sqrt(area * (1 - area) / len(points))
    assert abs(energy.mean() - area) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in interpret.METHODS if name not in ATTENTION])
def test_attributions_land_on_the_expression(trained, faces, name):
    floor = faces.expression_masks.mean((1, 2))
    quick = {"rise": {"masks": 256}, "sobol": {"designs": 16}, "kernel_shap": {"samples": 128}}
    method = partial(interpret.METHODS[name], **quick.get(name, {}))
    points, energy = landing(name, method, trained[0], faces)
    error = energy.std() / np.sqrt(len(energy))
    assert (energy - floor).mean() > 5 * error
    if name in ("gradient", "guided_backprop"):
        assert points.mean() > 2.5 * floor.mean()


@pytest.mark.slow
def test_maps_of_shuffled_labels_differ_more_than_those_of_another_seed(trained, faces):
    learned, again, shuffled = trained
    images, target = jnp.asarray(normalize(faces.images)), jnp.asarray(faces.emotions)
    for method in (interpret.gradient, interpret.guided_backprop):
        likeness = [
            sanity.label_randomization(method, Small(), learned, other, images, target) for other in (again, shuffled)
        ]
        assert likeness[0].rank_correlation.mean() > likeness[1].rank_correlation.mean() + 0.05
        assert likeness[0].ssim.mean() > likeness[1].ssim.mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 1}, "samples: 1 is too small; give 2 or more"),
        ({"train_faces": 31}, "train_faces: 31 is too small; give 32 or more"),
        ({"epochs": 0}, "epochs: 0 is too small; give 1 or more"),
        ({"image_size": 31}, "image_size: 31 is too small; give 32 or more"),
        ({"seed": -1}, "seed: -1 is too small; give 0 or more"),
        ({"arch": "resnet"}, "arch: unknown 'resnet'; choose one of: mini_xception, sequential_cnn, vgg"),
        ({"methods": ("gradcam",)}, "methods: unknown 'gradcam'; choose one of: gradient, "),
    ],
)
def test_bad_input(tmp_path, changes, message):
    with pytest.raises(FaceflaxError, match=message):
        ground_truth.main(Options(output=tmp_path, **changes))
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.slow
def test_the_whole_command_trains_once(tmp_path, monkeypatch, capsys):
    models.register("small", Small)
    options = Options(
        output=tmp_path, arch="small", methods=("gradient",), samples=4, train_faces=64, epochs=1, image_size=32
    )
    ground_truth.main(options)
    written = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")}
    assert sorted(file.stem.rsplit("-", 2)[1] for file in written) == ["again", "shuffled", "true"]
    assert "| gradient |" in capsys.readouterr().out
    content = json.loads((tmp_path / "table.json").read_text())
    assert list(content["methods"]) == ["gradient", "edges", "random"]
    assert list(content["methods"]["gradient"]) == list(ground_truth.COLUMNS)
    assert "`python -m interpret.ground_truth --arch small --methods gradient --samples 4" in content["caption"]
    ground_truth.main(options)
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert json.loads((tmp_path / "table.json").read_text()) == content
