"""What is done to a scene to make its faces harder to find: tilt, a cover, darkness."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from faceflax.data import Scene
from faceflax.opencv import cv2

if TYPE_CHECKING:
    from jaxtyping import Float

TILTS = (0, 15, 30, 45, 60)
"""Degrees; both ways."""
COVERS = (0.0, 0.25, 0.4, 0.55)
"""Share of a face's height, from the chin up, that is covered, as a mask or a scarf does."""
LIGHTS = (1.0, 0.5, 0.25, 0.12)
"""Share of the light that is left."""
NOISE = 3.0
"""Standard deviation of a dark picture's noise, in grey levels."""
SIZES = ((12, 20), (20, 32), (32, 64), (64, 10_000))
"""Faces by the geometric mean of their sides, in pixels."""


@dataclass(frozen=True)
class Condition:
    """One way of changing scenes.

    Attributes:
        name: what it is, such as ``tilt``.
        value: how much of it.
        scenes: the changed scenes.
    """

    name: str
    value: str
    scenes: Sequence[Scene]


def conditions(portraits: Sequence[Scene], seed: int = 0) -> Iterator[Condition]:
    """Yields the portraits under each condition; every one has a border that repeats its edge."""
    roomy = [_with_room(scene) for scene in portraits]
    for tilt in TILTS:
        both = [tilted(scene, sign * tilt) for scene in roomy for sign in ((1, -1) if tilt else (1,))]
        yield Condition("tilt", f"{tilt}°", both)
    random = np.random.default_rng(seed)
    shades = random.integers(0, 256, len(roomy))
    for share in COVERS:
        changed = [covered(scene, share, int(shade)) for scene, shade in zip(roomy, shades, strict=True)]
        yield Condition("cover", f"{share:.0%}", changed)
    for light in LIGHTS:
        yield Condition("light", f"{light:.0%}", [darkened(scene, light, random) for scene in roomy])


def _with_room(scene: Scene) -> Scene:
    """A scene in the middle of a picture half as large again, which repeats its edge, so that tilting cuts nothing."""
    height, width = scene.image.shape[:2]
    y, x = height // 4, width // 4
    image = np.asarray(cv2.copyMakeBorder(scene.image, y, y, x, x, cv2.BORDER_REPLICATE))
    offset = np.array([x, y], np.float32)
    return Scene(
        image, scene.boxes + np.append(offset, [0, 0]).astype(np.float32), scene.landmarks + offset, scene.ignored
    )


def tilted(scene: Scene, degrees: float) -> Scene:
    """Rotates a scene about its middle, clockwise as seen; a box becomes that of the turned ellipse inside it."""
    height, width = scene.image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), -degrees, 1.0)
    image = np.asarray(cv2.warpAffine(scene.image, turn, (width, height), borderMode=cv2.BORDER_REPLICATE))
    middle = np.array([width / 2, height / 2])
    linear = turn[:, :2]

    def moved(points: Float[np.ndarray, "*shape 2"]) -> np.ndarray:
        return (points - middle) @ linear.T + middle

    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    half = scene.boxes[:, 2:] / 2
    halves = np.hypot(half * c, half[:, ::-1] * s)
    centres = moved(scene.boxes[:, :2] + half)
    boxes = np.concatenate([centres - halves, 2 * halves], 1).astype(np.float32)
    return Scene(image, boxes, moved(scene.landmarks).astype(np.float32), scene.ignored, scene.complete)


def covered(scene: Scene, share: float, shade: int) -> Scene:
    """Covers each face from the chin up with one shade."""
    image = scene.image.copy()
    for x, y, width, height in scene.boxes:
        top = round(float(y + height * (1 - share)))
        left, right, bottom = (round(float(v)) for v in (x, x + width, y + height))
        if share > 0:
            image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = shade
    return Scene(image, scene.boxes, scene.landmarks, scene.ignored, scene.complete)


def darkened(scene: Scene, light: float, random: np.random.Generator) -> Scene:
    """Leaves a share of the light, and the noise of the sensor."""
    if light == 1:
        return scene
    values = scene.image * light + random.normal(0, NOISE, scene.image.shape)
    return Scene(
        np.rint(values).clip(0, 255).astype(np.uint8), scene.boxes, scene.landmarks, scene.ignored, scene.complete
    )


Find = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""From a BGR frame to boxes, scores and landmarks."""
