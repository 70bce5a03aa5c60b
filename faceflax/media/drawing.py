"""Overlays: what is drawn over a frame, such as boxes and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from faceflax.faces.face import Face
from faceflax.faces.frame import Image
from faceflax.labels import EMOTIONS, GENDERS
from faceflax.opencv import cv2

Overlay = Callable[[Image, Sequence[Face]], Image]
"""Returns a copy of a frame, uint8 ``[height, width, 3]`` BGR, with what was found in it drawn: :func:`draw_faces`, or
any other."""

COLORS: dict[str, tuple[int, int, int]] = {"woman": (40, 40, 220), "man": (230, 90, 20)}
"""BGR colour of a box by perceived gender: red for woman, blue for man."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE = (255, 255, 255)
_PALE = (200, 190, 170)


def draw_faces(frame: Image, faces: Sequence[Face]) -> Image:
    """Returns a copy of ``frame`` with each face's box and its labels, such as ``happy 93%`` and ``woman 88%``.

    Text and lines scale with the frame, but no larger than suits the face, so that labels cover no other faces.
    A label that the network is not sure of ends in a question mark. Labels stay inside the frame: above the box, or
    below where there is no room above.

    Args:
        frame: uint8 ``[height, width, 3]`` BGR.
        faces: what the analyzer found in it.
    """
    image = frame.copy()
    for face in faces:
        x, y, width, height = face.box
        thickness = max(1, round(min(*frame.shape[:2], 4 * width) / 180))
        color = COLORS[face.gender]
        cv2.rectangle(image, (x, y), (x + width - 1, y + height - 1), color, thickness)
        emotion = face.emotion_probabilities[EMOTIONS.index(face.emotion)]
        gender = face.gender_probabilities[GENDERS.index(face.gender)]
        lines = [
            f"{face.emotion}{'' if face.sure_emotion else '?'} {emotion:.0%}",
            f"{face.gender}{'' if face.sure_gender else '?'} {gender:.0%}",
        ]
        if face.task_probability is not None:
            lines.append(f"{face.task}{'' if face.sure_task else '?'} {face.task_probability:.0%}")
        draw_label(image, lines, face.box, color)
    return image


def draw_label(
    image: Image,
    lines: Sequence[str],
    box: tuple[int, int, int, int],
    color: tuple[int, int, int],
) -> None:
    """Writes white ``lines`` on a ``color`` background beside ``box``, into ``image`` itself.

    Args:
        image: uint8 ``[height, width, 3]`` BGR, changed in place.
        lines: the text, one string a line.
        box: x, y, width, height of what the text is about.
        color: BGR of the background.
    """
    frame_height, frame_width = image.shape[:2]
    x, y, width, height = box
    text_height = max(9, round(min(frame_height, frame_width, 4 * width) / 26))
    thickness = max(1, round(text_height / 8))
    scale = cv2.getFontScaleFromHeight(_FONT, text_height, thickness)
    gap = text_height // 3
    text_width = max(cv2.getTextSize(line, _FONT, scale, thickness)[0][0] for line in lines)
    shrink = min(1.0, (frame_width - 2 * gap) / text_width)  # a narrow frame: smaller letters rather than cut ones
    scale, text_width = scale * max(shrink, 0), round(text_width * max(shrink, 0))
    line_height = text_height + 2 * gap
    label_width, label_height = text_width + 2 * gap, line_height * len(lines)
    top = y - label_height if y >= label_height else min(y + height, frame_height - label_height)
    left = max(0, min(x, frame_width - label_width))
    cv2.rectangle(image, (left, top), (left + label_width - 1, top + label_height - 1), color, cv2.FILLED)
    for row, line in enumerate(lines):
        origin = left + gap, top + row * line_height + gap + text_height
        cv2.putText(image, line, origin, _FONT, scale, _WHITE, thickness, cv2.LINE_AA)


def draw_bars(image: Image, face: Face, place: tuple[int, int, int, int]) -> None:
    """Draws the probability of each emotion as a bar with its name, the highest one white, into ``image`` itself.

    What is behind stays visible, darker. The place is moved into the image where it reaches beyond it.

    Args:
        image: uint8 ``[height, width, 3]`` BGR, changed in place.
        face: whose probabilities they are.
        place: x, y, width, height of where they go.
    """
    height, width = image.shape[:2]
    across, down = min(max(place[2], 84), width), min(max(place[3], 77), height)
    left, top = min(max(place[0], 0), width - across), min(max(place[1], 0), height - down)
    panel = image[top : top + down, left : left + across]
    panel[:] = panel // 4
    row = down / len(EMOTIONS)
    scale = min(
        cv2.getFontScaleFromHeight(_FONT, max(1, round(0.5 * row)), 1),
        0.42 * across / cv2.getTextSize("surprise", _FONT, 1.0, 1)[0][0],
    )
    begin, longest = round(0.48 * across), round(0.48 * across)
    for number, (name, share) in enumerate(zip(EMOTIONS, face.emotion_probabilities, strict=True)):
        low, high = round(number * row + 0.2 * row), max(round(number * row + 0.8 * row), round(number * row) + 1)
        color = _WHITE if name == face.emotion else _PALE
        cv2.putText(panel, name, (max(1, across // 50), high), _FONT, scale, color, 1, cv2.LINE_AA)
        end = begin + max(1, round(float(share) * longest))
        cv2.rectangle(panel, (begin, low), (min(end, across) - 1, high - 1), color, cv2.FILLED)


def draw_status(image: Image, text: str) -> None:
    """Writes a line of text along the lower edge, into ``image`` itself; smaller where it would not fit.

    It stands on a dark band, so that it can be read over any picture.

    Args:
        image: uint8 ``[height, width, 3]`` BGR, changed in place.
        text: one line.
    """
    height, width = image.shape[:2]
    scale = max(0.4, min(height, width) / 800)
    scale *= min(1.0, (width - 16) / cv2.getTextSize(text, _FONT, scale, 1)[0][0])
    band = image[max(0, height - 16 - cv2.getTextSize(text, _FONT, max(scale, 0), 1)[0][1]) :]
    band[:] = band // 3
    for color, thickness in (((0, 0, 0), 4), (_WHITE, 1)):
        cv2.putText(image, text, (8, height - 8), _FONT, max(scale, 0), color, thickness, cv2.LINE_AA)
