import hashlib
from pathlib import Path

import numpy as np
import pytest

from faceflax import FaceAnalyzer
from faceflax.cli.detection import DetectionOptions, make_analyzer, networks
from faceflax.errors import FaceflaxError
from faceflax.faces.analyzer import PRESETS
from faceflax.faces.choosing import DEFAULT
from faceflax.faces.detection import boxes_of
from faceflax.faces.finding import FaceFinder
from faceflax.faces.haar import HaarDetector
from faceflax.media import demo
from faceflax.pretrained import list_weights

YUNET = Path(__file__).resolve().parents[2].parent / "shared/reference/yunet_2026may.onnx"


def one_side_dark(frame):
    """The frame as if lit from the right alone."""
    light = np.linspace(0.03, 1, frame.shape[1], dtype=np.float32)[:, None]
    return (frame * light).astype(np.uint8)


def test_equalization_reaches_both_detectors():
    frame = one_side_dark(demo.photograph())
    for equalization in ("histogram", "clahe"):
        options = DetectionOptions("haar", equalization=equalization)
        for made, own in (
            (options.for_images("fast"), HaarDetector(equalization=equalization)),
            (options.for_videos(), HaarDetector(1.25, max_side=480, equalization=equalization)),
        ):
            np.testing.assert_array_equal(boxes_of(made(frame)), boxes_of(own(frame)))
            np.testing.assert_array_equal(boxes_of(made.propose(frame, [])), boxes_of(own.propose(frame, [])))


def test_the_commands_default_is_the_librarys():
    assert DetectionOptions().detector == DEFAULT


def test_sizes_and_scores_reach_the_detector():
    options = DetectionOptions("haar", min_face=77, min_score=0.6)
    for detector in (options.for_images("fast"), options.for_videos()):
        assert (detector.min_size, detector.min_score) == (77, 0.6)
    plain = DetectionOptions("haar").for_images("fast")
    assert (plain.min_size, plain.min_score) == (48, 0.5)


def test_single_images_are_searched_as_finely_as_the_preset_says():
    for preset, chosen in PRESETS.items():
        for detector in (DetectionOptions().for_images(preset), FaceAnalyzer(preset=preset).detector):
            assert (detector.detail, detector.mirrored) == (chosen.detail, chosen.mirrored)
    video = DetectionOptions().for_videos()
    assert (video.detail, video.mirrored) == (1, False)


def test_a_video_is_followed_with_clahe():
    finder = FaceFinder(DetectionOptions("haar", equalization="clahe").for_videos())
    found = [len(finder(frame)) for frame in demo.video()]
    assert found[1:] == [1] * (demo.NUM_FRAMES - 1)


def test_the_record_tells_apart_what_gives_other_boxes(tmp_path):
    model = tmp_path / "model.onnx"
    records = []
    for content in (b"one", b"another"):
        model.write_bytes(content)
        records.append(DetectionOptions(str(model)).record())
    assert records[0]["detector"] == hashlib.sha256(b"one").hexdigest()
    records += [
        DetectionOptions("haar", **changed).record()
        for changed in ({}, {"equalization": "clahe"}, {"search_every": 1}, {"min_face": 50}, {"min_score": 0.6})
    ]
    assert all(records.count(record) == 1 for record in records)
    model.unlink()
    with pytest.raises(FaceflaxError, match=r"^detector: cannot read .*model\.onnx"):
        DetectionOptions(str(model)).record()


@pytest.mark.skipif(not YUNET.is_file(), reason="needs ../shared/reference")
def test_a_yunet_file_is_a_detector():
    (face,) = DetectionOptions(str(YUNET)).for_videos()(demo.photograph())
    assert face.landmarks is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DetectionOptions(search_every=0), "^search_every: 0 is not a number of frames"),
        (DetectionOptions(min_face=0), "^min_face: 0 is not a number of pixels"),
        (DetectionOptions(min_score=1.5), r"^min_score: 1\.5 is not a score"),
        (DetectionOptions(min_score=float("nan")), "^min_score: nan is not a score"),
        (DetectionOptions("m.onnx", equalization="clahe"), "^equalization: 'clahe' is for the detector haar; leave"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(FaceflaxError, match=message):
        options.check()
    DetectionOptions().check()


def test_a_preset_gives_way_to_the_weights_named():
    for preset, mirrored in (("fast", False), ("accurate", True)):
        chosen = networks(preset, None, None)
        assert {chosen.emotion, chosen.gender} <= set(list_weights())
        assert chosen.mirrored == mirrored
        assert networks(preset, "mine", None) == chosen._replace(emotion="mine")
        assert networks(preset, None, "mine") == chosen._replace(gender="mine")


def test_bad_weights_are_named_as_the_option():
    with pytest.raises(FaceflaxError, match=r"^gender_weights: .*no-such"):
        make_analyzer("fast", None, "no-such", HaarDetector())
