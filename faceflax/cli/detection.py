"""How faces are found and which networks label them, as options of the commands that do it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from faceflax import files
from faceflax.errors import FaceflaxError, renaming

if TYPE_CHECKING:
    from faceflax.faces import Detector, FaceAnalyzer
    from faceflax.faces.analyzer import Preset

_MOST_BYTES = 2**28  # of a detector's file
PresetName = Literal["fast", "accurate"]


@dataclass(frozen=True)
class DetectionOptions:
    """How faces are found."""

    detector: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = "faceflax"
    """What finds faces: faceflax (our network), haar (OpenCV's cascade), or the .onnx file of OpenCV's YuNet."""
    min_face: int | None = None
    """Side of the smallest face to find, in pixels; each detector has its own default."""
    min_score: float | None = None
    """The least score of a face, from 0 to 1; each detector has its own default."""
    equalization: Literal["histogram", "clahe"] = "histogram"
    """How the image is equalised for haar: as a whole or, clahe, by tiles: for light from one side."""
    search_every: int | None = None
    """All of a video's frame is searched in one of so many frames (5, haar: 25); in between faces are followed."""

    def check(self) -> None:
        """Checks what can be checked before the work starts.

        Raises:
            FaceflaxError: an option out of its range, or two that exclude each other.
        """
        if self.search_every is not None and self.search_every < 1:
            raise FaceflaxError("search_every", self.search_every, "is not a number of frames", "give 1 or more")
        if self.min_face is not None and self.min_face < 1:
            raise FaceflaxError("min_face", self.min_face, "is not a number of pixels", "give 1 or more")
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise FaceflaxError("min_score", self.min_score, "is not a score", "give a number from 0 to 1")
        if self.detector != "haar" and self.equalization != "histogram":
            problem = "is for the detector haar"
            raise FaceflaxError("equalization", self.equalization, problem, "leave it out or add --detector haar")

    def for_images(self, preset: PresetName) -> Detector:
        """Makes what finds the faces of single images, as finely as the preset says.

        Raises:
            FaceflaxError: there is no such detector, or the file is none.
        """
        from faceflax.faces.analyzer import PRESETS

        chosen = PRESETS[preset]
        return self._make(video=False, detail=chosen.detail, mirrored=chosen.mirrored)

    def for_videos(self) -> Detector:
        """Makes what finds and follows the faces of videos.

        Raises:
            FaceflaxError: there is no such detector, or the file is none.
        """
        return self._make(video=True)

    def _make(self, *, video: bool, detail: float = 1.0, mirrored: bool = False) -> Detector:
        from faceflax.faces import make_detector

        return make_detector(
            self.detector,
            video=video,
            min_face=self.min_face,
            min_score=self.min_score,
            equalization=self.equalization,
            detail=detail,
            mirrored=mirrored,
        )

    def record(self) -> dict[str, Any]:
        """Returns as JSON values what the found faces depend on.

        Raises:
            FaceflaxError: the detector's file cannot be read.
        """
        return {
            "detector": self._identity(),
            "min_face": self.min_face,
            "min_score": self.min_score,
            "equalization": self.equalization,
            "search_every": self.search_every,
        }

    def _identity(self) -> str:
        """The detector's name, with the digest of its weights where it has some."""
        if self.detector == "haar":
            return self.detector
        if self.detector == "faceflax":
            from faceflax.faces.network import WEIGHTS
            from faceflax.pretrained import weights_info

            return weights_info(WEIGHTS).sha256
        return hashlib.sha256(files.read("detector", Path(self.detector), _MOST_BYTES)).hexdigest()


def networks(preset: PresetName, emotion_weights: str | None, gender_weights: str | None) -> Preset:
    """Returns a preset's networks, or those that the options name in their place."""
    from faceflax.faces.analyzer import PRESETS

    chosen = PRESETS[preset]
    return chosen._replace(emotion=emotion_weights or chosen.emotion, gender=gender_weights or chosen.gender)


def make_analyzer(
    preset: PresetName,
    emotion_weights: str | None = None,
    gender_weights: str | None = None,
    detector: Detector | None = None,
    task_weights: str | None = None,
) -> FaceAnalyzer:
    """Makes a :class:`~faceflax.FaceAnalyzer` of the options that several commands have.

    Raises:
        FaceflaxError: of field ``emotion_weights``, ``gender_weights`` or ``task_weights``.
    """
    from faceflax.faces import FaceAnalyzer

    with renaming(emotion="emotion_weights", gender="gender_weights", task="task_weights"):
        return FaceAnalyzer(emotion_weights, gender_weights, detector, preset=preset, task=task_weights)
