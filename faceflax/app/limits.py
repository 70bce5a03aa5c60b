"""How much the server takes from a visitor."""

from __future__ import annotations

from dataclasses import dataclass

from faceflax.errors import FaceflaxError


@dataclass(frozen=True)
class Limits:
    """How large and how long an upload may be.

    Attributes:
        megabytes: of one file, each of 1,048,576 bytes.
        upload_seconds: until all of a request has arrived.
        video_seconds: how much of a video is analysed; what follows is left out, and the page says so.
        max_side: pictures are analysed with at most so many pixels on their longer side.

    Raises:
        FaceflaxError: one of them is not above 0.
    """

    megabytes: float = 20.0
    upload_seconds: float = 30.0
    video_seconds: float = 60.0
    max_side: int = 1600

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise FaceflaxError(name, value, "is not above 0", "give a larger number")

    @property
    def bytes(self) -> int:
        """The bytes of one file."""
        return int(self.megabytes * 2**20)
