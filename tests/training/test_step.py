"""The train step against a plain formulation, and its promises: determinism, one compilation, donated buffers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from faceflax.preprocessing import normalize
from faceflax.training.step import adam, create_state, make_eval_step, make_train_step


class Small(nn.Module):
    """The models' contract in the least code: compiles at once."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(4, (3, 3), strides=2)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(3)(x.mean((1, 2))), {}


@pytest.fixture(scope="module")
def split():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (24, 32, 32, 1), dtype=np.uint8)
    return jnp.asarray(images), jnp.asarray(np.arange(24, dtype=np.int32) % 3)


def make(seed=0, weight_decay=0.0, label_smoothing=0.0, augment=lambda key, images: images):
    model = Small()
    optimizer = adam(weight_decay)
    state = create_state(model.init(jax.random.key(seed), jnp.zeros((1, 32, 32, 1))), optimizer)
    return model, state, make_train_step(model, optimizer, augment, label_smoothing, jax.random.key(seed + 1))


def test_step_is_optax_adamw_on_smoothed_cross_entropy(split):
    images, labels = split
    model, state, step = make(weight_decay=0.05, label_smoothing=0.1)
    variables = jax.tree.map(np.array, state.variables)
    indices = np.array([5, 1, 7, 2, 11, 23])

    def loss_of(params):
        (logits, _), updates = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            normalize(images[indices]),
            train=True,
            mutable=["batch_stats"],
        )
        log_probabilities = jax.nn.log_softmax(logits)
        right = jnp.take_along_axis(log_probabilities, labels[indices][:, None], 1)[:, 0]
        return -(0.9 * right + 0.1 * log_probabilities.mean(-1)).mean(), updates

    (loss, updates), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(variables["params"])
    reference = optax.adamw(1e-3, weight_decay=0.05, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p))
    changes, _ = reference.update(gradients, reference.init(variables["params"]), variables["params"])
    expected = optax.apply_updates(variables["params"], changes)

    state, metrics = step(state, images, labels, indices, np.float32(1e-3))
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    # Adam's first step is the gradient's sign: where a gradient is rounding noise, so is the sign.
    noise = jax.tree.map(lambda g: jnp.abs(g) < 1e-5, gradients)
    jax.tree.map(
        lambda a, b, n: np.testing.assert_allclose(np.where(n, 0, a), np.where(n, 0, b), atol=2e-5),
        state.params,
        expected,
        noise,
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.batch_stats, updates["batch_stats"]
    )


def test_steps_repeat_from_a_seed_and_compile_once(split):
    images, labels = split
    noise = lambda key, batch: batch + 0.1 * jax.random.normal(key, batch.shape)  # noqa: E731
    results = []
    for _ in range(2):
        _, state, step = make(augment=noise)
        for start in range(3):
            indices = np.arange(start, start + 8)
            state, _ = step(state, images, labels, indices, np.float32(1e-3))
        assert step._cache_size() == 1
        results.append(jax.tree.map(np.array, state.params))
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_augmentation_differs_from_step_to_step(split):
    images, labels = split
    noise = lambda key, batch: batch + 0.5 * jax.random.normal(key, batch.shape)  # noqa: E731
    _, state, step = make(augment=noise)
    losses = []
    for _ in range(2):
        state, metrics = step(state, images, labels, np.arange(8), np.float32(0))
        losses.append(float(metrics["loss"]))
    assert losses[0] != losses[1]


def test_evaluation_is_the_same_in_any_batches(split):
    images, labels = split
    model, state, _ = make()
    evaluate = make_eval_step(model)
    logits = np.asarray(model.apply(state.variables, normalize(images))[0], np.float64)
    log_sum = np.log(np.exp(logits).sum(-1))
    expected_loss = (log_sum - logits[np.arange(24), labels]).mean()
    for batch_size in (24, 7):
        loss, accuracy = evaluate(state.variables, images, labels, batch_size)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert accuracy == pytest.approx((logits.argmax(-1) == np.asarray(labels)).mean())
