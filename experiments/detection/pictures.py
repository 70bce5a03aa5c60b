"""Contact sheets: what is found in pictures, and which faces are missed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from faceflax.data import Scene
from faceflax.evaluation.detection import Matches
from faceflax.faces import crop_face
from faceflax.opencv import cv2

TILE = 220
"""Side of a picture in a sheet, in pixels."""
FOUND, MISSED, TRUE = (80, 220, 80), (60, 60, 255), (255, 200, 0)


def sheet(scenes: Sequence[Scene], detect: Any, columns: int = 10) -> np.ndarray:
    """Returns scenes side by side with the boxes (green), scores and landmarks of what is found in them."""
    tiles = []
    for scene in scenes:
        frame = scene.image.copy()
        faces = detect(frame)
        scale = TILE / max(frame.shape[:2])
        tile = np.zeros((TILE, TILE, 3), np.uint8)
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:TILE, :TILE]
        tile[: small.shape[0], : small.shape[1]] = small
        for face in faces:
            x, y, width, height = (round(float(v) * scale) for v in face.box)
            cv2.rectangle(tile, (x, y), (x + width, y + height), FOUND, 1)
            if width >= 24:
                cv2.putText(tile, f"{face.score:.2f}", (x, max(y - 2, 8)), cv2.FONT_HERSHEY_PLAIN, 0.7, FOUND, 1)
            if face.landmarks is not None and width >= 12:
                for point in face.landmarks:
                    cv2.circle(tile, tuple(round(float(v) * scale) for v in point), 1, TRUE, cv2.FILLED)
        tiles.append(tile)
    return _grid(tiles, columns)


def missed(scenes: Sequence[Scene], matches: Sequence[Matches], min_score: float, count: int = 40) -> np.ndarray | None:
    """Returns crops about the largest faces that have no box of at least this score, or None if there is none."""
    faces = []
    for scene, match in zip(scenes, matches, strict=True):
        found = set(match.faces[match.scores >= min_score].tolist())
        for index in np.flatnonzero(match.counted):
            if index not in found:
                faces.append((float(scene.boxes[index, 2:].prod()), scene, scene.boxes[index]))
    if not faces:
        return None
    faces.sort(key=lambda each: -each[0])
    tiles = [
        crop_face(scene.image, np.rint(box).astype(int).clip(1), 0.5, TILE // 2) for _, scene, box in faces[:count]
    ]
    return _grid(tiles, 10)


def _grid(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    blank = np.zeros_like(tiles[0])
    tiles = [*tiles, *[blank] * (-len(tiles) % columns)]
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])
