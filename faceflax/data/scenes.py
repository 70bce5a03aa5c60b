"""Training pictures of a face detector: crops of annotated scenes at random scales, turned, covered, darkened.

A :class:`Scene` is an image with its faces. :class:`Scenes` draws crops from many of them: photographs around one
of their faces, and sheets of shrunk portraits, which have landmarks where photographs of crowds have none. All is in
NumPy and OpenCV, in the process that trains; a crop depends on the seed and its number alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from faceflax.data.scene_augmentation import SceneAugmentation
from faceflax.errors import FaceflaxError
from faceflax.models.architectures import DETECTOR_STRIDES
from faceflax.opencv import cv2

if TYPE_CHECKING:  # slow to import, and only annotations need it
    from jaxtyping import Bool, Float, Float32, UInt8

MIRRORED = (1, 0, 2, 4, 3)
"""Which landmark of an image takes each one's place in its mirrored copy."""

MAX_FACES = 64
"""Faces of a crop that a network is taught; of more, the largest."""

SMALLEST = 11.0
"""Faces whose sides have a geometric mean of fewer pixels than this are neither taught nor held against the network."""


SMALL_FIRST = 1.3
"""Sizes of faces are drawn evenly in their logarithm, to this power: the more, the more small ones."""

NATURAL = 0.3
"""How far the scale of a crop that is about as large as its photograph varies: the logarithm's standard deviation."""

LEAST_FILLED = 0.4
"""A scene is not made smaller than this share of a crop's side: the rest would teach nothing."""

ASKED, UPRIGHT = ("wider",), 20.0
"""Groups of whose crops a teacher is asked, unless they are turned by more degrees than this."""


@dataclass(frozen=True)
class Scene:
    """An image and its faces.

    Attributes:
        image: uint8 ``[height, width, 3]``, BGR.
        boxes: x, y, width, height in pixels, from forehead to chin and from ear to ear, as WIDER FACE has them.
        landmarks: x, y in pixels of the left eye, right eye, nose, left and right corner of the mouth, as the image
            shows them; NaN where they are not known.
        ignored: faces that nobody could tell, or would have to.
        complete: every face has a box; where not, what lies away from those that have one counts neither way.
    """

    image: UInt8[np.ndarray, "height width 3"]
    boxes: Float32[np.ndarray, "faces 4"]
    landmarks: Float32[np.ndarray, "faces 5 2"]
    ignored: Bool[np.ndarray, " faces"]
    complete: bool = True


class Scenes:
    """Draws training crops from scenes.

    Args:
        groups: scenes by name, such as ``wider``.
        shares: how often a crop is from each group; they are made to sum to 1.
        size: side of a crop in pixels.
        augmentation: how crops are changed.
        seed: of all randomness.
        teacher: says of a crop, before it is changed, the score and the landmarks (x, y) of each place.

    Raises:
        FaceflaxError: no scenes, or a share of a group that is not there.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[Scene]],
        shares: Mapping[str, float],
        size: int = 256,
        augmentation: SceneAugmentation = SceneAugmentation(),  # noqa: B008  # frozen
        seed: int = 0,
        teacher: Callable[[np.ndarray], Float32[np.ndarray, "places 11"]] | None = None,
    ) -> None:
        for name in shares:
            if not groups.get(name):
                raise FaceflaxError("shares", name, "there are no scenes of the group {}", "take it out")
        self._groups = {name: list(groups[name]) for name in shares}
        weights = np.array(list(shares.values()), np.float64)
        self._shares = weights / weights.sum()
        self._names = list(shares)
        self.size = size
        self._change = augmentation
        self._seed = seed
        self._teacher = teacher
        with_landmarks = [s for scenes in self._groups.values() for s in scenes if _is_portrait(s)]
        without = [s for scenes in self._groups.values() for s in scenes if len(s.boxes) == 0]
        self._portraits, self._backgrounds = with_landmarks, without

    def crop(self, number: int) -> Scene:
        """Returns the crop of this number, always the same."""
        return self._crop(number)[0]

    def _crop(self, number: int) -> tuple[Scene, np.ndarray | None]:
        """The crop of this number, and the image that a teacher is asked of."""
        random = np.random.default_rng((self._seed, number))
        name = ""
        if self._portraits and self._backgrounds and random.random() < self._change.sheets:
            scene = self._sheet(random)
        else:
            name = self._names[random.choice(len(self._names), p=self._shares)]
            scene = self._groups[name][random.integers(len(self._groups[name]))]
        placed, roll = self._placed(scene, random)
        asked = placed.image if name in ASKED and abs(roll) < UPRIGHT else None
        return self._changed(placed, random), asked

    def batch(self, number: int, count: int) -> dict[str, np.ndarray]:
        """Returns ``count`` crops as arrays, padded to :data:`MAX_FACES` faces.

        Returns:
            ``images`` uint8 ``[count, size, size, 3]``, ``boxes`` float32 ``[count, faces, 4]``, ``landmarks``
            ``[count, faces, 5, 2]`` (NaN: not known), ``kinds`` int8 ``[count, faces]``: 1 a face, -1 one that counts
            neither way, 0 padding, and ``complete`` bool ``[count]``. With a teacher also what it says, ``taught``
            float32 ``[count, places, 11]``, NaN where it was not asked.
        """
        drawn = [self._crop(number * count + i) for i in range(count)]
        crops = [crop for crop, _ in drawn]
        boxes = np.zeros((count, MAX_FACES, 4), np.float32)
        landmarks = np.full((count, MAX_FACES, 5, 2), np.nan, np.float32)
        kinds = np.zeros((count, MAX_FACES), np.int8)
        for i, crop in enumerate(crops):
            order = np.argsort(-crop.boxes[:, 2:].prod(1) + 1e9 * crop.ignored, kind="stable")[:MAX_FACES]
            n = len(order)
            boxes[i, :n], landmarks[i, :n] = crop.boxes[order], crop.landmarks[order]
            kinds[i, :n] = np.where(crop.ignored[order], -1, 1)
        images = np.stack([crop.image for crop in crops])
        complete = np.array([crop.complete for crop in crops])
        batch = {"images": images, "boxes": boxes, "landmarks": landmarks, "kinds": kinds, "complete": complete}
        if self._teacher is not None:
            answers = [None if image is None else self._teacher(image) for _, image in drawn]
            places = sum((self.size // stride) ** 2 for stride in DETECTOR_STRIDES)
            unknown = np.full((places, 11), np.nan, np.float32)
            batch["taught"] = np.stack([unknown if answer is None else answer for answer in answers])
        return batch

    def _sheet(self, random: np.random.Generator) -> Scene:
        """Portraits side by side, each of a random size, on a photograph without faces."""
        side = 2 * self.size
        background = self._backgrounds[random.integers(len(self._backgrounds))].image
        canvas = cv2.resize(background, (side, side), interpolation=cv2.INTER_LINEAR)
        across = int(random.integers(2, 7))
        cell = side // across
        parts = []
        for row in range(across):
            for column in range(across):
                if random.random() < 0.3:
                    continue
                portrait = self._portraits[random.integers(len(self._portraits))]
                height, width = portrait.image.shape[:2]
                scale = cell * random.uniform(0.5, 1.0) / max(height, width)
                shape = max(8, round(width * scale)), max(8, round(height * scale))
                image = cv2.resize(portrait.image, shape, interpolation=cv2.INTER_AREA)
                left = column * cell + int(random.integers(0, cell - shape[0] + 1))
                top = row * cell + int(random.integers(0, cell - shape[1] + 1))
                canvas[top : top + shape[1], left : left + shape[0]] = image
                boxes = portrait.boxes * scale + np.array([left, top, 0, 0], np.float32)
                parts.append((boxes, portrait.landmarks * scale + np.array([left, top], np.float32), portrait.ignored))
        if not parts:
            return Scene(canvas, *_nobody())
        boxes, landmarks, ignored = (np.concatenate(each) for each in zip(*parts, strict=True))
        return Scene(canvas, boxes, landmarks, ignored, complete=False)

    def _placed(self, scene: Scene, random: np.random.Generator) -> tuple[Scene, float]:
        """The crop around one face of a scene, or anywhere in one without a face: scaled, turned and mirrored.

        Also returns by how many degrees it is turned.
        """
        change, size = self._change, self.size
        known = np.flatnonzero(~scene.ignored & (scene.boxes[:, 2:].prod(1) > 16))
        height, width = scene.image.shape[:2]
        centre: np.ndarray
        if len(known):
            x, y, w, h = scene.boxes[random.choice(known)]
            share = random.random() ** SMALL_FIRST
            wanted = change.size_from * (change.size_to / change.size_from) ** share
            least = max(0.2, LEAST_FILLED * size / max(height, width))
            scale = float(np.clip(wanted / np.sqrt(w * h), least, 2.5))
            if change.natural and random.random() < change.natural:
                scale = float(np.clip(np.exp(random.normal(0, NATURAL)), max(0.5, least), max(1.6, least)))
            centre = np.array([x + w / 2, y + h / 2])
        else:
            scale = float(np.exp(random.uniform(np.log(0.4), np.log(2.0))))
            centre = random.uniform(0.2, 0.8, 2) * [width, height]
        roll = random.choice([0.0, random.normal(0, 8), random.uniform(-change.roll, change.roll)], p=[0.2, 0.3, 0.5])
        image = scene.image
        if scale < 0.75:  # averaged first, so that nothing aliases
            shape = max(1, round(width * scale)), max(1, round(height * scale))
            image = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
        before = np.array([image.shape[1] / width, image.shape[0] / height])
        mirror = -1.0 if random.random() < 0.5 else 1.0
        after = np.array([width, height]) - centre
        before_it, behind = (after, centre) if mirror < 0 else (centre, after)
        reach = np.stack(
            [size - scale * np.where([True, False], behind, after), scale * np.where([True, False], before_it, centre)]
        )
        at = random.uniform(0.1, 0.9, 2) * size
        at = np.where(reach[0] <= reach[1], at.clip(*reach), at)  # the crop inside the image, where it is large enough
        c, s = np.cos(np.radians(roll)), np.sin(np.radians(roll))
        turn = scale * np.array([[c, -s], [s, c]]) @ np.diag([mirror, 1.0])  # of the scene's pixels
        shift = at - turn @ centre
        matrix = np.column_stack([turn / before, shift + 0.5 * (turn / before).sum(1) - 0.5])  # pixel centres
        crop = self._ground(random)
        border = cv2.BORDER_REPLICATE if random.random() < 0.35 else cv2.BORDER_TRANSPARENT
        cv2.warpAffine(image, matrix, (size, size), dst=crop, flags=cv2.INTER_LINEAR, borderMode=border)
        centres = (scene.boxes[:, :2] + scene.boxes[:, 2:] / 2) @ turn.T + shift
        half = scene.boxes[:, 2:] * scale / 2  # of an ellipse, whose turned bounding box this is
        halves = np.hypot(half * c, half[:, ::-1] * s)
        boxes = np.column_stack([centres - halves, 2 * halves]).astype(np.float32)
        landmarks = (scene.landmarks @ turn.T + shift).astype(np.float32)
        if mirror < 0:
            landmarks = landmarks[:, MIRRORED]
        low, high = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, :2] + boxes[:, 2:], size)
        seen = np.maximum(high - low, 0).prod(1) / np.maximum(boxes[:, 2:].prod(1), 1e-6)
        small = np.sqrt(boxes[:, 2:].prod(1)) < SMALLEST
        inside = seen > 0
        ignored = scene.ignored | small | (seen < 0.5)
        return Scene(crop, boxes[inside], landmarks[inside], ignored[inside], scene.complete), float(roll)

    def _ground(self, random: np.random.Generator) -> UInt8[np.ndarray, "size size 3"]:
        """What lies around a scene that is smaller than its crop: one colour, or a part of a scene without faces."""
        if not self._backgrounds or random.random() < 0.4:
            return np.full((self.size, self.size, 3), _colour(random), np.uint8)
        image = self._backgrounds[random.integers(len(self._backgrounds))].image
        part = random.uniform(0.3, 1.0) * min(image.shape[:2])
        top, left = (int(random.uniform(0, length - part)) for length in image.shape[:2])
        part = max(1, int(part))
        return cv2.resize(image[top : top + part, left : left + part], (self.size, self.size))

    def _changed(self, scene: Scene, random: np.random.Generator) -> Scene:
        change = self._change
        image: np.ndarray = scene.image.copy()
        for box, points, ignored in zip(scene.boxes, scene.landmarks, scene.ignored, strict=True):
            if not ignored and box[2:].min() >= 12 and random.random() < change.cover:
                _cover(image, box, points, random)
        if random.random() < change.decoys:
            _draw_decoys(image, scene.boxes, random)
        if random.random() < change.blur:
            image = _blurred(image, random)
        if random.random() < change.grey:
            image = _saturated(image, 0.0)
        elif random.random() < change.tint:
            image = _saturated(image, random.uniform(0.4, 1.4))
        image = cv2.LUT(image, self._tones(random))
        if random.random() < change.noise:
            noise = random.standard_normal((*image.shape[:2], random.choice([1, 3])), np.float32)
            image = np.rint(image + noise * np.float32(random.uniform(2, 20))).clip(0, 255).astype(np.uint8)
        if random.random() < change.jpeg:
            quality = int(random.integers(15, 70))
            encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
        return Scene(image, scene.boxes, scene.landmarks, scene.ignored, scene.complete)

    def _tones(self, random: np.random.Generator) -> UInt8[np.ndarray, "1 256 3"]:
        """What becomes of each value of each colour: other contrast, brightness and light, darkness."""
        change = self._change
        contrast, brightness = random.uniform(0.6, 1.3), random.uniform(-30, 30)
        values = np.tile(((np.arange(256) - 128) * contrast + 128 + brightness)[:, None], 3)
        if random.random() < change.tint:
            values *= random.uniform(0.8, 1.2, 3)
        if random.random() < change.darken:
            gamma, gain = random.uniform(1.0, 2.5), random.uniform(0.15, 0.8)
            values = 255 * gain * (values.clip(0, 255) / 255) ** gamma
        return np.rint(values).clip(0, 255).astype(np.uint8)[None]


def _is_portrait(scene: Scene) -> bool:
    return len(scene.boxes) == 1 and bool(np.isfinite(scene.landmarks).all())


def _colour(random: np.random.Generator) -> tuple[int, int, int]:
    """Grey, skin or anything, as often."""
    kind = random.integers(3)
    if kind == 0:
        return (int(random.integers(0, 256)),) * 3
    if kind == 1:
        light = random.uniform(0.25, 1.0)
        return int(165 * light), int(190 * light), int(240 * light)
    blue, green, red = (int(value) for value in random.integers(0, 256, 3))
    return blue, green, red


def _saturated(image: np.ndarray, saturation: float) -> np.ndarray:
    """Brings colours nearer to grey, or farther from it where ``saturation`` is above 1."""
    grey = np.array([0.114, 0.587, 0.299])
    return np.asarray(cv2.transform(image, saturation * np.eye(3) + (1 - saturation) * grey))


def _nobody() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, bool)


def _cover(image: np.ndarray, box: Float[np.ndarray, " 4"], points: np.ndarray, random: np.random.Generator) -> None:
    """Covers a part of a face: all below the nose, as a mask does, or a rectangle somewhere."""
    x, y, w, h = (float(value) for value in box)
    shade = _colour(random)
    if random.random() < 0.5 and np.isfinite(points).all():
        eyes, nose, mouth = points[:2].mean(0), points[2], points[3:].mean(0)
        down = mouth - eyes
        across = np.array([down[1], -down[0]]) * random.uniform(0.7, 1.0)
        top = nose - 0.1 * down * random.uniform(0, 2)
        low = mouth + down * random.uniform(0.6, 0.9)
        outline = np.array([top - across, top, top + across, low + 0.5 * across, low - 0.5 * across])
        cv2.fillPoly(image, [np.rint(outline).astype(np.int32)], shade)
        return
    width, height = w * random.uniform(0.2, 0.6), h * random.uniform(0.15, 0.5)
    left, top_edge = x + random.uniform(0, 1) * (w - width), y + random.uniform(0, 1) * (h - height)
    corners = [round(v) for v in (left, top_edge, left + width, top_edge + height)]
    if random.random() < 0.5:
        cv2.rectangle(image, corners[:2], corners[2:], shade, cv2.FILLED)
    else:
        middle = (corners[0] + corners[2]) // 2, (corners[1] + corners[3]) // 2
        axes = max(1, int(width / 2)), max(1, int(height / 2))
        cv2.ellipse(image, middle, axes, float(random.uniform(0, 180)), 0, 360, shade, cv2.FILLED)


def _draw_decoys(image: np.ndarray, boxes: Float[np.ndarray, "faces 4"], random: np.random.Generator) -> None:
    """Draws one to five letters, rings, wheels or spirals where no face is."""
    size = image.shape[0]
    for _ in range(random.integers(1, 6)):
        side = float(np.exp(random.uniform(np.log(12), np.log(size / 2.5))))
        x, y = random.uniform(-side / 3, size - side / 2, 2)
        low, high = np.maximum(boxes[:, :2], [x, y]), np.minimum(boxes[:, :2] + boxes[:, 2:], [x + side, y + side])
        if (high > low).all(1).any():
            continue
        shade, thickness = _colour(random), max(1, round(side * random.uniform(0.03, 0.2)))
        middle = round(x + side / 2), round(y + side / 2)
        radii = max(2, int(side * random.uniform(0.25, 0.45))), max(2, int(side * random.uniform(0.3, 0.5)))
        turn = float(random.uniform(0, 360))
        kind = random.integers(4)
        if random.random() < 0.5:  # on a ground of its own
            cv2.ellipse(image, middle, radii, turn, 0, 360, _colour(random), cv2.FILLED)
        if kind == 0:
            letter = str(random.choice(list("OQDGCSPRBaego0689356&@")))
            font = int(random.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_DUPLEX]))
            corner = round(x + side * 0.1), round(y + side * 0.9)
            cv2.putText(image, letter, corner, font, side / 26, shade, thickness, cv2.LINE_AA)
        elif kind == 1:
            cv2.ellipse(image, middle, radii, turn, 0, 360, shade, thickness, cv2.LINE_AA)
            if random.random() < 0.5:
                inner = max(1, radii[0] // 3), max(1, radii[1] // 3)
                cv2.ellipse(image, middle, inner, turn, 0, 360, _colour(random), cv2.FILLED)
        else:
            angle = np.linspace(0, 2 * np.pi * random.uniform(2, 4), 80)
            if kind == 2:
                radius = side / 2 * angle / angle[-1]
                points = np.column_stack([np.cos(angle), np.sin(angle)]) * radius[:, None] + middle
                cv2.polylines(image, [np.rint(points).astype(np.int32)], False, shade, max(1, thickness // 2))
            else:
                cv2.ellipse(image, middle, (radii[1], radii[1]), 0, 0, 360, shade, thickness, cv2.LINE_AA)
                for spoke in np.linspace(0, 2 * np.pi, int(random.integers(5, 16)), endpoint=False) + turn:
                    end = middle[0] + radii[1] * np.cos(spoke), middle[1] + radii[1] * np.sin(spoke)
                    cv2.line(image, middle, (round(end[0]), round(end[1])), shade, max(1, thickness // 3))


def _blurred(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    kind = random.integers(3)
    if kind == 0:
        return cv2.GaussianBlur(image, (0, 0), random.uniform(0.4, 2.0))
    if kind == 1:
        factor = random.uniform(0.2, 0.8)
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    length = int(random.integers(3, 8))
    angle = random.uniform(0, np.pi)
    kernel = np.zeros((length, length), np.float32)
    middle = (length - 1) / 2
    end = np.array([np.cos(angle), np.sin(angle)]) * middle
    a, b = (tuple(np.rint(middle + sign * end).astype(int).tolist()) for sign in (-1, 1))
    cv2.line(kernel, a, b, 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum())
