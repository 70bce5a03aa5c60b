"""The train step against a plain formulation, and its promises: determinism, one compilation, donated buffers."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.spatial.distance import jensenshannon

from faceflax.data.augment import Augmentation
from faceflax.data.transforms import mixup
from faceflax.preprocessing import normalize
from faceflax.training.checkpoints import Checkpoints, Record
from faceflax.training.run import Begun
from faceflax.training.step import adam, create_state, in_batches, make_eval_step, make_statistics, make_train_step
from faceflax.training.targets import cross_entropy, make_targets


class Small(nn.Module):
    """The models' contract in the least code: compiles at once."""

    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(4, (3, 3), strides=2)(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(3)(x.mean((1, 2))), {}


@pytest.fixture(scope="module")
def split():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (24, 32, 32, 1), dtype=np.uint8)
    labels = np.arange(24, dtype=np.int32) % 3
    return jnp.asarray(images), jnp.asarray(make_targets(labels, 3, smoothing=0.1))


def keep(key, images):
    return images


def pair(key, images, targets):
    return images, targets


def make(seed=0, weight_decay=0.0, augment=keep, mix=pair, **options):
    model = Small()
    optimizer = adam(weight_decay)
    state = create_state(model.init(jax.random.key(seed), jnp.zeros((1, 32, 32, 1))), optimizer)
    step = make_train_step(
        model, optimizer, augment=augment, mix=mix, loss=cross_entropy, key=jax.random.key(seed + 1), **options
    )
    return model, state, step


def plan(*batches, rate=1e-3):
    """An epoch's batches and rates, as a step takes them."""
    return jnp.asarray(batches, jnp.int32), jnp.full(len(batches), rate, jnp.float32)


def test_step_is_optax_adamw_on_smoothed_cross_entropy(split):
    images, targets = split
    model, state, step = make(weight_decay=0.05)
    variables = jax.tree.map(np.array, {"params": state.params, "batch_stats": state.batch_stats})
    indices = np.array([5, 1, 7, 2, 11, 23])

    def loss_of(params):
        (logits, _), updates = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            normalize(images[indices]),
            train=True,
            mutable=["batch_stats"],
        )
        log_probabilities = jax.nn.log_softmax(logits)
        right = log_probabilities[np.arange(6), indices % 3]
        return -(0.9 * right + 0.1 * log_probabilities.mean(-1)).mean(), updates

    (loss, updates), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(variables["params"])
    reference = optax.adamw(1e-3, weight_decay=0.05, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p))
    changes, _ = reference.update(gradients, reference.init(variables["params"]), variables["params"])
    expected = optax.apply_updates(variables["params"], changes)

    state, metrics = step(state, images, targets, *plan(indices))
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


def test_a_step_takes_the_row_of_its_number(split):
    images, targets = split
    batches = np.arange(24).reshape(3, 8)
    rates = np.float32([1e-3, 0, 2e-3])
    _, whole, step = make()
    _, single, _ = make()
    for i in range(6):  # two epochs of three steps
        whole, _ = step(whole, images, targets, jnp.asarray(batches), jnp.asarray(rates))
        single, _ = step(single, images, targets, jnp.asarray(batches[i % 3 :][:1]), jnp.asarray(rates[i % 3 :][:1]))
    jax.tree.map(np.testing.assert_array_equal, whole, single)


def test_consistency_adds_the_disagreement_of_two_views(split):
    """Views are those of one image, next to each other, each with an augmentation of its own."""
    images, targets = split
    seen = []

    def noise(key, batch):
        changed = batch + 0.3 * jax.random.normal(key, batch.shape)
        jax.debug.callback(seen.append, changed)
        return changed

    model, state, step = make(augment=noise, consistency=1.7)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    variables = jax.tree.map(np.array, variables)  # the step takes the state's buffers
    chosen = np.array([5, 1, 7, 2])
    _, metrics = step(state, images, targets, *plan(chosen))
    jax.effects_barrier()
    views = seen[0]
    offsets = np.asarray(views) - np.repeat(np.asarray(normalize(images[chosen])), 2, axis=0)
    assert np.abs(offsets).mean() == pytest.approx(0.3 * np.sqrt(2 / np.pi), rel=0.05)  # each is its image, and noise
    logits = np.asarray(model.apply(variables, views, train=True, mutable=["batch_stats"])[0][0], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    fit = -(np.repeat(np.asarray(targets)[chosen], 2, axis=0) * log_p).sum(1).mean()
    pairs = np.exp(log_p).reshape(4, 2, 3)
    apart = np.mean([jensenshannon(*pair) ** 2 for pair in pairs])
    assert apart > 1e-4
    assert float(metrics["loss"]) == pytest.approx(fit + 1.7 * apart, rel=1e-5)


@pytest.fixture(scope="module")
def everything():
    """A step with every kind of augmentation on."""
    augment = Augmentation(contrast=0.2, brightness=0.1, erase=0.5)
    return make(augment=augment, mix=partial(mixup, alpha=0.2), average=0.9)[2]


def test_steps_repeat_from_the_same_state(split, everything):
    images, targets = split
    results = []
    for _ in range(2):
        state = make()[1]
        for _ in range(3):
            state, _ = everything(state, images, targets, *plan(range(8), range(8, 16), range(16, 24)))
        results.append(jax.tree.map(np.array, state))
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (state.params, state.average)), strict=True))


def test_nothing_compiles_after_the_first_step_not_even_in_another_epoch_or_after_resuming(split, everything, tmp_path):
    images, targets = split
    compiled = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    state = make()[1]
    epochs = [plan(*np.random.default_rng(epoch).permutation(24).reshape(3, 8), rate=1e-3 / epoch) for epoch in (1, 2)]
    state, _ = everything(state, images, targets, *epochs[0])
    buffers = jax.tree.leaves(state)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for epoch in (0, 0, 1, 1, 1):
            state, _ = everything(state, images, targets, *epochs[epoch])
        assert not compiled
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(state, Record(2, [], Begun(), {}, [], {}, None))
            checkpoints.wait()
            restored = checkpoints.restore(2, state)
        compiled.clear()  # of saving and restoring
        restored, _ = everything(restored, images, targets, *epochs[0])
        restored, _ = everything(restored, images, targets, *epochs[0])
        assert not compiled
        jax.jit(lambda x: x + 12345)(1.0)
        assert compiled  # the listener does hear
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert all(buffer.is_deleted() for buffer in buffers)  # donated


def test_augmentation_and_mixing_differ_from_step_to_step_and_from_each_other(split):
    images, targets = split
    seen = []

    def watch(key, batch, *_):
        jax.debug.callback(lambda data: seen.append(data.tobytes()), jax.random.key_data(key))
        return (batch, *_) if _ else batch

    _, state, step = make(augment=watch, mix=watch)
    for _ in range(2):
        state, _ = step(state, images, targets, *plan(range(8), rate=0.0))
    jax.block_until_ready(state)
    jax.effects_barrier()
    assert len(set(seen)) == len(seen) == 4


def test_average_follows_the_recursion_in_float64(split):
    images, targets = split
    _, state, step = make(average=0.3)
    expected = jax.tree.map(lambda p: np.array(p, np.float64), state.params)
    for i in range(6):
        state, _ = step(state, images, targets, *plan(range(8), rate=1e-2))
        decay = min(0.3, (1 + i) / (10 + i))
        expected = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * np.array(p, np.float64), expected, state.params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), state.average, expected)


def test_without_averaging_the_average_is_the_parameters(split):
    images, targets = split
    _, state, step = make()
    for _ in range(2):
        state, _ = step(state, images, targets, *plan(range(8)))
    jax.tree.map(np.testing.assert_array_equal, state.average, state.params)


def test_bfloat16_agrees_with_float32_and_keeps_the_state_float32(split):
    images, targets = split
    losses = {}
    for precision in ("float32", "bfloat16"):
        _, state, step = make(precision=precision)
        state, metrics = step(state, images, targets, *plan(range(12)))
        losses[precision] = float(metrics["loss"])
        assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"float32", "int32"}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=2e-2)
    assert losses["bfloat16"] != losses["float32"]


def test_statistics_are_those_of_the_images_without_dropout(split):
    images, _ = split
    model = Small(dropout_rate=0.5)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    got = make_statistics(model)(variables, images, batch_size=24)
    kernel, bias = (np.asarray(variables["params"]["Conv_0"][name], np.float64) for name in ("kernel", "bias"))
    padded = np.pad(np.asarray(normalize(images), np.float64)[..., 0], ((0, 0), (0, 1), (0, 1)))  # SAME at stride 2
    views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2]
    x = np.einsum("nhwij,ijc->nhwc", views, kernel[:, :, 0]) + bias
    for name in ("BatchNorm_0", "BatchNorm_1"):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        np.testing.assert_allclose(got[name]["mean"], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got[name]["var"], var, rtol=1e-4)
        x = np.maximum((x - mean) / np.sqrt(var + 1e-5), 0)


def test_statistics_of_batches_are_their_mean(split):
    images, _ = split
    model = Small()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    statistics = make_statistics(model)
    halves = [statistics(variables, half) for half in (images[:12], images[12:])]
    both = statistics(variables, images, batch_size=12)
    # The later batch weighs 1 / 0.99 as much.
    expected = jax.tree.map(lambda a, b: (0.99 * a + b) / 1.99, *halves)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), both, expected)


def test_evaluation_is_the_same_in_any_batches(split):
    images, _ = split
    labels = jnp.arange(24) % 3
    model, state, _ = make()
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    evaluate = make_eval_step(model)
    logits = np.asarray(model.apply(variables, normalize(images))[0], np.float64)
    log_sum = np.log(np.exp(logits).sum(-1))
    expected_loss = (log_sum - logits[np.arange(24), labels]).mean()
    for batch_size in (24, 7):
        loss, accuracy = evaluate(variables, in_batches(images, labels, batch_size))
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert accuracy == pytest.approx((logits.argmax(-1) == np.asarray(labels)).mean())
