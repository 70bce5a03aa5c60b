"""The metrics beside Quantus's own answers, on the same network, images, maps and changes."""

from __future__ import annotations

import itertools
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interpret
from interpret import metrics, sanity
from interpret.combinators import smooth_grad

quantus = pytest.importorskip("quantus")

SIDE, CLASSES, COUNT = 12, 3, 6
PATCH = 4
RADIUS, SAMPLES = 0.04, 5


class Net(nn.Module):
    """Smooth, so that no gradient is 0."""

    @nn.compact
    def __call__(self, images, train=False):
        hidden = jnp.tanh(nn.Conv(6, (3, 3), name="conv")(images))
        return nn.Dense(CLASSES, name="head")(hidden.reshape(len(images), -1)), {"conv": hidden}


MODEL = Net()
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(0.1, 1.0, (COUNT, SIDE, SIDE, 1)).astype(np.float32)
MASKS = RANDOM.random((COUNT, SIDE, SIDE)) < 0.3
VARIABLES = {
    "params": {
        "conv": {"kernel": RANDOM.normal(0, 0.3, (3, 3, 1, 6)).astype(np.float32), "bias": np.zeros(6, np.float32)},
        "head": {
            "kernel": RANDOM.normal(0, 0.05, (6 * SIDE**2, CLASSES)).astype(np.float32),
            "bias": np.zeros(CLASSES, np.float32),
        },
    }
}


@cache
def labels():
    return np.asarray(MODEL.apply(VARIABLES, IMAGES)[0].argmax(1))


@cache
def maps():
    return interpret.gradient_x_input(MODEL, VARIABLES, jnp.asarray(IMAGES), labels(), layer="conv")


class Theirs:
    """The network as Quantus asks for it: channels first."""

    def __init__(self, softmax: bool = True) -> None:
        self.softmax = softmax

    def predict(self, images, **_):
        logits = MODEL.apply(VARIABLES, np.moveaxis(images, 1, -1).astype(np.float32))[0]
        return np.asarray(jax.nn.softmax(logits) if self.softmax else logits)

    def shape_input(self, x, *_, **__):
        return x


def first(images):
    """Channels first, in float64, and a copy, as Quantus changes what it is given."""
    return np.moveaxis(np.array(images, np.float64), -1, 1)


def theirs(name, **options):
    """One of their metrics, which neither takes magnitudes nor scales maps."""
    return getattr(quantus, name)(abs=False, normalise=False, disable_warnings=True, **options)


def positive():
    return np.maximum(np.asarray(maps()), 0)


def test_complexity():
    sizes = np.abs(np.asarray(maps(), np.float64))
    count = SIDE * SIDE
    np.testing.assert_allclose(
        metrics.gini(maps()), theirs("Sparseness").evaluate_batch(x_batch=None, a_batch=sizes.copy()), atol=1e-4
    )
    np.testing.assert_allclose(
        metrics.entropy(maps()), theirs("Complexity").evaluate_batch(x_batch=None, a_batch=sizes.copy()), rtol=1e-5
    )
    relative = sizes / sizes.max((1, 2, 3), keepdims=True)
    counted = theirs("EffectiveComplexity", eps=0.1).evaluate_batch(a_batch=relative)
    np.testing.assert_allclose(metrics.effective_complexity(maps(), threshold=0.1), counted / count, rtol=1e-6)


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        (metrics.pointing_game, "PointingGame"),
        (metrics.energy_inside, "RelevanceMassAccuracy"),
        (metrics.relevance_rank_accuracy, "RelevanceRankAccuracy"),
        (metrics.localisation_auc, "AUC"),
    ],
)
def test_localisation(ours, name):
    raised = positive() + 1e-6 * np.asarray(jax.random.uniform(jax.random.key(3), maps().shape))  # no two are equal
    answer = theirs(name).evaluate_batch(a_batch=first(raised), s_batch=MASKS.copy())
    np.testing.assert_allclose(ours(raised[..., 0], MASKS), answer, rtol=1e-5)


def test_attribution_localisation_is_theirs_over_the_share_of_the_mask():
    answer = theirs("AttributionLocalisation").evaluate_batch(
        x_batch=first(IMAGES), a_batch=first(positive()), s_batch=MASKS.copy()
    )
    expected = answer / MASKS.mean((1, 2))
    np.testing.assert_allclose(metrics.attribution_localisation(maps()[..., 0], MASKS), expected, rtol=1e-5)


def test_deletion_is_pixel_flipping():
    flipped = theirs("PixelFlipping", features_in_step=4, perturb_baseline=0.0).evaluate_batch(
        model=Theirs(), x_batch=first(IMAGES), y_batch=labels(), a_batch=first(maps())
    )
    curve = metrics.deletion_curve(MODEL, VARIABLES, IMAGES, labels(), maps()[..., 0], steps=SIDE * SIDE // 4)
    np.testing.assert_allclose(curve[:, 1:], flipped, atol=1e-5)


def test_selectivity():
    covered = theirs("Selectivity", patch_size=PATCH, perturb_baseline=0.0).evaluate_batch(
        model=Theirs(), x_batch=first(IMAGES), y_batch=labels(), a_batch=first(maps())
    )
    whole = Theirs().predict(first(IMAGES))[np.arange(COUNT), labels()]
    expected = np.trapezoid(np.concatenate([whole[:, None], covered], 1), axis=1) / covered.shape[1]
    ours = metrics.selectivity(MODEL, VARIABLES, IMAGES, labels(), maps()[..., 0], patch=PATCH)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_monotonicity_as_they_state_it():
    """All steps but the first; what comes in is the image, where their own default brings in the baseline again."""
    images = first(IMAGES).reshape(COUNT, -1)

    def restored(arr, indices, **_):
        arr = arr.copy()
        np.put_along_axis(arr, indices, np.take_along_axis(images, indices, 1), 1)
        return arr

    answers = []
    for tried in (maps(), -maps()):
        metric = theirs("Monotonicity", features_in_step=72, perturb_baseline=0.0)
        metric.perturb_func = partial(restored, perturb_baseline=0.0)
        answer = metric.evaluate_batch(model=Theirs(), x_batch=first(IMAGES), y_batch=labels(), a_batch=first(tried))
        steps = SIDE * SIDE // 72
        rising = metrics.monotonicity(MODEL, VARIABLES, IMAGES, labels(), tried[..., 0], steps=steps)
        curve = metrics.insertion_curve(MODEL, VARIABLES, IMAGES, labels(), -tried[..., 0], steps=steps, baseline=0.0)
        differences = np.diff(np.asarray(curve))
        np.testing.assert_allclose(rising, (differences >= 0).mean(1), atol=1e-6)
        assert list(answer) == list((differences[:, 1:] >= 0).all(1))
        answers += answer
    assert set(answers) == {False, True}


def test_road_fills_in_as_they_do():
    from quantus.functions.perturb_func import noisy_linear_imputation

    order = np.argsort(-np.asarray(maps()).reshape(COUNT, -1), axis=1)[:, :20]
    filled = np.stack(
        [noisy_linear_imputation(image, gone, noise=0.0) for image, gone in zip(first(IMAGES), order, strict=True)]
    )
    expected = Theirs().predict(filled)[np.arange(COUNT), labels()]
    gone = np.zeros((COUNT, SIDE * SIDE), bool)
    np.put_along_axis(gone, order, True, axis=1)
    ours = metrics.regions.filled(IMAGES, jnp.asarray(gone.reshape(COUNT, SIDE, SIDE, 1)))
    np.testing.assert_allclose(first(ours), filled, atol=1e-3)
    np.testing.assert_allclose(Theirs().predict(first(ours))[np.arange(COUNT), labels()], expected, atol=1e-3)


def changes(key, *_, arr, **__):
    """The changes that :func:`interpret.metrics.max_sensitivity` draws, one after the other."""
    change = jax.random.uniform(next(key), IMAGES.shape, jnp.float32, -RADIUS, RADIUS)
    return arr + np.asarray(change).reshape(arr.shape)


def watched(name, **options):
    metric = theirs(name, return_aggregate=False, **options)
    metric.perturb_func = partial(changes, iter(jax.random.split(jax.random.key(7), SAMPLES)))
    gradient = partial(interpret.gradient_x_input, MODEL, VARIABLES, layer="conv")
    metric.explain_batch = lambda _, images, labels: first(
        gradient(jnp.asarray(np.moveaxis(images, 1, -1), jnp.float32), labels)
    )
    return metric


def method(model, variables, images, target):
    return interpret.gradient_x_input(model, variables, images, target, layer="conv")


@pytest.mark.parametrize(
    ("ours", "name"), [(metrics.max_sensitivity, "MaxSensitivity"), (metrics.avg_sensitivity, "AvgSensitivity")]
)
def test_sensitivity(ours, name):
    answer = watched(name, nr_samples=SAMPLES).evaluate_batch(
        model=Theirs(), x_batch=first(IMAGES), y_batch=labels(), a_batch=first(maps())
    )
    got = ours(method, MODEL, VARIABLES, IMAGES, labels(), key=jax.random.key(7), radius=RADIUS, samples=SAMPLES)
    np.testing.assert_allclose(got, answer, rtol=1e-3)


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        (metrics.relative_input_stability, "RelativeInputStability"),
        (metrics.relative_output_stability, "RelativeOutputStability"),
    ],
)
def test_stability(ours, name):
    answer = watched(name, nr_samples=SAMPLES).evaluate_batch(
        model=Theirs(softmax=False), x_batch=first(IMAGES), y_batch=labels(), a_batch=first(maps())
    )
    got = ours(method, MODEL, VARIABLES, IMAGES, labels(), key=jax.random.key(7), radius=RADIUS, samples=SAMPLES)
    known = ~np.isnan(answer) & (np.abs(maps()).min((1, 2, 3)) > 1e-3 * np.abs(maps()).max((1, 2, 3)))
    assert known.any()
    np.testing.assert_allclose(np.asarray(got)[known], np.asarray(answer)[known], rtol=1e-2)


def test_completeness_is_of_the_difference_that_they_compare_with():
    metric = theirs("Completeness", perturb_baseline=0.0)
    difference = []
    metric.output_func = lambda values: difference.append(values) or values
    metric.evaluate_batch(model=Theirs(softmax=False), x_batch=first(IMAGES), y_batch=labels(), a_batch=first(maps()))
    expected = np.abs(np.asarray(maps()).sum((1, 2, 3)) - difference[0]) / np.abs(difference[0])
    assert expected.min() > 1e-3
    np.testing.assert_allclose(metrics.completeness(MODEL, VARIABLES, IMAGES, labels(), maps()), expected, rtol=1e-2)


def shifted(*, arr, input_shift, **_):
    """Of all pixels; the shift of theirs leaves one out."""
    return arr + input_shift


def test_input_invariance():
    """They say whether the maps are the same, ours how far apart they are; gradients pass, products with pixels not."""

    class Shifted(Theirs):
        shift = 0.0

        def add_mean_shift_to_first_layer(self, shift, _):
            network = Shifted()
            network.shift = shift
            return network

    class OfShifted(nn.Module):
        shift: float

        @nn.compact
        def __call__(self, images, train=False):
            return Net(name="net")(images - self.shift)

    for of, passes in ((interpret.gradient, True), (interpret.gradient_x_input, False)):
        metric = theirs("InputInvariance")
        metric.perturb_func = partial(shifted, input_shift=0.5)

        def explain(model, images, labels, of=of):
            variables = {"params": {"net": VARIABLES["params"]}}
            images = jnp.asarray(np.moveaxis(images, 1, -1), jnp.float32)
            return first(of(OfShifted(model.shift), variables, images, labels, layer="conv"))

        metric.explain_batch = explain
        made = of(MODEL, VARIABLES, jnp.asarray(IMAGES), labels(), layer="conv")
        answer = metric.evaluate_batch(model=Shifted(), x_batch=first(IMAGES), y_batch=labels(), a_batch=first(made))
        ours = metrics.input_invariance(partial(of, layer="conv"), MODEL, VARIABLES, IMAGES, labels(), shift=0.5)
        assert list(answer) == list(np.asarray(ours) < 1e-3) == [passes] * COUNT


def test_continuity(monkeypatch):
    """With their sum of differences over the distance, and the changes of ours where they move the image sideways."""
    metric = watched("Continuity", nr_steps=SAMPLES)
    moved = metric.perturb_func
    monkeypatch.setattr(
        "quantus.metrics.robustness.continuity.batched_translation", lambda images, *_, **__: moved(arr=images)
    )
    answer = metric.evaluate_batch(model=Theirs(), x_batch=first(IMAGES), y_batch=labels())
    options = {"key": jax.random.key(7), "radius": RADIUS, "samples": SAMPLES}
    np.testing.assert_allclose(
        metrics.continuity(method, MODEL, VARIABLES, IMAGES, labels(), **options), answer, rtol=1e-3
    )


def test_infidelity():
    """Of the same squares taken out: theirs hides all of an image at once, and here what ours hides."""
    key, square = jax.random.key(11), metrics.SquareRemoval(3)
    hidden = (square(jax.random.fold_in(key, i), jnp.asarray(IMAGES)) for i in range(SAMPLES))
    metric = theirs("Infidelity", perturb_patch_sizes=[SIDE], n_perturb_samples=SAMPLES)
    metric.perturb_func = lambda arr, indices: first(next(hidden)).reshape(arr.shape)
    answer = metric.evaluate_batch(
        model=Theirs(softmax=False), x_batch=first(IMAGES), y_batch=labels(), a_batch=first(maps())
    )
    options = {"key": key, "perturb": square, "samples": SAMPLES}
    np.testing.assert_allclose(
        metrics.infidelity(MODEL, VARIABLES, IMAGES, labels(), maps(), **options), answer, rtol=1e-3
    )


class Watched(Theirs):
    """Keeps what it answered."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = []

    def predict(self, images, **_):
        self.answers.append(super().predict(images))
        return self.answers[-1]


def test_irof_is_the_mean_of_what_they_integrate(monkeypatch):
    """Theirs is the area over the curve from the first region taken out to the last, ours the mean over all. By default
    theirs takes the mean colour anew of what is left; given as a number, it is the image's."""
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # the name before NumPy 2
    few, expected, regions = slice(3), [], []
    for image, made, label in zip(first(IMAGES[few]), first(maps()[few]), labels()[few], strict=True):
        network = Watched()
        answer = theirs("IROF", perturb_baseline=float(image.mean())).evaluate_batch(
            model=network, x_batch=image[None], y_batch=np.array([label]), a_batch=made[None]
        )
        curve = np.array(network.answers)[:, 0, label]
        curve = curve / curve[0]
        count = len(curve) - 1
        assert count > 4
        expected.append((answer[0] - (curve[1] + curve[-1]) / 2) / count)
        regions.append(quantus.helpers.utils.get_superpixel_segments(np.moveaxis(image, 0, -1), "slic"))
    ours = metrics.irof(MODEL, VARIABLES, IMAGES[few], labels()[few], maps()[few, ..., 0], regions=np.stack(regions))
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)


def test_sufficiency_where_each_map_has_as_many_like_it():
    """Theirs counts the maps that are near enough, ours a number of the nearest: four groups of five maps each."""
    centres = np.random.default_rng(1).normal(size=(4, SIDE, SIDE))
    drawn = np.repeat(centres, 5, axis=0) + 0.05 * np.random.default_rng(2).normal(size=(20, SIDE, SIDE))
    images = np.random.default_rng(3).uniform(-1, 1, (20, 1, SIDE, SIDE))
    metric = theirs("Sufficiency", threshold=0.2, distance_func=quantus.functions.similarity_func.cosine)
    metric.distance_func = lambda a, b, V: quantus.functions.similarity_func.cosine(a, b)
    metric.normalise_func = lambda distances: distances
    held = metric.custom_batch_preprocess(model=Theirs(), x_batch=images, a_batch=drawn)
    answer = metric.evaluate_batch(**held)
    assert 0 < answer.mean() < 1
    classes = Theirs().predict(images).argmax(1)
    np.testing.assert_allclose(metrics.sufficiency(jnp.asarray(drawn), classes, neighbours=4), answer, rtol=1e-6)


class Pair(nn.Module):
    """Two classes, so that only one is the other."""

    @nn.compact
    def __call__(self, images, train=False):
        logits, features = Net(name="net")(images)
        return logits[:, :2], features


def test_random_logit():
    variables, classes = {"params": {"net": VARIABLES["params"]}}, np.arange(COUNT) % 2

    def explained(images, target):
        return interpret.gradient_x_input(Pair(), variables, jnp.asarray(images), target, layer="conv")

    metric = theirs("RandomLogit", num_classes=2, similarity_func=quantus.similarity_func.correlation_spearman)
    metric.explain_batch = lambda _, images, target: np.abs(first(explained(np.moveaxis(images, 1, -1), target)))
    answer = metric.evaluate_batch(
        model=None,
        x_batch=np.moveaxis(IMAGES, -1, 1),
        y_batch=classes,
        a_batch=np.abs(first(explained(IMAGES, classes))),
    )
    ours = sanity.random_logit(method, Pair(), variables, IMAGES, classes, key=jax.random.key(0))
    np.testing.assert_allclose(ours.rank_correlation, answer, rtol=1e-5)
    assert np.ptp(answer) > 0.01


RANDOM_VARIABLES = sanity.shuffled(VARIABLES, key=jax.random.key(5))


class Layers(Theirs):
    """The network as their tests of randomised layers ask for it, from the output to the input."""

    random_layer_generator_length = 2

    def __init__(self, variables=VARIABLES):
        super().__init__()
        self.variables = variables

    def predict(self, images, **_):
        return np.asarray(jax.nn.softmax(MODEL.apply(self.variables, np.moveaxis(images, 1, -1))[0]))

    def get_model(self):
        return self

    def get_random_layer_generator(self, **_):
        for name, variables in sanity.cascade(VARIABLES, RANDOM_VARIABLES, sanity.layers(MODEL, VARIABLES, IMAGES)):
            yield name, Layers(variables)


def explained(model, images, labels, **_):
    images = jnp.asarray(np.moveaxis(images, 1, -1), jnp.float32)
    return np.abs(first(method(MODEL, model.variables, images, labels)))


def randomised(name, **options):
    """One of their tests of randomised layers, of our network and maps; they take magnitudes, as ours do."""
    metric = theirs(name, layer_order="top_down", **options)
    metric.general_preprocess = lambda **given: given
    metric.explain_func_kwargs = {}
    metric.explain_batch = explained
    arguments = {"x_batch": first(IMAGES), "y_batch": labels(), "explain_func": explained, "channel_first": True}
    return metric, partial(metric, model=Layers(), **arguments)


def test_cascading_randomization():
    _, call = randomised("MPRT", similarity_func=quantus.similarity_func.correlation_spearman)
    answer = call(a_batch=np.abs(first(maps())))
    ours = sanity.cascading_randomization(method, MODEL, VARIABLES, RANDOM_VARIABLES, IMAGES, labels())
    assert list(answer) == ["original", *ours] == ["original", "head", "conv"]
    for name, similarity in ours.items():
        np.testing.assert_allclose(similarity.rank_correlation, answer[name], rtol=1e-3, atol=1e-3)
    assert np.mean(answer["conv"]) < 0.9


def test_smooth_cascading_randomization(monkeypatch):
    """Of the same noise. Their last copy of an image has none, which ours lacks: its map is left out as zeros."""
    samples, noise = 3, 0.1
    _, call = randomised(
        "SmoothMPRT",
        nr_samples=samples + 1,
        noise_magnitude=noise,
        similarity_func=quantus.similarity_func.correlation_spearman,
    )
    drawn = itertools.cycle(
        jax.random.normal(jax.random.fold_in(jax.random.key(0), i), (1, SIDE, SIDE, 1)) for i in range(samples)
    )
    monkeypatch.setattr(np.random, "randn", lambda *shape: np.broadcast_to(first(next(drawn)), shape))

    def of_copies(model, images, labels, **_):
        return explained(model, images, labels) if (images != first(IMAGES)).any() else np.zeros_like(images)

    monkeypatch.setattr(quantus, "explain", of_copies)
    smooth = smooth_grad(magnitudes, samples=samples, noise=noise)
    answer = call(a_batch=first(smooth(MODEL, VARIABLES, jnp.asarray(IMAGES), labels())))
    ours = sanity.smooth_cascading_randomization(
        magnitudes, MODEL, VARIABLES, RANDOM_VARIABLES, IMAGES, labels(), samples=samples, noise=noise
    )
    np.testing.assert_allclose(answer["original"], 1, rtol=1e-3)
    for name, similarity in ours.items():
        np.testing.assert_allclose(similarity.rank_correlation, answer[name], rtol=1e-3, atol=1e-3)


def magnitudes(model, variables, images, target, *, layer="conv"):
    return jnp.abs(interpret.gradient_x_input(model, variables, images, target, layer="conv"))


def test_efficient_randomization(monkeypatch):
    """With the entropy of ours, where theirs counts bins of a histogram by default."""
    monkeypatch.setattr(quantus.helpers.utils, "get_wrapped_model", lambda model, **_: model)
    entropy = quantus.functions.complexity_func.entropy
    metric, call = randomised("EfficientMPRT")
    metric.complexity_func = lambda a, x, **_: entropy(a, a)
    answer = call(a_batch=np.abs(first(maps())))
    ours = sanity.efficient_randomization(method, MODEL, VARIABLES, RANDOM_VARIABLES, IMAGES, labels())
    np.testing.assert_allclose(ours, answer, rtol=1e-3, atol=1e-5)
    assert np.ptp(answer) > 1e-3
