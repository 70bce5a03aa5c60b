"""Detectors by name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from faceflax.errors import FaceflaxError, renaming, unknown
from faceflax.faces.detection import Detector

DEFAULT = "faceflax"
"""The detector that is used where none is named."""

CHOICES = ("faceflax", "haar", "a YuNet model (.onnx)", "weights of a face detector (.safetensors)")

_VIDEO_SIDE, _VIDEO_SIDE_HAAR = 448, 480
"""A frame of a video is searched at this size at most, as it has to be soon; known faces are followed at full size."""


def make_detector(
    detector: str | Path | Detector = DEFAULT,
    *,
    video: bool = False,
    min_face: int | None = None,
    min_score: float | None = None,
    equalization: Literal["histogram", "clahe"] = "histogram",
    detail: float = 1.0,
    mirrored: bool = False,
) -> Detector:
    """Makes a detector of a name, of a file or of what is one already.

    Args:
        detector: ``faceflax``, this library's network (:class:`~faceflax.faces.NetworkDetector`); ``haar``, OpenCV's
            cascade (:class:`~faceflax.faces.HaarDetector`); the path of OpenCV's YuNet, an .onnx file
            (:class:`~faceflax.faces.YuNetDetector`), or of a face detector's weights, a .safetensors file; or any
            callable that takes a frame and returns detections or boxes, which is returned as it is.
        video: for a video's frames: a large one is searched more coarsely, so that it takes no longer.
        min_face: side of the smallest face to find, in pixels of the frame; the detector's own default if None.
        min_score: the least score of a face; the detector's own default if None.
        equalization: for ``haar``, as :class:`~faceflax.faces.HaarDetector` says.
        detail: how many times finer than usual this library's network searches; the others search as they always do.
        mirrored: this library's network searches mirrored as well.

    Raises:
        FaceflaxError: no such detector, a file that is none, or an argument out of its range or for another detector.

    Example:
        >>> make_detector("haar", min_face=80).min_size
        80
        >>> make_detector("hare")
        Traceback (most recent call last):
        faceflax.errors.FaceflaxError: detector: unknown 'hare'; choose one of: faceflax, haar, a YuNet model (.onnx), \
weights of a face detector (.safetensors)
    """
    suffix = Path(detector).suffix.lower() if isinstance(detector, str | Path) else ""
    if detector != "haar" and equalization != "histogram":
        raise FaceflaxError("equalization", equalization, "is for the detector haar", "leave it out or choose haar")
    sizes = {} if min_face is None else {"min_size": min_face}
    scores = {} if min_score is None else {"min_score": min_score}
    if not isinstance(detector, str | Path):
        for field, value in (("min_face", min_face), ("min_score", min_score)):
            if value is not None:
                raise FaceflaxError(field, value, "is for detectors that are named", "set it in the detector given")
        if not callable(detector):
            raise FaceflaxError("detector", type(detector).__name__, "{} is no detector", _remedy())
        return detector
    with renaming(model="detector", weights="detector", min_size="min_face"):
        if detector == "haar":
            from faceflax.faces.haar import HaarDetector

            coarse = {"scale_factor": 1.25, "max_side": _VIDEO_SIDE_HAAR} if video else {}
            return HaarDetector(equalization=equalization, **coarse, **sizes, **scores)  # type: ignore[arg-type]
        if detector == "faceflax" or suffix == ".safetensors":
            from faceflax.faces.network import NetworkDetector

            named = {} if detector == "faceflax" else {"weights": Path(detector)}
            side = _VIDEO_SIDE if video else None
            options = {**named, **sizes, **scores}
            return NetworkDetector(max_side=side, detail=detail, mirrored=mirrored, **options)  # type: ignore[arg-type]
        if suffix == ".onnx":
            from faceflax.faces.yunet import YuNetDetector

            return YuNetDetector(detector, **sizes, **scores)  # type: ignore[arg-type]
    raise unknown("detector", detector, CHOICES)


def _remedy() -> str:
    return f"give a callable or one of: {', '.join(CHOICES)}"
