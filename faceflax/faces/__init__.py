"""Who is in a frame: detectors, tracking, the crop, and the analyzers that label what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faceflax.lazy import attach

if TYPE_CHECKING:
    from faceflax.faces.analyzer import FaceAnalyzer
    from faceflax.faces.crop import crop_face, square_around
    from faceflax.faces.detection import Detection, Detector
    from faceflax.faces.face import Face
    from faceflax.faces.finding import FaceFinder, video_detector
    from faceflax.faces.frame import Frame, Image
    from faceflax.faces.haar import HaarDetector
    from faceflax.faces.tracking import Track, Tracker
    from faceflax.faces.video import TwoStageAnalyzer, VideoAnalyzer
    from faceflax.faces.yunet import YuNetDetector

__all__ = [
    "Detection",
    "Detector",
    "Face",
    "FaceAnalyzer",
    "FaceFinder",
    "Frame",
    "HaarDetector",
    "Image",
    "Track",
    "Tracker",
    "TwoStageAnalyzer",
    "VideoAnalyzer",
    "YuNetDetector",
    "crop_face",
    "square_around",
    "video_detector",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "analyzer": ["FaceAnalyzer"],
        "crop": ["crop_face", "square_around"],
        "detection": ["Detection", "Detector"],
        "face": ["Face"],
        "finding": ["FaceFinder", "video_detector"],
        "frame": ["Frame", "Image"],
        "haar": ["HaarDetector"],
        "tracking": ["Track", "Tracker"],
        "video": ["TwoStageAnalyzer", "VideoAnalyzer"],
        "yunet": ["YuNetDetector"],
    },
)
