"""An overlay of the live loop that shows the saliency of each face; the caller gives what computes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float32, Int32

from faceflax.errors import unknown
from faceflax.faces.crop import square_around
from faceflax.faces.face import Face
from faceflax.faces.frame import Image
from faceflax.labels import EMOTIONS
from faceflax.media.drawing import draw_bars, draw_faces, draw_label
from faceflax.opencv import cv2
from faceflax.preprocessing import normalize

Explain = Callable[
    [Float32[np.ndarray, "faces size size 1"], Int32[np.ndarray, " faces"]],
    tuple[object, Float32[np.ndarray, "faces size size 1"]],
]
"""Takes faces as the network does, in [-1, 1], and the emotion to explain in each (an index of ``EMOTIONS``). Returns
logits, which are not used here, and a signed map of each face: ``interpret.explainer`` makes such a function."""

MODES: tuple[str, ...] = ("labels", "beside", "over", "plain")
"""What is shown: boxes and labels; also a map beside each face; also a map over each face; or the frame as it is."""

CURRENT = "current"

_PERCENTILE = 99.5  # of a map's magnitudes has the strongest colour, as in the figures of ``interpret``
_GREY = (70, 70, 70)
# Blue, white, red, as BGR.
_COLORS = (255 * matplotlib.colormaps["RdBu_r"](np.arange(256))[:, None, 2::-1]).astype(np.uint8)


class SaliencyOverlay:
    """Draws boxes and labels and, beside or over each face, the saliency map of its emotion.

    Where a map is red, a brighter pixel raises the score of the emotion; where it is blue, a darker one does. Each map
    has its own scale.

    Args:
        explain: computes the maps, for all faces of a frame at once.
        margin: of the crops, as a share of the box's side on each side. With the ``margin`` and ``size`` of the
            analyzer's emotion network the crops that it has cut already are used (:meth:`faceflax.Face.crop`).
        size: side of the crops, in pixels.
        mode: one of :data:`MODES`.
        emotion: the emotion to explain: one of ``EMOTIONS``, or :data:`CURRENT` for that of each face.
        bars: also show the probability of each emotion beside each face, on the side where no map is.

    Raises:
        FaceflaxError: an unknown mode or emotion.
    """

    def __init__(
        self,
        explain: Explain,
        margin: float,
        size: int,
        *,
        mode: str = "beside",
        emotion: str = CURRENT,
        bars: bool = False,
    ) -> None:
        if mode not in MODES:
            raise unknown("mode", mode, MODES)
        if emotion not in (CURRENT, *EMOTIONS):
            raise unknown("emotion", emotion, (CURRENT, *EMOTIONS))
        self.mode = mode
        self.emotion = emotion
        self.bars = bars
        self._explain = explain
        self._margin = margin
        self._size = size

    def next_mode(self) -> str:
        """Switches to the next of :data:`MODES` and returns its name."""
        self.mode = MODES[(MODES.index(self.mode) + 1) % len(MODES)]
        return self.mode

    def next_emotion(self) -> str:
        """Switches to the next emotion to explain and returns its name."""
        names = (CURRENT, *EMOTIONS)
        self.emotion = names[(names.index(self.emotion) + 1) % len(names)]
        return self.emotion

    def switch_bars(self) -> str:
        """Shows the bars, or no longer, and returns which."""
        self.bars = not self.bars
        return f"bars: {'on' if self.bars else 'off'}"

    def __call__(self, frame: Image, faces: Sequence[Face]) -> Image:
        """Returns a copy of the frame with everything drawn.

        Args:
            frame: uint8 ``[height, width, 3]`` BGR.
            faces: what was found in it.

        Raises:
            FaceflaxError: ``frame`` is not such an array.
        """
        mode, emotion, bars = self.mode, self.emotion, self.bars  # keys may change them meanwhile
        if mode == "plain":
            return frame.copy()
        if mode == "labels" or not faces:
            return self._labelled(frame.copy(), faces, bars)
        targets = [face.emotion if emotion == CURRENT else emotion for face in faces]
        maps = self._maps(frame, faces, targets)
        drawn = frame.copy()
        for face, target, signed in zip(faces, targets, maps, strict=True):
            square, roll = _place(face, self._margin)
            if mode == "over":
                blend_map(drawn, square, signed, roll)
            else:
                place = beside(square, drawn.shape[1])
                paste_map(drawn, place, signed)
                draw_label(drawn, [target], (*place[:2], place[2], place[2]), _GREY)
        return self._labelled(drawn, faces, bars, beside_map=mode == "beside")

    def _labelled(self, drawn: Image, faces: Sequence[Face], bars: bool, *, beside_map: bool = False) -> Image:
        drawn = draw_faces(drawn, faces)
        for face in faces if bars else ():
            square, _ = _place(face, self._margin)
            x, y, side = beside(square, drawn.shape[1])
            if beside_map:  # on the face's other side
                x = 2 * square[0] - x
            draw_bars(drawn, face, (x, y, side, side))
        return drawn

    def _maps(
        self, frame: Image, faces: Sequence[Face], targets: Sequence[str]
    ) -> Float32[np.ndarray, "faces size size"]:
        """The faces' maps, each scaled to [-1, 1]."""
        crops = np.stack([face.crop(frame, self._margin, self._size) for face in faces])
        indices = np.array([EMOTIONS.index(target) for target in targets], np.int32)
        maps = self._explain(normalize(crops[..., None]), indices)[1][..., 0]
        limits = np.percentile(np.abs(maps), _PERCENTILE, axis=(1, 2), keepdims=True)
        return (maps / np.maximum(limits, 1e-12)).clip(-1, 1).astype(np.float32)


Square = tuple[int, int, int]
"""x, y and side in pixels; it may reach beyond the frame."""


def _place(face: Face, margin: float) -> tuple[Square, float]:
    """The square that a face's crop shows, before it is turned about its centre, and by how many degrees it is."""
    if face.landmarks is None:
        return square_around(face.box, margin), 0.0
    x, y, side, roll = face.square
    side *= 1 + 2 * margin
    return (round(x - side / 2), round(y - side / 2), max(1, round(side))), roll


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


def blend_map(image: Image, square: Square, signed: Float32[np.ndarray, "size size"], roll: float = 0.0) -> None:
    """Lays a map in [-1, 1] over a square of ``image`` itself, the more opaque the farther from 0.

    Args:
        image: uint8 ``[height, width, 3]`` BGR, changed in place.
        square: where the map goes.
        signed: the map.
        roll: by how many degrees, clockwise as seen, the square is turned about its centre, and the map with it.
    """
    if roll:
        square, signed = _turned(square, signed, roll)
    part = _part(image, square, signed)
    if part is not None:
        pixels, values = part
        opacity = 0.85 * np.abs(values)
        pixels[:] = cv2.blendLinear(np.ascontiguousarray(pixels), _colors(np.sign(values) * 0.8), 1 - opacity, opacity)


def _turned(
    square: Square, signed: Float32[np.ndarray, "size size"], roll: float
) -> tuple[Square, Float32[np.ndarray, "larger larger"]]:
    """An upright square around a turned one, and the map turned in it, 0 where the turned one does not reach."""
    x, y, side = square
    angle, size = math.radians(roll), len(signed)
    growth = abs(math.cos(angle)) + abs(math.sin(angle))
    beyond = math.ceil(side * (growth - 1) / 2)
    larger = side + 2 * beyond
    cos, sin = (size / side * value for value in (math.cos(angle), math.sin(angle)))
    turn = np.array([[cos, sin], [-sin, cos]])  # from the frame's pixels to the map's
    offset = (size - 1) / 2 - turn @ np.full(2, (larger - 1) / 2)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    turned = cv2.warpAffine(signed, np.column_stack([turn, offset]), (larger, larger), flags=flags)
    return (x - beyond, y - beyond, larger), turned


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
