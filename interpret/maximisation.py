"""Activation maximisation and feature visualisation: the image that a neuron likes best."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

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


@method("steps", "transforms", "decay", "seed")
def feature_visualisation(
    model: Model,
    variables: Any,
    images: Images,
    target: Target = None,
    *,
    layer: str = "last_conv",
    steps: int = 256,
    rate: float = 0.05,
    transforms: int = 4,
    jitter: float = 0.1,
    turn: float = 10.0,
    zoom: float = 0.1,
    decay: float = 1.0,
    seed: int = 0,
) -> Images:
    """Feature visualisation: images that a target likes however they are moved, turned and scaled a little.

    ``x* = argmax over f of mean over transforms T of s(T x)``, ``x = tanh`` of the image with the Fourier coefficients
    ``f`` times ``1 / max(frequency, 1 / side)^decay``, by Adam on ``f``, with a fresh ``T`` (a shift, a turn and a
    zoom, bilinearly) for each copy in each step. Olah, Mordvintsev and Schubert, "Feature Visualization", Distill 2017
    (doi:10.23915/distill.00007). Misleads: the natural look is made by the coefficients and the transforms, not by the
    network, and is one of many images that the target likes.

    Args:
        model: as in :func:`~interpret.gradients.gradient`.
        variables: as in :func:`~interpret.gradients.gradient`.
        images: of them only the shape matters, and where ``target`` is None, the activation that is highest for them.
        target: as in :func:`~interpret.gradients.gradient`.
        layer: as in :func:`~interpret.gradients.gradient`.
        steps: of the ascent.
        rate: Adam's learning rate.
        transforms: transformed copies in each step.
        jitter: the largest shift both ways, as a share of the side.
        turn: the largest turn both ways, in degrees.
        zoom: the largest change of size both ways, as a share.
        decay: how much less high frequencies count from the start; 0 gives noise.
        seed: of the start and of the transforms.

    Returns:
        Images in [-1, 1], of the shape of ``images``.

    Raises:
        FaceflaxError: as in :func:`~interpret.gradients.gradient`, or an option out of its range.
    """
    at_least("steps", steps, 1)
    at_least("transforms", transforms, 1)
    at_least("decay", decay, 0)
    target = target.fixed(*apply(model, variables, images))  # type: ignore[union-attr]
    batch, height, width, channels = images.shape
    adam = optax.adam(rate)
    frequency = jnp.hypot(jnp.fft.fftfreq(height)[:, None], jnp.fft.rfftfreq(width)[None])
    scale = 1 / jnp.maximum(frequency, 1 / max(height, width)) ** decay
    scale = (scale / jnp.sqrt((scale**2).mean()) * jnp.sqrt(height * width))[None, ..., None]

    def painted(free: Array) -> Images:
        waves = jax.lax.complex(free[..., 0], free[..., 1]) * scale
        return jnp.tanh(jnp.fft.irfft2(waves, (height, width), (1, 2))).astype(images.dtype)

    def transformed(x: Images, key: Array) -> Images:
        """Each image by a transform of its own key, the same for all."""
        shift, angle, size = jax.random.split(key, 3)
        moved = jitter * max(height, width) * jax.random.uniform(shift, (2,), minval=-1)
        angle = jnp.deg2rad(turn) * jax.random.uniform(angle, (), minval=-1)
        size = 1 + zoom * jax.random.uniform(size, (), minval=-1)
        rows, columns = jnp.meshgrid(
            jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij"
        )
        down = (jnp.cos(angle) * rows - jnp.sin(angle) * columns) / size + (height - 1) / 2 + moved[0]
        across = (jnp.sin(angle) * rows + jnp.cos(angle) * columns) / size + (width - 1) / 2 + moved[1]

        def sampled(plane: Array) -> Array:
            return jax.scipy.ndimage.map_coordinates(plane, [down, across], order=1, mode="nearest")

        return jax.vmap(jax.vmap(sampled, -1, -1))(x)

    def loss(free: Array, key: Array) -> Array:
        x = painted(free)
        copies = jax.vmap(partial(transformed, x))(jax.random.split(key, transforms))
        return -jax.vmap(lambda copy: target.of(*apply(model, variables, copy)))(copies).mean(0).sum()

    def step(state: Any, key: Array) -> tuple[Any, None]:
        free, memory = state
        change, memory = adam.update(jax.grad(loss)(free, key), memory)
        return (free + change, memory), None

    start, moves = jax.random.split(jax.random.key(seed))
    free = 0.01 * jax.random.normal(start, (1, height, width // 2 + 1, channels, 2))
    free = jnp.broadcast_to(free, (batch, *free.shape[1:]))
    (free, _), _ = jax.lax.scan(step, (free, adam.init(free)), jax.random.split(moves, steps))
    return painted(free)
