"""What happens to pictures of faces: small in the frame, blurred, pale, dark, noisy, compressed, turned, covered.

After Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR
2019. Strengths are in pixels of a face whose square, as the networks' images are cut from
(:mod:`faceflax.faces.square`), has a side of 64 pixels, so that they mean the same for every dataset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from faceflax.errors import unknown
from faceflax.evaluation.detected import View
from faceflax.faces.detection import Detection
from faceflax.opencv import cv2

SIDE = 64
"""Side of a face's square, in pixels, before it is corrupted."""


Change = Callable[[View, np.random.Generator], View]


@dataclass(frozen=True)
class Corruption:
    """One thing that happens to a picture, at one strength.

    Attributes:
        name: short, for tables and options.
        says: what it is, in a few words.
        change: makes it of a view whose square has :data:`SIDE` pixels.
        common: whether it is part of the mean corruption accuracy.
    """

    name: str
    says: str
    change: Change
    common: bool = True

    def __call__(self, view: View, random: np.random.Generator) -> View:
        """Corrupts a view."""
        return self.change(view, random)


def scaled(view: View, side: float) -> View:
    """Resizes a frame so that the face's square has this side; area-averaged where it shrinks."""
    factor = side / view.square.side
    height, width = view.image.shape
    size = max(1, round(width * factor)), max(1, round(height * factor))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    image = np.asarray(cv2.resize(view.image, size, interpolation=method))
    return View(image, moved(view.face, np.array([[size[0] / width, 0, 0], [0, size[1] / height, 0]])))


def moved(face: Detection, matrix: Float[np.ndarray, "2 3"]) -> Detection:
    """A box keeps its shape and is scaled about its moved middle."""
    linear, shift = matrix[:, :2], matrix[:, 2]
    middle = linear @ (face.box[:2] + face.box[2:] / 2) + shift
    size = face.box[2:] * math.sqrt(abs(np.linalg.det(linear)))
    points = None if face.landmarks is None else (face.landmarks @ linear.T + shift).astype(np.float32)
    return Detection(np.concatenate([middle - size / 2, size]), face.score, points, face.tilt)


def chosen(names: Sequence[str] = ()) -> tuple[Corruption, ...]:
    """Returns the corruptions of these names, or all of them.

    Raises:
        FaceflaxError: a name that is not one.

    Example:
        >>> [each.says for each in chosen(["blur", "jpeg"])]
        ['blurred: a Gaussian of 2 pixels', 'JPEG of quality 10']
    """
    by_name = {corruption.name: corruption for corruption in CORRUPTIONS}
    for name in names:
        if name not in by_name:
            raise unknown("corruptions", name, by_name)
    return tuple(by_name[name] for name in names) if names else CORRUPTIONS


def _turned(view: View, matrix: Float[np.ndarray, "2 3"]) -> View:
    """Moves each pixel's middle as an affine matrix of points says; the frame's border is repeated outwards."""
    linear = matrix[:, :2]
    shift = matrix[:, 2] + (linear - np.eye(2)) @ [0.5, 0.5]  # OpenCV's pixels have their middle at whole numbers
    size = view.image.shape[::-1]
    image = cv2.warpAffine(view.image, np.column_stack([linear, shift]), size, borderMode=cv2.BORDER_REPLICATE)
    return View(np.asarray(image), moved(view.face, matrix))


def _values(f: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Change:
    """A change of the pixels' values alone."""

    def change(view: View, random: np.random.Generator) -> View:
        values = f(view.image.astype(np.float32), random)
        return view._replace(image=np.rint(values).clip(0, 255).astype(np.uint8))

    return change


def _small(side: int) -> Change:
    return lambda view, random: scaled(view, side)


def _rotated(degrees: float) -> Change:
    def change(view: View, random: np.random.Generator) -> View:
        angle = math.radians(degrees) * random.choice([-1, 1])
        c, s = math.cos(angle), math.sin(angle)
        turn = np.array([[c, -s], [s, c]])
        middle = np.array([view.square.x, view.square.y])
        return _turned(view, np.column_stack([turn, middle - turn @ middle]))

    return change


def _pixelated(side: int) -> Change:
    def change(view: View, random: np.random.Generator) -> View:
        few, size = scaled(view, side).image, view.image.shape[::-1]
        return view._replace(image=np.asarray(cv2.resize(few, size, interpolation=cv2.INTER_NEAREST)))

    return change


def _jpeg(quality: int) -> Change:
    def change(view: View, random: np.random.Generator) -> View:
        encoded = cv2.imencode(".jpg", view.image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return view._replace(image=np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)))

    return change


def _motion(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    length, angle = 9, random.uniform(0, math.pi)
    kernel = np.zeros((length, length), np.float32)
    middle = (length - 1) / 2
    reach = middle * np.array([math.cos(angle), math.sin(angle)])
    first, last = (np.rint(middle + sign * reach).astype(int).tolist() for sign in (-1, 1))
    cv2.line(kernel, first, last, 1.0)
    return np.asarray(cv2.filter2D(values, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE))


def _dark(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return 0.15 * values + random.normal(0, 4, values.shape)


def _lit_from_the_side(view: View, random: np.random.Generator) -> View:
    square, width = view.square, view.image.shape[1]
    across = ((np.arange(width) + 0.5 - square.x) / square.side + 0.5).clip(0, 1)
    light = 1 - 0.85 * (across if random.random() < 0.5 else 1 - across)
    return view._replace(image=np.rint(view.image * light).astype(np.uint8))


def _drawn(draw: Callable[[np.ndarray, Callable[..., np.ndarray], np.random.Generator], None]) -> Change:
    """Something drawn on a face: ``draw(image, at, random)``, where ``at(across, down)`` is a place in its square."""

    def change(view: View, random: np.random.Generator) -> View:
        image, square = view.image.copy(), view.square
        c, s = (f(math.radians(square.roll)) for f in (math.cos, math.sin))

        def at(*places: tuple[float, float]) -> np.ndarray:
            points = (np.array(places) - 0.5) * square.side @ np.array([[c, s], [-s, c]]) + [square.x, square.y]
            return np.rint(points - 0.5).astype(np.int32)

        draw(image, at, random)
        return view._replace(image=image)

    return change


def _cover(image: np.ndarray, at: Callable[..., np.ndarray], random: np.random.Generator) -> None:
    width, height = 0.4, 0.3
    x, y = random.uniform(0.1, 0.9 - width), random.uniform(0.1, 0.9 - height)
    corners = at((x, y), (x + width, y), (x + width, y + height), (x, y + height))
    cv2.fillPoly(image, [corners], int(random.integers(0, 256)))


def _mask(image: np.ndarray, at: Callable[..., np.ndarray], random: np.random.Generator) -> None:
    outline = at((0.12, 0.52), (0.5, 0.46), (0.88, 0.52), (0.8, 0.85), (0.5, 1.0), (0.2, 0.85))
    cv2.fillPoly(image, [outline], int(random.choice([40, 150, 225])))


def _glasses(image: np.ndarray, at: Callable[..., np.ndarray], random: np.random.Generator) -> None:
    shade = int(random.integers(10, 60))
    for left, right in ((0.16, 0.46), (0.54, 0.84)):
        cv2.fillPoly(image, [at((left, 0.28), (right, 0.28), (right - 0.03, 0.48), (left + 0.03, 0.48))], shade)
    a, b = at((0.05, 0.32), (0.95, 0.32))
    cv2.line(image, a.tolist(), b.tolist(), shade, 2, cv2.LINE_AA)


def _line(image: np.ndarray, at: Callable[..., np.ndarray], random: np.random.Generator) -> None:
    height = random.uniform(0.15, 0.85)
    a, b = at((-0.1, height + random.uniform(-0.1, 0.1)), (1.1, height + random.uniform(-0.1, 0.1)))
    cv2.line(image, a.tolist(), b.tolist(), 20, 2, cv2.LINE_AA)


def _cut(view: View, random: np.random.Generator) -> View:
    """The frame ends within the face; what lies beyond repeats its border, as when a face is cut out."""
    square, image = view.square, view.image
    height, width = image.shape
    at = 0.25 * square.side
    edge = random.integers(3)
    if edge == 0:
        left = int(np.clip(round(square.x - square.side / 2 + at), 0, width - 1))
        return View(np.ascontiguousarray(image[:, left:]), moved(view.face, np.array([[1.0, 0, -left], [0, 1, 0]])))
    if edge == 1:
        right = int(np.clip(round(square.x + square.side / 2 - at), 1, width))
        return view._replace(image=np.ascontiguousarray(image[:, :right]))
    bottom = int(np.clip(round(square.y + square.side / 2 - at), 1, height))
    return view._replace(image=np.ascontiguousarray(image[:bottom]))


CORRUPTIONS: tuple[Corruption, ...] = (
    Corruption("small-24", "24 pixels large in the frame", _small(24)),
    Corruption("small-16", "16 pixels large in the frame", _small(16)),
    Corruption("blur", "blurred: a Gaussian of 2 pixels", _values(lambda v, r: cv2.GaussianBlur(v, (0, 0), 2.0))),
    Corruption("contrast", "a quarter of the contrast", _values(lambda v, r: 128 + 0.25 * (v - 128))),
    Corruption("noise", "noise of 20 of 255 grey values", _values(lambda v, r: v + r.normal(0, 20, v.shape))),
    Corruption("jpeg", "JPEG of quality 10", _jpeg(10)),
    Corruption("rotate-15", "turned by 15 degrees", _rotated(15)),
    Corruption("rotate-30", "turned by 30 degrees", _rotated(30)),
    Corruption("gamma", "darker by a gamma of 2", _values(lambda v, r: 255 * (v / 255) ** 2)),
    Corruption("dark", "15% of the light, with noise", _values(_dark), common=False),
    Corruption("side-light", "light from one side", _lit_from_the_side, common=False),
    Corruption("motion", "moved by 9 pixels", _values(_motion), common=False),
    Corruption("pixels", "in pixels, 20 across the face", _pixelated(20), common=False),
    Corruption("cover", "something before it, 0.4 by 0.3 of it", _drawn(_cover), common=False),
    Corruption("mask", "a mask over nose and mouth", _drawn(_mask), common=False),
    Corruption("glasses", "dark glasses", _drawn(_glasses), common=False),
    Corruption("line", "a thin dark line across it", _drawn(_line), common=False),
    Corruption("cut", "a quarter of it beyond the frame", _cut, common=False),
)
"""All of them; the common ones make the mean corruption accuracy."""
