"""Activation maximisation: the image that a neuron likes best."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from interpret.attribution import apply, at_least, method
from interpret.graph import Images, Model
from interpret.targets import Target


@method("steps", "jitter", "seed")
def activation_maximisation(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    steps: int = 256,
    rate: float = 0.05,
    smoothness: float = 0.1,
    jitter: int = 4,
    seed: int = 0,
) -> Images:
    """Changes images until the target is as high as it gets, held back from noise that no photograph has.

    ``x* = argmax over x in [-1, 1] of s(x) - smoothness * TV(x)``, where ``TV`` sums the squared steps from each pixel
    to its neighbours, by Adam on images that are moved at random in each step. Erhan, Bengio, Courville and Vincent,
    "Visualizing Higher-Layer Features of a Deep Network", 2009; the priors are those of Mahendran and Vedaldi,
    "Visualizing Deep Convolutional Neural Networks Using Natural Pre-images", IJCV 2016 (arXiv:1512.02017).

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: where the ascent starts, such as zeros; a class of each image and all of them in one call.
        target: as in :func:`~interpret.gradients.gradient`; the highest activation is that of ``images``.
        layer: as in :func:`~interpret.gradients.gradient`.
        steps: of the ascent.
        rate: Adam's learning rate.
        smoothness: the weight of what holds neighbouring pixels together.
        jitter: by how many pixels the images are moved at most, both ways.
        seed: of the moves and of the faint noise that is added to the start.

    Returns:
        Images in [-1, 1], of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.gradient`, or an option out of its range.
    """
    at_least("steps", steps, 1)
    at_least("jitter", jitter, 0)
    target = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]
    adam = optax.adam(rate)

    def loss(x: Images, shift: jax.Array) -> jax.Array:
        score = target.of(*apply(model, variables, jnp.roll(x, shift, (1, 2))))
        down, across = jnp.diff(x, axis=1), jnp.diff(x, axis=2)
        return smoothness * ((down**2).sum() + (across**2).sum()) - score.sum()

    def step(state: Any, key: jax.Array) -> tuple[Any, None]:
        x, memory = state
        change, memory = adam.update(jax.grad(loss)(x, jax.random.randint(key, (2,), -jitter, jitter + 1)), memory)
        return (jnp.clip(x + change, -1, 1), memory), None

    start, moves = jax.random.split(jax.random.key(seed))
    x = jnp.clip(images + 0.01 * jax.random.normal(start, (1, *images.shape[1:]), images.dtype), -1, 1)
    (x, _), _ = jax.lax.scan(step, (x, adam.init(x)), jax.random.split(moves, steps))
    return x
