"""Who is in a frame: detectors, tracking, the crop, and the analyzers that label what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faceflax.lazy import attach

if TYPE_CHECKING:
    from faceflax.faces.analyzer import PRESETS, FaceAnalyzer
    from faceflax.faces.choosing import make_detector
    from faceflax.faces.crop import crop_face, crop_square, square_around
    from faceflax.faces.detection import Detection, Detector
    from faceflax.faces.face import Face
    from faceflax.faces.finding import FaceFinder
    from faceflax.faces.frame import Frame, Image
    from faceflax.faces.haar import HaarDetector
    from faceflax.faces.network import NetworkDetector
    from faceflax.faces.square import Square, square_of
    from faceflax.faces.tracking import Track, Tracker
    from faceflax.faces.video import TwoStageAnalyzer, VideoAnalyzer
    from faceflax.faces.yunet import YuNetDetector

__all__ = [
    "PRESETS",
    "Detection",
    "Detector",
    "Face",
    "FaceAnalyzer",
    "FaceFinder",
    "Frame",
    "HaarDetector",
    "Image",
    "NetworkDetector",
    "Square",
    "Track",
    "Tracker",
    "TwoStageAnalyzer",
    "VideoAnalyzer",
    "YuNetDetector",
    "crop_face",
    "crop_square",
    "make_detector",
    "square_around",
    "square_of",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "analyzer": ["PRESETS", "FaceAnalyzer"],
        "choosing": ["make_detector"],
        "crop": ["crop_face", "crop_square", "square_around"],
        "detection": ["Detection", "Detector"],
        "face": ["Face"],
        "finding": ["FaceFinder"],
        "frame": ["Frame", "Image"],
        "haar": ["HaarDetector"],
        "network": ["NetworkDetector"],
        "square": ["Square", "square_of"],
        "tracking": ["Track", "Tracker"],
        "video": ["TwoStageAnalyzer", "VideoAnalyzer"],
        "yunet": ["YuNetDetector"],
    },
)
