"""How faces are found, as options of the commands that find them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from faceflax.errors import FaceflaxError, renaming

if TYPE_CHECKING:
    from faceflax.faces import Detector, FaceAnalyzer, YuNetDetector


@dataclass(frozen=True)
class DetectionOptions:
    """How faces are found."""

    equalization: Literal["histogram", "clahe"] = "histogram"
    """How the image is equalised for OpenCV's Haar cascade: as a whole or, clahe, by tiles: for light from one side."""
    yunet: Path | None = None
    """Use OpenCV's YuNet, which finds turned faces too; its model file, such as face_detection_yunet_2023mar.onnx."""
    search_every: int = 25
    """All of a video's frame is searched in one of so many frames; in between, known faces are followed. 1 is every."""

    def check(self) -> None:
        """Checks what can be checked before the work starts.

        Raises:
            FaceflaxError: an option out of its range, or two that exclude each other.
        """
        if self.search_every < 1:
            raise FaceflaxError("search_every", self.search_every, "is not a number of frames", "give 1 or more")
        if self.yunet is not None and self.equalization != "histogram":
            raise FaceflaxError("equalization", self.equalization, "is for Haar, not for YuNet", "leave one out")

    def for_images(self) -> Detector:
        """Makes what finds the faces of single images.

        Raises:
            FaceflaxError: YuNet's model file is missing or is none.
        """
        from faceflax.faces import HaarDetector

        return HaarDetector(equalization=self.equalization) if self.yunet is None else _yunet(self.yunet)

    def for_videos(self) -> Detector:
        """Makes what finds and follows the faces of videos.

        Raises:
            FaceflaxError: YuNet's model file is missing or is none.
        """
        from faceflax.faces import video_detector

        return video_detector(self.equalization) if self.yunet is None else _yunet(self.yunet)

    def record(self) -> dict[str, Any]:
        """Returns as JSON values what the found boxes depend on.

        Raises:
            FaceflaxError: YuNet's model file cannot be read.
        """
        try:
            model = self.yunet and hashlib.sha256(self.yunet.read_bytes()).hexdigest()
        except OSError as error:
            raise FaceflaxError("yunet", self.yunet, f"cannot read {{}} ({error.strerror})") from None
        return {"equalization": self.equalization, "yunet": model, "search_every": self.search_every}


def _yunet(model: Path) -> YuNetDetector:
    from faceflax.faces import YuNetDetector

    with renaming(model="yunet"):
        return YuNetDetector(model)


def make_analyzer(emotion_weights: str, gender_weights: str, detector: Detector | None = None) -> FaceAnalyzer:
    """Makes a :class:`~faceflax.FaceAnalyzer` of the options that several commands have.

    Raises:
        FaceflaxError: of field ``emotion_weights`` or ``gender_weights``.
    """
    from faceflax.faces import FaceAnalyzer

    with renaming(emotion="emotion_weights", gender="gender_weights"):
        return FaceAnalyzer(emotion_weights, gender_weights, detector)
