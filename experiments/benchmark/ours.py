"""faceflax, by its public names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

import faceflax
import interpret
from experiments.benchmark import shared
from faceflax.training.step import adam, create_state, make_eval_step, make_train_step
from faceflax.training.targets import cross_entropy, make_targets
from faceflax.vision import demo
from faceflax.vision.detection import HaarDetector

Run = Callable[[], np.ndarray]


def _network(arch: str) -> tuple[Any, dict[str, Any]]:
    variables = jax.tree.map(jnp.asarray, unflatten_dict(shared.tensors(arch), sep="/"))
    return faceflax.create(arch, shared.CLASSES), variables


def forward(arch: str, batch: int) -> Run:
    """Logits ``[batch, 7]``."""
    return partial(faceflax.compile(*_network(arch)), shared.images(batch))


def train(arch: str, batch: int) -> Run:
    """The loss of one more train step; its augmentation is the identity, which the peers do not have."""
    images, labels = map(jnp.asarray, shared.training_set(8 * batch))
    return partial(next, _steps(arch, images, labels, batch))


def _steps(arch: str, images: jax.Array, labels: jax.Array, batch: int) -> Iterator[np.ndarray]:
    model, variables = _network(arch)
    optimizer = adam(shared.WEIGHT_DECAY)
    step = make_train_step(
        model,
        optimizer,
        augment=lambda key, images: images,
        mix=lambda key, images, targets: (images, targets),
        loss=partial(cross_entropy, weights=jnp.ones(shared.CLASSES)),
        key=jax.random.key(0),
    )
    state = create_state(variables, optimizer)
    targets = jnp.asarray(make_targets(np.asarray(labels), shared.CLASSES, smoothing=shared.LABEL_SMOOTHING))
    batches = jnp.asarray(shared.order(len(images), batch))
    rates = jnp.full(len(batches), shared.LEARNING_RATE)
    while True:
        state, metrics = jax.block_until_ready(step(state, images, targets, batches, rates))
        yield np.asarray(metrics["loss"])


def train_and_evaluate(arch: str) -> None:
    """A few train steps on as many images as FER-2013 has, then an evaluation."""
    images, labels = map(jnp.asarray, shared.training_set(shared.TRAINING_IMAGES))
    steps = _steps(arch, images, labels, 64)
    for _ in range(5):
        next(steps)
    model, variables = _network(arch)
    validation = slice(shared.VALIDATION_IMAGES)
    make_eval_step(model)(variables, images[validation], labels[validation])


def guided(targets: list[int]) -> Run:
    """Guided backprop of one image for each target, ``[targets, 64, 64, 1]``.

    Mapped over targets, as :mod:`interpret.attribution` advises: the forward pass is computed once for all of them.
    """
    method = partial(interpret.guided_backprop, *_network("mini_xception"))
    several = jax.jit(lambda image, targets: jax.vmap(partial(method, image))(targets)[:, 0])
    run = jax.jit(method) if len(targets) == 1 else several
    image = shared.images(1)
    return lambda: np.asarray(run(image, np.asarray(targets)))


def _frames() -> Iterator[np.ndarray]:
    return cycle(list(demo.video()))


def analyze() -> Run:
    """How many faces there are in the next frame of the demo's film, 640x360, analysed."""
    analyzer, frames = faceflax.FaceAnalyzer(), _frames()
    return lambda: np.asarray(len(analyzer(next(frames))))


def detect() -> Run:
    """How many faces there are in the next frame, found alone."""
    detector, frames = HaarDetector(), _frames()
    return lambda: np.asarray(len(detector(next(frames))))
