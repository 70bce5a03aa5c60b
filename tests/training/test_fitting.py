"""The shared epoch loop against one step at a time, the schedule against its formula, and which weights are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from faceflax import FaceflaxError, models
from faceflax.data.augment import Augmentation
from faceflax.data.synthetic import render_faces
from faceflax.preprocessing import normalize
from faceflax.training import Trainer, cosine, make_targets, take_matching
from faceflax.training.fitting import STEPS_TOGETHER, unmixed
from faceflax.training.step import adam, create_state, make_train_step
from faceflax.training.targets import cross_entropy

STEPS = STEPS_TOGETHER + 9


@pytest.fixture(scope="module")
def setting():
    """A network, images, targets and a plan of batches and rates."""
    faces = render_faces(28, seed=3, image_size=48)
    model = models.create("mini_xception", 2)
    batches = np.random.default_rng(0).integers(28, size=(STEPS, 7))
    targets = make_targets(faces.genders, 2, smoothing=0.1)
    return model, jnp.asarray(faces.images), jnp.asarray(targets), batches, cosine(STEPS, 2e-3, warmup=5)


@pytest.fixture(scope="module")
def trainer(setting):
    return Trainer(setting[0], key=jax.random.key(7), average=0.9)


@pytest.fixture(scope="module")
def start(setting):
    return models.init(setting[0], jax.random.key(1), 48)


@pytest.mark.slow
def test_steps_are_those_made_one_at_a_time_in_whatever_portions(setting, trainer, start):
    model, images, targets, batches, rates = setting
    optimizer = adam(1e-2)
    step = make_train_step(
        model, optimizer, augment=Augmentation(), mix=unmixed, loss=cross_entropy, key=jax.random.key(7), average=0.9
    )
    expected = create_state(jax.tree.map(jnp.array, start), optimizer)
    losses = []
    for row, rate in zip(batches, rates, strict=True):
        expected, metrics = step(expected, images, targets, jnp.asarray(row[None]), jnp.float32([rate]))
        losses.append(float(metrics["loss"]))
    shown = []
    state, loss, _ = trainer.steps(
        trainer.start(start), images, targets, batches, rates, lambda done, loss, _: shown.append((done, loss))
    )
    assert int(state.step) == STEPS
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert [done for done, _ in shown] == [STEPS_TOGETHER, STEPS]
    assert shown[0][1] == pytest.approx(np.mean(losses[:STEPS_TOGETHER]), rel=1e-5)

    again = trainer.start(start)
    for part in (slice(0, 20), slice(20, 21), slice(21, STEPS)):
        again, _, _ = trainer.steps(again, images, targets, batches[part], rates[part])
    jax.tree.map(np.testing.assert_array_equal, again, state)


@pytest.mark.slow
def test_a_fit_leaves_what_it_was_given_alone_and_measures_statistics(setting, trainer, start):
    _, images, targets, batches, rates = setting
    before = jax.tree.map(np.array, start)
    some = np.arange(14)
    variables = trainer.fit(start, images, targets, batches, rates, statistics=some)
    jax.tree.map(np.testing.assert_array_equal, start, before)
    state, _, _ = trainer.steps(trainer.start(start), images, targets, batches, rates)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], state.average)
    kernel = np.asarray(variables["params"]["stem1"]["kernel"], np.float64)[:, :, 0]
    views = np.lib.stride_tricks.sliding_window_view(np.asarray(normalize(images[:14]))[..., 0], (3, 3), axis=(1, 2))
    outputs = np.einsum("nhwij,ijc->nhwc", views, kernel)
    statistics = variables["batch_stats"]["stem1_bn"]
    np.testing.assert_allclose(statistics["mean"], outputs.mean((0, 1, 2)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(statistics["var"], outputs.var((0, 1, 2)), rtol=1e-3)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_an_error_with_the_rate(setting, trainer, start):
    _, images, targets, batches, rates = setting
    with pytest.raises(FaceflaxError, match=r"^learning_rates: 1e\+30 is too high for toy: the loss became nan; give"):
        trainer.fit(start, images, targets, batches, np.full_like(rates, 1e30), label="toy")


def test_the_schedule_is_a_line_and_then_a_cosine():
    rates = cosine(20, 0.5, warmup=4)
    for step in range(4):
        assert rates[step] == pytest.approx(0.5 * (step + 1) / 5)
    for step in range(4, 20):
        assert rates[step] == pytest.approx(0.25 * (1 + np.cos(np.pi * (step - 4) / 16)))
    np.testing.assert_array_equal(cosine(20, 0.5, warmup=4, first=7, count=5), rates[7:12])
    assert cosine(20, 0.5, first=25, count=2).tolist() == [0, 0]


def test_weights_are_taken_where_shapes_agree_but_not_in_layers_that_start_afresh():
    fresh = {"params": {name: {"kernel": np.zeros(shape)} for name, shape in (("a", 2), ("b", 3), ("last", 4))}}
    given = {"params": {name: {"kernel": np.ones(shape)} for name, shape in (("a", 2), ("b", 5), ("last", 4))}}
    taken = take_matching(fresh, given, afresh=("last",))["params"]
    assert [layer["kernel"].tolist() for layer in taken.values()] == [[1, 1], [0, 0, 0], [0, 0, 0, 0]]
    assert take_matching(fresh, given)["params"]["last"]["kernel"].tolist() == [1, 1, 1, 1]
    assert take_matching(fresh, {})["params"]["a"]["kernel"].tolist() == [0, 0]
