"""Synthetic faces, procedurally rendered, with known ground truth: which class, and which pixels carry the expression.

They make training, tests and attribution checks run with no download. The seven expressions follow facial-action rules
(Ekman and Friesen, "Facial Action Coding System", 1978). The two gender classes are a drawing convention and no
statement about people: hair length, jaw, neck and beard shadow are drawn from ranges that depend on the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8
from tqdm import tqdm

from faceflax.errors import FaceflaxError
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.opencv import cv2

Points = Float[np.ndarray, "n 2"]

SUPERSAMPLING = 4
FRACTION_BITS = 4  # of a pixel, in the coordinates that OpenCV draws at

ACTIONS = (
    "inner_brow",  # raised (AU 1) or, negative, lowered
    "outer_brow",  # raised (AU 2) or lowered
    "frown",  # brows drawn together, with a furrow (AU 4)
    "eye_opening",  # upper lid raised (AU 5) or lowered
    "lid_tightener",  # lower lid raised (AU 6, 7)
    "nose_wrinkler",  # AU 9
    "upper_lip",  # raised (AU 10)
    "lip_corners",  # pulled up (AU 12) or down (AU 15)
    "mouth_width",  # stretched (AU 20) or narrowed (AU 18)
    "lip_pressor",  # AU 24
    "jaw_drop",  # AU 25, 26
)
EXPRESSIONS = {
    "angry": (-0.9, 0.1, 1.0, -0.2, 0.6, 0.2, 0.0, -0.3, -0.2, 0.9, 0.0),
    "disgust": (-0.5, -0.4, 0.5, -0.3, 0.7, 1.0, 1.0, -0.5, -0.1, 0.0, 0.15),
    "fear": (0.9, 0.3, 0.6, 0.9, 0.0, 0.0, 0.1, -0.3, 0.8, 0.0, 0.35),
    "happy": (0.1, 0.1, 0.0, -0.1, 0.6, 0.0, 0.1, 1.0, 0.6, 0.0, 0.3),
    "sad": (0.9, -0.6, 0.5, -0.5, 0.0, 0.0, 0.0, -1.0, -0.1, 0.1, 0.0),
    "surprise": (0.9, 0.9, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0, -0.5, 0.0, 1.0),
    "neutral": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}


@dataclass(frozen=True)
class SyntheticFaces:
    """Synthetic faces and all that is known of them.

    Attributes:
        images: grey faces.
        emotions: indices in `faceflax.labels.EMOTIONS`.
        genders: indices in `faceflax.labels.GENDERS`.
        expression_masks: the pixels that carry the expression: brows, eyes, mouth and the skin's folds.
    """

    images: UInt8[np.ndarray, "n size size 1"]
    emotions: Int32[np.ndarray, " n"]
    genders: Int32[np.ndarray, " n"]
    expression_masks: Bool[np.ndarray, "n size size"]


def render_faces(count: int, seed: int, image_size: int = 64) -> SyntheticFaces:
    """Renders ``count`` faces with random labels; face ``i`` of a seed is the same whatever the count.

    Every 14 faces in a row hold each pair of emotion and gender once, in random order, so that the labels are balanced
    and independent of each other and of everything else in the image.

    Args:
        count: number of faces.
        seed: 0 or more; the same seed gives the same faces.
        image_size: pixels a side, 32 or more.

    Raises:
        FaceflaxError: an argument is out of range.

    Example:
        >>> faces = render_faces(count=14, seed=0)
        >>> faces.images.shape, np.bincount(faces.emotions), np.bincount(faces.genders)
        ((14, 64, 64, 1), array([2, 2, 2, 2, 2, 2, 2]), array([7, 7]))
    """
    if count < 1:
        raise FaceflaxError("count", count, "is too small", "give 1 or more")
    _check_seed(seed)
    pairs = len(EMOTIONS) * len(GENDERS)
    blocks = [np.random.default_rng([seed, block]).permutation(pairs) for block in range(-(-count // pairs))]
    emotions, genders = np.divmod(np.concatenate(blocks)[:count].astype(np.int32), len(GENDERS))
    # The third number keeps a face's draws apart from those of the block with the same index.
    faces = [
        render_face([seed, index, 1], int(emotions[index]), int(genders[index]), image_size)
        for index in tqdm(range(count), desc="rendering faces", unit=" faces", delay=2, leave=False)
    ]
    images, masks = zip(*faces, strict=True)
    return SyntheticFaces(np.stack(images)[..., None], emotions, genders, np.stack(masks))


def render_face(
    seed: int | Sequence[int], emotion: int, gender: int, image_size: int = 64
) -> tuple[UInt8[np.ndarray, "size size"], Bool[np.ndarray, "size size"]]:
    """Renders one face: its image, and the mask of the pixels that carry its expression.

    Identity, pose, light and noise depend on ``seed`` and ``gender`` alone. Two expressions of one seed and gender
    therefore differ only within the union of their masks: a mask holds every pixel that drawing the expression changed,
    and a margin of 2 pixels in 64.

    Args:
        seed: 0 or more, or several such numbers.
        emotion: index in `faceflax.labels.EMOTIONS`.
        gender: index in `faceflax.labels.GENDERS`.
        image_size: pixels a side, 32 or more.

    Raises:
        FaceflaxError: an argument is out of range.

    Example:
        >>> happy, happy_mask = render_face(seed=0, emotion=3, gender=0)
        >>> sad, sad_mask = render_face(seed=0, emotion=4, gender=0)
        >>> bool((happy != sad)[~(happy_mask | sad_mask)].any())
        False
    """
    _check_seed(seed)
    if not 0 <= emotion < len(EMOTIONS):
        raise FaceflaxError("emotion", emotion, f"is not an index of the {len(EMOTIONS)} emotions", "give 0 to 6")
    if not 0 <= gender < len(GENDERS):
        raise FaceflaxError("gender", gender, f"is not an index of the {len(GENDERS)} classes", "give 0 or 1")
    if image_size < 32:
        raise FaceflaxError("image_size", image_size, "is too small", "give 32 or more")
    identity_rng, expression_rng, noise_rng = np.random.default_rng(seed).spawn(3)
    face = _Identity(identity_rng, man=GENDERS[gender] == "man")
    canvas = _Canvas(_background(identity_rng, image_size * SUPERSAMPLING), face.pose(image_size))
    _draw_head(canvas, face)
    bare = canvas.reduced()
    _draw_expression(canvas, face, _actions(expression_rng, EMOTIONS[emotion]))
    image = canvas.reduced()
    margin = 2 * round(image_size / 32) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (margin, margin))
    mask = cv2.dilate((image != bare).astype(np.uint8), disc).astype(bool)
    noise = noise_rng.uniform(1, 5) * noise_rng.standard_normal(image.shape, np.float32)
    return np.clip(np.rint(image * _light(face, image_size) + noise), 0, 255).astype(np.uint8), mask


def _check_seed(seed: int | Sequence[int]) -> None:
    if np.min(seed) < 0:
        raise FaceflaxError("seed", seed, "is negative", "give 0 or more")


class _Identity:
    """All that is drawn of a face but its expression. Lengths are shares of the image's side, x right, y down."""

    def __init__(self, rng: np.random.Generator, man: bool) -> None:
        uniform, choose = rng.uniform, rng.random
        # The cues of the class; each takes as many draws for both, so that all else stays the same.
        self.long_hair = choose() < (0.05 if man else 0.85)
        self.hair_length = uniform(0.3, 0.6)
        self.hair_volume = uniform((1.03, 1.08), (1.08, 1.2)) if man else uniform((1.12, 1.1), (1.25, 1.2))
        self.jaw_taper = uniform(0.12, 0.28) if man else uniform(0.32, 0.45)
        self.neck = uniform(0.16, 0.2) if man else uniform(0.11, 0.14)
        self.beard = uniform(0, 0.45 if man else 0)
        self.hairline = uniform(0.6, 0.85) if man else uniform(0.52, 0.8)
        # Everything else is drawn alike for both.
        self.skin = uniform(105, 205)
        self.hair = np.clip(uniform(15, 130) if choose() < 0.8 else uniform(130, 210), 0, self.skin * 0.75)
        self.clothes = uniform(20, 220)
        self.dark = self.skin * uniform(0.3, 0.45)
        self.lips = self.skin * uniform(0.6, 0.78)
        self.brow = min(self.hair * 0.8, self.skin * 0.45)
        self.iris = uniform(25, 90)
        self.part = uniform(-0.7, 0.7)
        self.temples = uniform(3, 7)
        self.width, self.height = uniform(0.25, 0.285), uniform(0.36, 0.4)
        self.eye_x, self.eye_y = uniform(0.115, 0.135), uniform(-0.05, -0.03)
        self.eye_width = uniform(0.062, 0.074)
        self.brow_y, self.brow_thickness, self.arch = uniform(-0.135, -0.115), uniform(0.013, 0.026), uniform(0, 0.018)
        self.nose_y, self.nose_width = uniform(0.075, 0.1), uniform(0.035, 0.05)
        self.mouth_y, self.mouth_width = uniform(0.18, 0.2), uniform(0.09, 0.115)
        self.lip = uniform(0.018, 0.03)
        # A small turn of the head moves the features, and the nose half as much again.
        self.turn = np.array([uniform(-0.025, 0.025), uniform(-0.015, 0.015)])
        self.scale, self.angle = uniform(1.0, 1.18), np.deg2rad(uniform(-12, 12))
        self.shift = uniform((-0.04, -0.02), (0.04, 0.06))
        self.light = uniform(-0.7, 0.7, 2)
        self.relief = uniform(0.15, 0.4)

    def pose(self, image_size: int) -> Float[np.ndarray, "2 3"]:
        """The map from face coordinates to pixel coordinates (counted from the image's corner)."""
        cos, sin = self.scale * np.cos(self.angle), self.scale * np.sin(self.angle)
        x, y = self.shift + 0.5
        return image_size * np.array([[cos, -sin, x], [sin, cos, y]])

    def outline(self) -> Points:
        """The head's outline, clockwise from the image's right, narrowing towards the chin."""
        angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        x, y = np.cos(angle), np.sin(angle)
        x = x * (1 - self.jaw_taper * np.maximum(y, 0) ** 2) * (1 + 0.12 * np.sin(2 * angle) ** 2)
        return np.stack([self.width * x, self.height * y], -1)


class _Canvas:
    """A supersampled grey image to draw on in face coordinates."""

    def __init__(self, pixels: UInt8[np.ndarray, "height width"], pose: Float[np.ndarray, "2 3"]) -> None:
        self.pixels = pixels
        self.pose = pose

    def fill(self, points: Points, luma: float) -> None:
        """Fills a polygon."""
        cv2.fillPoly(self.pixels, [self._place(points)], int(luma), cv2.LINE_AA, FRACTION_BITS)

    def line(self, points: Points, luma: float, width: float) -> None:
        """Draws an open line ``width`` thick."""
        thickness = max(1, round(width * len(self.pixels)))
        cv2.polylines(self.pixels, [self._place(points)], False, int(luma), thickness, cv2.LINE_AA, FRACTION_BITS)

    def fold(self, points: Points, strength: float, skin: float) -> None:
        """Draws a fold of the skin, the darker the stronger; a weak one does not show."""
        if strength > 0.15:
            self.line(points, skin * (1 - 0.4 * min(strength, 1.0)), 0.009)

    def reduced(self) -> UInt8[np.ndarray, "size size"]:
        """The image at its final size."""
        side = len(self.pixels) // SUPERSAMPLING
        return cv2.resize(self.pixels, (side, side), interpolation=cv2.INTER_AREA)

    def _place(self, points: Points) -> Int32[np.ndarray, "n 2"]:
        # OpenCV counts from the first pixel's centre, in fractions of a pixel.
        pixels = SUPERSAMPLING * (points @ self.pose[:, :2].T + self.pose[:, 2]) - 0.5
        return np.rint(pixels * 2**FRACTION_BITS).astype(np.int32)


def _ellipse(x: float, y: float, width: float, height: float) -> Points:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], -1)


def _background(rng: np.random.Generator, side: int) -> UInt8[np.ndarray, "side side"]:
    """A gradient between two random tones with soft blotches."""
    corners = rng.uniform(30, 225) + rng.uniform(-40, 40, (2, 2))
    blotches = cv2.resize(rng.normal(0, 12, (6, 6)), (16, 16), interpolation=cv2.INTER_CUBIC)
    coarse = cv2.resize(corners, (16, 16)) + blotches
    return cv2.resize(np.clip(coarse, 0, 255).astype(np.uint8), (side, side), interpolation=cv2.INTER_LINEAR)


def _draw_head(canvas: _Canvas, face: _Identity) -> None:
    """Draws all that does not depend on the expression."""
    outline = face.outline()
    crown = outline[len(outline) // 2 :] * face.hair_volume  # from the image's left over the top to its right
    side = crown[-1, 0]
    if face.long_hair:
        ends = np.array([[1.05, 0.6], [1.0, 0.92], [0.8, 1], [-0.8, 1], [-1.0, 0.92], [-1.05, 0.6]])
        canvas.fill(np.concatenate([crown, ends * (side, face.hair_length)]), face.hair * 0.8)
    canvas.fill(_ellipse(0, 0.72, 0.5, 0.28), face.clothes)
    neck = np.array([[-1, 0.2], [1, 0.2], [1.1, 0.5], [-1.1, 0.5]]) * (face.neck, 1)
    canvas.fill(neck, face.skin * 0.72)
    for ear in (-face.width, face.width):
        canvas.fill(_ellipse(ear, face.eye_y + 0.04, 0.035, 0.065), face.skin * 0.85)
    canvas.fill(outline, face.skin)
    # The hair in front lies between the crown and a hairline, which is highest at the parting.
    x = np.linspace(-1, 1, len(crown))
    drop = np.abs((x - face.part) / (1 + np.sign(x - face.part) * -face.part)) ** face.temples
    hairline = np.stack([0.97 * side * x, -face.height * face.hairline * (1 - drop) + 0.03 * drop], -1)
    if face.long_hair:
        hairline[[0, -1], 1] = 0.8 * face.hair_length
    canvas.fill(np.concatenate([crown, hairline[::-1]]), face.hair)
    for root, end in zip(hairline[2:-2:2], crown[2:-2:2], strict=True):
        canvas.line(np.stack([0.9 * root + 0.1 * end, 0.1 * root + 0.9 * end]), face.hair * 1.08 + 4, 0.006)
    tip = np.array([0, face.nose_y]) + 1.5 * face.turn
    for half in (-face.nose_width, face.nose_width):
        canvas.fill(_ellipse(tip[0] + 0.45 * half, tip[1], 0.013, 0.008), face.dark)
        wing = tip + np.array([[0.85, -0.03], [1.05, -0.012], [0.9, 0.005]]) * (half, 1)
        canvas.line(wing, face.skin * 0.7, 0.008)


def _actions(rng: np.random.Generator, emotion: str) -> dict[str, float]:
    """The strength of each facial action: the expression's own, at a random intensity, with random deviations."""
    intensity = rng.uniform(0.45, 1.15)
    values = intensity * np.array(EXPRESSIONS[emotion]) + rng.normal(0, 0.12, len(ACTIONS))
    return dict(zip(ACTIONS, values.tolist(), strict=True))


def _draw_expression(canvas: _Canvas, face: _Identity, actions: dict[str, float]) -> None:
    _draw_folds(canvas, face, actions)
    for side in (-1, 1):
        _draw_eye(canvas, face, side, actions)
        _draw_brow(canvas, face, side, actions)
    _draw_mouth(canvas, face, actions)


def _draw_eye(canvas: _Canvas, face: _Identity, side: int, actions: dict[str, float]) -> None:
    centre = np.array([side * face.eye_x, face.eye_y]) + face.turn
    top = -0.036 * max(1 + 0.6 * actions["eye_opening"], 0.15)
    bottom = 0.024 * max(1 - 0.8 * actions["lid_tightener"] + 0.3 * actions["eye_opening"], 0.0)
    t = np.linspace(-1, 1, 13)
    upper = centre + np.stack([face.eye_width * t, top * (1 - t**2)], -1)
    lower = centre + np.stack([face.eye_width * t, bottom * (1 - t**2)], -1)
    canvas.fill(np.concatenate([upper, lower[::-1]]), min(face.skin * 0.6 + 110, 240))
    for radius, luma in ((0.03, face.iris), (0.014, 10)):
        disc = _ellipse(0, -0.004, radius, radius)
        bow = 1 - (disc[:, 0] / face.eye_width) ** 2
        disc[:, 1] = np.clip(disc[:, 1], top * bow, bottom * bow)  # the lids hide the rest
        canvas.fill(centre + disc, luma)
    canvas.line(upper, face.dark * 0.6, 0.013)
    canvas.line(lower, face.skin * 0.65, 0.006)
    # A raised cheek folds the skin below the eye.
    canvas.fold(lower[3:-3] + np.array([0, 0.02]), actions["lid_tightener"], face.skin)


def _draw_brow(canvas: _Canvas, face: _Identity, side: int, actions: dict[str, float]) -> None:
    t = np.linspace(0, 1, 9)  # from the nose outwards
    x = face.eye_x + 0.078 * (2 * t - 1) - 0.022 * actions["frown"] * (1 - t)
    raised = 0.045 * (actions["inner_brow"] * (1 - t) ** 1.5 + actions["outer_brow"] * t)
    y = face.brow_y - raised - face.arch * np.sin(np.pi * t) + 0.012 * actions["frown"] * (1 - t)
    middle = np.stack([side * x, y], -1) + face.turn
    half = np.stack([np.zeros_like(t), 0.5 * face.brow_thickness * (1 - 0.75 * t**2)], -1)
    canvas.fill(np.concatenate([middle - half, (middle + half)[::-1]]), face.brow)


def _draw_folds(canvas: _Canvas, face: _Identity, actions: dict[str, float]) -> None:
    """The furrow between the brows, the wrinkles across the nose, and the folds from nose to mouth."""
    bridge = np.array([0, face.eye_y]) + 1.2 * face.turn
    across = np.linspace(-1, 1, 5)
    wrinkle = np.stack([0.03 * across, 0.012 * across**2], -1)
    for level in (-0.025, -0.002, 0.021):
        canvas.fold(bridge + wrinkle + (0, level), actions["nose_wrinkler"], face.skin)
    furrow = np.array([[0.02, -0.085], [0.016, -0.05]])
    wing = np.array([face.nose_width + 0.02, face.nose_y - 0.01])
    corner = np.array([face.mouth_width + 0.035, face.mouth_y - 0.025])
    cheek = np.stack([wing, 0.5 * (wing + corner) + (0.012, -0.008), corner])
    for side in (-1, 1):
        canvas.fold(bridge + furrow * (side, 1), actions["frown"], face.skin)
        canvas.fold(face.turn + cheek * (side, 1), max(0.8 * actions["lip_corners"], actions["upper_lip"]), face.skin)


def _draw_mouth(canvas: _Canvas, face: _Identity, actions: dict[str, float]) -> None:
    t = np.linspace(-1, 1, 17)
    bow = 1 - t**2
    width = face.mouth_width * (1 + 0.3 * actions["mouth_width"])
    jaw = 0.11 * max(actions["jaw_drop"], 0.0)
    raised = 0.025 * max(actions["upper_lip"], 0.0)
    thickness = face.lip * float(np.clip(1 - 0.7 * actions["lip_pressor"], 0.15, 1.3))
    corners = face.mouth_y - 0.04 * actions["lip_corners"] + 0.3 * jaw
    middle = face.mouth_y + 0.015 * actions["lip_corners"] - raised
    x = width * t
    upper = corners + (middle - corners) * bow
    lower = upper + (jaw + 0.6 * raised) * np.sqrt(bow)
    top = upper - thickness * bow * (0.75 + 0.5 * t**2)  # thinner in the middle, under the nose
    bottom = lower + 1.15 * thickness * bow

    def between(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"]) -> Points:
        return np.concatenate([np.stack([x, first], -1), np.stack([x, second], -1)[::-1]]) + face.turn

    canvas.fill(between(top, bottom), face.lips)
    canvas.fill(between(upper, lower), face.dark * 0.5)
    canvas.fill(between(upper, np.minimum(lower, upper + 0.024 * bow)), min(face.skin * 0.4 + 130, 235))  # teeth
    canvas.line(between(upper, lower)[: len(t)], face.dark * 0.8, 0.008)


def _light(face: _Identity, size: int) -> Float[np.ndarray, "size size"]:
    """The shading: light from one side, the head's roundness, the nose, the eye sockets and a beard's shadow."""
    pose = face.pose(size)
    inverse = np.linalg.inv(pose[:, :2]).astype(np.float32)
    rows, columns = np.mgrid[:size, :size].astype(np.float32) + np.float32(0.5)
    columns, rows = columns - np.float32(pose[0, 2]), rows - np.float32(pose[1, 2])
    x, y = inverse[0, 0] * columns + inverse[0, 1] * rows, inverse[1, 0] * columns + inverse[1, 1] * rows

    def spot(centre_x: float, centre_y: float, width: float, height: float) -> Float[np.ndarray, "size size"]:
        return np.exp(-(((x - centre_x) / width) ** 2) - ((y - centre_y) / height) ** 2)

    radius = (x / face.width) ** 2 + (y / face.height) ** 2
    eyes, nose = face.turn + np.array([0, face.eye_y]), 1.5 * face.turn
    light = 1.08 + face.light[0] * x + face.light[1] * y
    light *= 1 - face.relief * np.clip(radius, 0, 1) ** 2
    for side in (-1, 1):
        light *= 1 - 0.15 * spot(eyes[0] + side * face.eye_x, eyes[1] - 0.02, 0.07, 0.05)
        light *= 1 + 0.06 * spot(side * 0.15, 0.09, 0.06, 0.06)
    light *= 1 - 0.18 * spot(nose[0] - np.sign(face.light[0]) * 0.03, 0.02, 0.02, 0.08)
    light *= 1 + 0.12 * spot(nose[0], nose[1] + face.nose_y - 0.03, 0.02, 0.05)
    below_cheekbones = np.clip((y + 0.5 * np.abs(x) - 0.1) / 0.12, 0, 1) * np.clip((y + 0.02) / 0.08, 0, 1)
    light *= 1 - face.beard * below_cheekbones * np.clip((1.1 - radius) / 0.2, 0, 1)
    return light
