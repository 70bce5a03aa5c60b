from pathlib import Path

import numpy as np
import pytest

from faceflax import FaceAnalyzer
from faceflax.errors import FaceflaxError
from faceflax.faces.choosing import make_detector
from faceflax.faces.detection import boxes_of
from faceflax.faces.haar import HaarDetector
from faceflax.faces.yunet import YuNetDetector
from faceflax.media import demo

YUNET = Path(__file__).resolve().parents[2].parent / "shared/reference/yunet_2026may.onnx"


def test_haar_by_name_is_what_the_class_gives():
    photo = demo.photograph()
    np.testing.assert_array_equal(boxes_of(make_detector("haar")(photo)), boxes_of(HaarDetector()(photo)))
    made = make_detector("haar", min_face=60, min_score=0.7, equalization="clahe")
    own = HaarDetector(min_size=60, min_score=0.7, equalization="clahe")
    np.testing.assert_array_equal(boxes_of(made(photo)), boxes_of(own(photo)))
    assert (made.min_size, made.min_score) == (60, 0.7)


def test_a_callable_is_itself():
    def nothing(frame):
        return []

    assert make_detector(nothing) is nothing
    assert FaceAnalyzer(detector=nothing, preset="fast")(demo.photograph()) == []


@pytest.mark.skipif(not YUNET.is_file(), reason="needs ../shared/reference")
def test_a_yunet_file_finds_the_photographs_face_and_landmarks():
    detector = make_detector(str(YUNET), min_face=40, min_score=0.8)
    assert isinstance(detector, YuNetDetector)
    (face,) = detector(demo.photograph())
    seen = np.array([[228, 188], [306, 187], [268, 235], [237, 278], [303, 278]])
    assert np.abs(face.landmarks - seen).max() < 15
    assert face.score > 0.9
    assert abs(face.roll) < 8
    (analyzed,) = FaceAnalyzer(detector=YUNET, preset="fast")(demo.photograph())
    assert analyzed.landmarks is not None
    assert analyzed.score == pytest.approx(face.score)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"detector": "hare"}, r"^detector: unknown 'hare'; choose one of: faceflax, haar, a YuNet model \(\.onnx\)"),
        ({"detector": "no/such.jpg"}, r"^detector: unknown 'no/such\.jpg'; choose one of: faceflax"),
        ({"detector": "no/such.onnx"}, r"^detector: there is no model file 'no/such\.onnx'"),
        ({"detector": "no/such.safetensors"}, r"^detector: .*no/such\.safetensors"),
        ({"detector": 3}, r"^detector: 'int' is no detector; give a callable or one of: faceflax"),
        ({"detector": "haar", "min_score": 1.5}, r"^min_score: 1\.5 is not a score"),
        ({"detector": "haar", "min_face": 0}, r"^min_face: 0 is not a number of pixels"),
        ({"detector": "m.onnx", "equalization": "clahe"}, r"^equalization: 'clahe' is for the detector haar"),
        ({"detector": len, "min_face": 30}, r"^min_face: 30 is for detectors that are named"),
        ({"detector": len, "min_score": 0.3}, r"^min_score: 0\.3 is for detectors that are named"),
    ],
)
def test_bad_choices_are_named(arguments, message):
    with pytest.raises(FaceflaxError, match=message):
        make_detector(**arguments)


def test_a_file_that_is_no_model_is_named(tmp_path):
    (tmp_path / "photo.onnx").write_bytes(b"no model")
    with pytest.raises(FaceflaxError, match=r"^detector: .*photo\.onnx' is not a YuNet model"):
        FaceAnalyzer(detector=tmp_path / "photo.onnx", preset="fast")
