"""Saliency of each face on the picture, as an overlay of the live loop; what computes it is given by the caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from faceflax.errors import unknown
from faceflax.faces.crop import crop_face, square_around
from faceflax.faces.face import Face
from faceflax.labels import EMOTIONS
from faceflax.media.drawing import draw_faces, draw_label
from faceflax.opencv import cv2
from faceflax.preprocessing import normalize

Image = UInt8[np.ndarray, "height width 3"]
Explain = Callable[
    [Float32[np.ndarray, "faces size size 1"], Int32[np.ndarray, " faces"]],
    tuple[object, Float32[np.ndarray, "faces size size 1"]],
]
"""From faces as the network takes them, and the emotion to explain in each (an index of ``EMOTIONS``), to logits or
whatever else, which is not used, and a signed map of each face: as ``interpret.explainer`` makes it."""

MODES: tuple[str, ...] = ("labels", "beside", "over", "plain")
"""What is shown: boxes and labels; also a map beside each face; also a map over each face; or the frame as it is."""

CURRENT = "current"

_PERCENTILE = 99.5  # of the magnitudes is where a map's colours end, as in the toolkit's figures
_GREY = (70, 70, 70)
# Blue, white, red, as BGR.
_COLORS = (255 * matplotlib.colormaps["RdBu_r"](np.arange(256))[:, None, 2::-1]).astype(np.uint8)


class SaliencyOverlay:
    """Draws boxes and labels and, beside or over each face, what its emotion is read from.

    Where a map is red, a brighter pixel raises the score of the emotion; where it is blue, a darker one does. Each map
    has its own scale.

    Args:
        explain: computes the maps, for all faces of a frame at once.
        margin: of the crops, as a share of the box's side on each side.
        size: of the crops, in pixels.
        mode: one of :data:`MODES`.
        emotion: what is explained: one of ``EMOTIONS``, or :data:`CURRENT` for what each face shows.

    Raises:
        FaceflaxError: an unknown mode or emotion.
    """

    def __init__(
        self, explain: Explain, margin: float, size: int, *, mode: str = "beside", emotion: str = CURRENT
    ) -> None:
        if mode not in MODES:
            raise unknown("mode", mode, MODES)
        if emotion not in (CURRENT, *EMOTIONS):
            raise unknown("emotion", emotion, (CURRENT, *EMOTIONS))
        self.mode = mode
        self.emotion = emotion
        self._explain = explain
        self._margin = margin
        self._size = size

    def next_mode(self) -> str:
        """Goes on to the next of :data:`MODES` and returns its name."""
        self.mode = MODES[(MODES.index(self.mode) + 1) % len(MODES)]
        return self.mode

    def next_emotion(self) -> str:
        """Goes on to explain the next emotion and returns its name."""
        names = (CURRENT, *EMOTIONS)
        self.emotion = names[(names.index(self.emotion) + 1) % len(names)]
        return self.emotion

    def __call__(self, image: Image, faces: Sequence[Face]) -> Image:
        """Returns a copy of the frame with everything drawn.

        Args:
            image: uint8 ``[height, width, 3]`` BGR.
            faces: what was found in it.
        """
        mode, emotion = self.mode, self.emotion  # keys may change them meanwhile
        if mode == "plain":
            return image.copy()
        if mode == "labels" or not faces:
            return draw_faces(image, faces)
        targets = [face.emotion if emotion == CURRENT else emotion for face in faces]
        maps = self._maps(image, faces, targets)
        picture = image.copy()
        for face, target, signed in zip(faces, targets, maps, strict=True):
            square = square_around(face.box, self._margin)
            if mode == "over":
                blend_map(picture, square, signed)
            else:
                place = beside(square, picture.shape[1])
                paste_map(picture, place, signed)
                draw_label(picture, [target], (*place[:2], place[2], place[2]), _GREY)
        return draw_faces(picture, faces)

    def _maps(
        self, image: Image, faces: Sequence[Face], targets: Sequence[str]
    ) -> Float32[np.ndarray, "faces size size"]:
        """The faces' maps, each scaled to [-1, 1]."""
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        crops = np.stack([crop_face(grey, face.box, self._margin, self._size) for face in faces])
        indices = np.array([EMOTIONS.index(target) for target in targets], np.int32)
        maps = self._explain(normalize(crops[..., None]), indices)[1][..., 0]
        limits = np.percentile(np.abs(maps), _PERCENTILE, axis=(1, 2), keepdims=True)
        return (maps / np.maximum(limits, 1e-12)).clip(-1, 1).astype(np.float32)


Square = tuple[int, int, int]
"""x, y and side in pixels; it may reach beyond the frame."""


def beside(square: Square, width: int) -> Square:
    """Returns a square of the same size to the right of ``square``, or to its left where there is more room.

    Example:
        >>> beside((10, 0, 30), width=100), beside((65, 0, 30), width=100)
        ((40, 0, 30), (35, 0, 30))
    """
    x, y, side = square
    return (x + side if x + 2 * side <= width or width - x - side >= x else x - side), y, side


def paste_map(image: Image, square: Square, signed: Float32[np.ndarray, "size size"]) -> None:
    """Puts a map in [-1, 1] into a square of ``image`` itself, blue for -1, white for 0 and red for 1."""
    part = _part(image, square, signed)
    if part is not None:
        pixels, values = part
        pixels[:] = _colors(values)


def blend_map(image: Image, square: Square, signed: Float32[np.ndarray, "size size"]) -> None:
    """Lays a map in [-1, 1] over a square of ``image`` itself, the more opaque the farther from 0."""
    part = _part(image, square, signed)
    if part is not None:
        pixels, values = part
        opacity = 0.85 * np.abs(values)
        pixels[:] = cv2.blendLinear(np.ascontiguousarray(pixels), _colors(np.sign(values) * 0.8), 1 - opacity, opacity)


def _part(
    image: Image, square: Square, signed: Float32[np.ndarray, "size size"]
) -> tuple[Image, Float32[np.ndarray, "height width"]] | None:
    """The pixels of the square that are inside the image, and the map's values there; None if there are none."""
    x, y, side = square
    height, width = image.shape[:2]
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
    if left >= right or top >= bottom:
        return None
    values = cv2.resize(signed, (side, side), interpolation=cv2.INTER_LINEAR)
    return image[top:bottom, left:right], values[top - y : bottom - y, left - x : right - x]


def _colors(values: Float32[np.ndarray, "height width"]) -> Image:
    return cv2.applyColorMap((127.5 * values + 127.5).astype(np.uint8), _COLORS)
