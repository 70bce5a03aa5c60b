"""What is done to a detector's training crops. Light to import: the command line is built from it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from faceflax.errors import FaceflaxError


@dataclass(frozen=True)
class SceneAugmentation:
    """How training crops are changed at random; each share is that of the crops that are."""

    size_from: float = 14.0
    """Smallest face in the middle of a crop, in pixels."""
    size_to: float = 200.0
    """Largest face in the middle of a crop, in pixels."""
    natural: float = 0.0
    """Share of the crops of photographs that are about as large as the photograph is, 0.5 to 1.6 times."""
    roll: float = 45.0
    """Largest rotation, in degrees, of the half of the crops that is rotated evenly up to it."""
    sheets: float = 0.1
    """Share of crops that are sheets of shrunk portraits on a photograph without faces."""
    cover: float = 0.2
    """Share of faces that something covers in part: a rectangle, or a mask below the nose."""
    decoys: float = 0.3
    """Share of crops with round things that are no faces drawn beside them: letters, rings, wheels, spirals."""
    blur: float = 0.22
    """Share of crops that are blurred, or enlarged from fewer pixels."""
    darken: float = 0.15
    """Share of crops that are darkened."""
    grey: float = 0.15
    """Share of crops that lose their colours."""
    tint: float = 0.3
    """Share of crops in a light of another colour, and of those whose colours are paler or stronger."""
    noise: float = 0.12
    """Share of crops with noise."""
    jpeg: float = 0.15
    """Share of crops that went through JPEG at low quality."""

    def __post_init__(self) -> None:
        ranges = {"size_from": (1, 1000), "size_to": (self.size_from, 1000), "roll": (0, 180)}
        for field in fields(self):
            low, high = ranges.get(field.name, (0, 1))
            value = getattr(self, field.name)
            if not low <= value <= high:
                name = f"scenes.{field.name}"
                raise FaceflaxError(name, value, "is out of range", f"give a number from {low:g} to {high:g}")
