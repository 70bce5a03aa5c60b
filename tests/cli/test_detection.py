import numpy as np
import pytest

from faceflax.cli.detection import DetectionOptions
from faceflax.errors import FaceflaxError
from faceflax.faces.finding import FaceFinder, video_detector
from faceflax.faces.haar import HaarDetector
from faceflax.media import demo


def one_side_dark(frame):
    """The frame as if lit from the right alone."""
    light = np.linspace(0.03, 1, frame.shape[1], dtype=np.float32)[:, None]
    return (frame * light).astype(np.uint8)


def test_equalization_reaches_both_detectors():
    frame = one_side_dark(demo.photograph())
    for equalization in ("histogram", "clahe"):
        options = DetectionOptions(equalization=equalization)
        np.testing.assert_array_equal(options.for_images()(frame), HaarDetector(equalization=equalization)(frame))
        np.testing.assert_array_equal(options.for_videos()(frame), video_detector(equalization)(frame))


def test_a_video_is_followed_with_clahe():
    finder = FaceFinder(DetectionOptions(equalization="clahe").for_videos())
    found = [len(finder(frame)) for frame in demo.video()]
    assert found == [0] + [1] * (demo.NUM_FRAMES - 1)


def test_the_record_tells_apart_what_gives_other_boxes(tmp_path):
    model = tmp_path / "model.onnx"
    records = []
    for content in (b"one", b"another"):
        model.write_bytes(content)
        records.append(DetectionOptions(yunet=model).record())
    records += [DetectionOptions(), DetectionOptions(equalization="clahe"), DetectionOptions(search_every=1)]
    records[2:] = [options.record() for options in records[2:]]
    assert all(records.count(record) == 1 for record in records)
    model.unlink()
    with pytest.raises(FaceflaxError, match=r"^yunet: cannot read .*model\.onnx"):
        DetectionOptions(yunet=model).record()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DetectionOptions(search_every=0), "^search_every: 0 is not a number of frames"),
        (DetectionOptions(equalization="clahe", yunet="m.onnx"), "^equalization: 'clahe' is for Haar, not for YuNet"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(FaceflaxError, match=message):
        options.check()
    DetectionOptions().check()
