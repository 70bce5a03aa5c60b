"""How faces are found, as options of the commands that find them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from faceflax.errors import FaceflaxError

if TYPE_CHECKING:
    from faceflax.faces.detection import Detector


@dataclass(frozen=True)
class DetectionOptions:
    """How faces are found."""

    equalization: Literal["histogram", "clahe"] = "histogram"
    """How OpenCV's Haar cascade sees the picture: equalised as a whole or, clahe, by tiles: for side light."""
    yunet: Path | None = None
    """Use OpenCV's YuNet, which finds turned faces too; its model file, such as face_detection_yunet_2023mar.onnx."""
    search_every: int = 25
    """In one of how many frames of a film all of it is searched; in between, known faces are followed. 1 is each."""

    def check(self) -> None:
        """Refuses what can be seen to be wrong before the work starts.

        Raises:
            FaceflaxError: an option out of its range, or two that exclude each other.
        """
        if self.search_every < 1:
            raise FaceflaxError(f"--search-every: {self.search_every} is not a number of frames; give 1 or more")
        if self.yunet is not None and self.equalization != "histogram":
            raise FaceflaxError(f"--equalization: {self.equalization} is for Haar, not for --yunet; leave one out")

    def for_images(self) -> Detector:
        """Makes what finds the faces of single images.

        Raises:
            FaceflaxError: YuNet's model file is missing or is none.
        """
        from faceflax.faces.detection import HaarDetector
        from faceflax.faces.yunet import YuNetDetector

        return HaarDetector(equalization=self.equalization) if self.yunet is None else YuNetDetector(self.yunet)

    def for_videos(self) -> Detector:
        """Makes what finds and follows the faces of films.

        Raises:
            FaceflaxError: YuNet's model file is missing or is none.
        """
        from faceflax.faces.finding import video_detector
        from faceflax.faces.yunet import YuNetDetector

        return video_detector(self.equalization) if self.yunet is None else YuNetDetector(self.yunet)

    def record(self) -> dict[str, Any]:
        """Returns as JSON values what the found boxes depend on.

        Raises:
            FaceflaxError: YuNet's model file cannot be read.
        """
        try:
            model = self.yunet and hashlib.sha256(self.yunet.read_bytes()).hexdigest()
        except OSError as error:
            raise FaceflaxError(f"--yunet: cannot read {str(self.yunet)!r} ({error.strerror})") from None
        return {"equalization": self.equalization, "yunet": model, "search_every": self.search_every}
