"""Pictures whose truth is known by construction, and networks that learn them: shapes on textures, with a tag.

Each picture has a shape (a square, triangle, cross or ring) on a texture, and elsewhere a small coloured tag. What a
network was taught says which of them it can use: of labels that are the shapes' kinds, with tags drawn independently,
the tag tells nothing, and the other way round. Of labels that both say alike, the tag is a confounder, easier to see
than what is meant; which of the two decides is seen where they disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8
from scipy.ndimage import binary_dilation

SIDE = 24
"""Pixels a side."""

SHAPES = ("square", "triangle", "cross", "ring")
TAGS = ("red", "green", "blue", "yellow")
CLASSES = len(SHAPES)

RADII = (5.0, 6.5)
"""Half a shape's side in pixels, at least and at most."""

TAG = 5
"""A tag's side in pixels."""

COLORS = np.array([[220, 60, 60], [60, 190, 80], [70, 100, 230], [225, 205, 60]], np.float32)
BATCH = 64
LEARNING_RATE = 2e-3


class Scenes(NamedTuple):
    """Pictures and what is in them.

    Attributes:
        images: RGB.
        shapes: the shape of each, an index of :data:`SHAPES`.
        tags: the tag of each, an index of :data:`TAGS`.
        shape_masks: the pixels of the shape and those beside it, where its outline shows.
        tag_masks: the same of the tag.
    """

    images: UInt8[np.ndarray, "n side side 3"]
    shapes: Int[np.ndarray, " n"]
    tags: Int[np.ndarray, " n"]
    shape_masks: Bool[np.ndarray, "n side side"]
    tag_masks: Bool[np.ndarray, "n side side"]


def render_scenes(
    count: int,
    seed: int,
    *,
    shapes: Int[np.ndarray, " n"] | None = None,
    tags: Int[np.ndarray, " n"] | None = None,
) -> Scenes:
    """Draws pictures.

    Textures are gratings with noise, another one in the shape, which is lighter or darker than the ground; neither says
    anything of the classes. The tag does not touch the shape.

    Args:
        count: how many.
        seed: of everything that is drawn. With the same seed, pictures of other shapes or tags have all the rest alike.
        shapes: the shape of each; drawn if not given.
        tags: the tag of each; drawn independently of the shapes if not given.

    Example:
        >>> scenes = render_scenes(2, seed=0, tags=np.array([0, 0]))
        >>> other = render_scenes(2, seed=0, tags=np.array([1, 3]))
        >>> changed = (scenes.images != other.images).any(-1)
        >>> bool(changed.any()), bool((changed <= scenes.tag_masks).all())
        (True, True)
    """
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, CLASSES, (2, count))
    shapes, tags = (drawn[i] if given is None else np.asarray(given) for i, given in enumerate((shapes, tags)))
    radius, turn = generator.uniform(*RADII, count), generator.uniform(-0.3, 0.3, count)
    place = generator.uniform(radius + 1, SIDE - 2 - radius, (2, count))
    corners = _free_corners(generator, place, radius)
    ground, filling = _gratings(generator, count), _gratings(generator, count)
    level = generator.choice([-1, 1], count) * generator.uniform(50, 80, count)
    noise = generator.normal(0, 8, (count, SIDE, SIDE, 3))

    inside = _inside(shapes, place, radius, turn)
    rows, columns = (np.arange(SIDE)[None] - corner[:, None] for corner in corners)
    within = [(x >= 0) & (x < TAG) for x in (rows, columns)]
    tagged = within[0][:, :, None] & within[1][:, None, :]
    grey = 127 + np.where(inside, filling + level[:, None, None], ground)
    images = np.where(tagged[..., None], COLORS[tags][:, None, None], grey[..., None]) + noise
    masks = (np.array([binary_dilation(mask) for mask in each]) for each in (inside, tagged))
    return Scenes(np.clip(images, 0, 255).astype(np.uint8), shapes, tags, *masks)


class SmallCNN(nn.Module):
    """Four convolutions with ReLU and the mean; the feature ``last_conv`` is the last one's."""

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> tuple[Array, dict[str, Array]]:
        """Maps ``[batch, side, side, 3]`` to logits ``[batch, 4]`` and features."""
        x = images
        for i, (width, strides) in enumerate(((16, 1), (32, 2), (48, 2))):
            x = nn.relu(nn.Conv(width, (3, 3), strides, name=f"conv{i}")(x))
        last_conv = nn.relu(nn.Conv(64, (3, 3), name="last_conv")(x))
        return nn.Dense(CLASSES, name="head")(last_conv.mean((1, 2))), {"last_conv": last_conv}


class SmallViT(nn.Module):
    """Patches of 4 pixels a side, positions, two encoders of attention and an MLP with GELU, and the tokens' mean."""

    width: int = 48

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """Maps ``[batch, side, side, 3]`` to logits ``[batch, 4]``."""
        x = nn.Conv(self.width, (4, 4), 4, padding="VALID", name="patches")(images)
        x = x.reshape(x.shape[0], -1, self.width)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], self.width))
        for i in range(2):
            x = Encoder(name=f"encoder{i}")(x)
        return nn.Dense(CLASSES, name="head")(nn.LayerNorm(name="norm")(x).mean(1))


class Encoder(nn.Module):
    """Attention of three heads, then an MLP, both behind LayerNorm."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Keeps the shape ``[batch, tokens, width]``."""
        width = x.shape[-1]
        x = x + nn.MultiHeadDotProductAttention(3, name="attention")(nn.LayerNorm(name="norm1")(x))
        return x + nn.Dense(width, name="outer")(
            nn.gelu(nn.Dense(2 * width, name="inner")(nn.LayerNorm(name="norm2")(x)))
        )


NETWORKS: Mapping[str, nn.Module] = {"CNN": SmallCNN(), "ViT": SmallViT()}


def scaled(images: UInt8[np.ndarray, "n side side 3"]) -> Float[Array, "n side side 3"]:
    """Pictures as the networks take them, in [-1, 1]."""
    return jnp.asarray(images, jnp.float32) / 127.5 - 1


def logits(network: nn.Module, variables: Any, images: Any) -> Array:
    """What a network answers."""
    answer = network.apply(variables, images)
    return answer[0] if isinstance(answer, tuple) else answer


def fit(network: nn.Module, scenes: Scenes, labels: Int[np.ndarray, " n"], *, seed: int, epochs: int) -> Any:
    """Teaches a network labels: Adam with warmup and cosine decay, on batches of 64, mirrored at random.

    Args:
        network: one of :data:`NETWORKS`.
        scenes: the pictures.
        labels: what it is taught of each.
        seed: of the first weights and of the order.
        epochs: passes over them.

    Returns:
        The network's variables.
    """
    count = len(labels) // BATCH * BATCH
    steps = epochs * count // BATCH
    warmup = np.minimum(1, (1 + np.arange(steps)) / max(1, steps // 10))
    rates = LEARNING_RATE * warmup * 0.5 * (1 + np.cos(np.pi * np.arange(steps) / steps))
    variables, state = _start(network, jax.random.key(seed))
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(labels))[:count] for _ in range(epochs)]
    for batch, rate in zip(np.concatenate(orders).reshape(-1, BATCH), rates, strict=True):
        images = scenes.images[batch]
        mirrored = np.where(generator.random(BATCH)[:, None, None, None] < 0.5, images[:, :, ::-1], images)
        variables, state = _step(network, variables, state, mirrored, labels[batch], rate)
    return variables


def answers(network: nn.Module, variables: Any, images: UInt8[np.ndarray, "n side side 3"]) -> Int[np.ndarray, " n"]:
    """The class that a network answers for each picture."""
    return np.asarray(_logits(network, variables, scaled(images)).argmax(1))


_logits = jax.jit(logits, static_argnums=0)
_ADAM = optax.scale_by_adam()


@partial(jax.jit, static_argnums=0)
def _start(network: nn.Module, key: Array) -> Any:
    variables = network.init(key, jnp.zeros((1, SIDE, SIDE, 3)))
    return variables, _ADAM.init(variables)


@partial(jax.jit, static_argnums=0)
def _step(network: nn.Module, variables: Any, state: Any, images: Array, labels: Array, rate: Array) -> Any:
    def loss(variables: Any) -> Array:
        given = logits(network, variables, images.astype(jnp.float32) / 127.5 - 1)
        return optax.softmax_cross_entropy_with_integer_labels(given, labels).mean()

    updates, state = _ADAM.update(jax.grad(loss)(variables), state, variables)
    return jax.tree.map(lambda value, update: value - rate * update, variables, updates), state


def _gratings(generator: np.random.Generator, count: int) -> Float[np.ndarray, "n side side"]:
    angle, period, phase = (
        generator.uniform(low, high, (count, 1, 1)) for low, high in ((0, np.pi), (3, 8), (0, 2 * np.pi))
    )
    height = generator.uniform(10, 30, (count, 1, 1))
    along = np.arange(SIDE)[None, :, None] * np.sin(angle) + np.arange(SIDE)[None, None] * np.cos(angle)
    gratings: np.ndarray = height * np.sin(2 * np.pi * along / period + phase)
    return gratings


def _free_corners(
    generator: np.random.Generator, place: Float[np.ndarray, "2 n"], radius: Float[np.ndarray, " n"]
) -> Int[np.ndarray, "2 n"]:
    """A tag's upper left corner, drawn among those that leave two pixels between it and the shape's circle."""
    starts = np.arange(SIDE - TAG + 1)
    middle = starts + (TAG - 1) / 2
    away = (middle[None, :, None] - place[0][:, None, None]) ** 2 + (middle[None, None] - place[1][:, None, None]) ** 2
    free = away > (1.2 * radius + TAG / np.sqrt(2) + 2)[:, None, None] ** 2
    chance = np.where(free, generator.random(free.shape), -1).reshape(len(radius), -1)
    return np.stack(np.unravel_index(chance.argmax(1), free.shape[1:]))


def _inside(
    shapes: Int[np.ndarray, " n"],
    place: Float[np.ndarray, "2 n"],
    radius: Float[np.ndarray, " n"],
    turn: Float[np.ndarray, " n"],
) -> Bool[np.ndarray, "n side side"]:
    down = (np.arange(SIDE)[None, :, None] - place[0][:, None, None]) / radius[:, None, None]
    across = (np.arange(SIDE)[None, None] - place[1][:, None, None]) / radius[:, None, None]
    cosine, sine = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    y, x = cosine * down - sine * across, sine * down + cosine * across
    far = np.hypot(x, y)
    drawn = np.stack(
        [
            np.maximum(np.abs(x), np.abs(y)) <= 0.8,
            (y <= 0.7) & (2 * np.abs(x) <= y + 1.1),
            (np.minimum(np.abs(x), np.abs(y)) <= 0.3) & (far <= 1),
            (far >= 0.5) & (far <= 1),
        ]
    )
    chosen: np.ndarray = np.take_along_axis(drawn, shapes[None, :, None, None], 0)[0]
    return chosen
