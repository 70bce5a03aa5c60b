"""Detection against the photograph's eyes and mouth, whose pixels were read off by eye."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.vision import demo
from faceflax.vision.detection import HaarDetector
from faceflax.vision.sources import open_source

LANDMARKS = np.array([[228, 188], [306, 187], [270, 278]])  # eyes and mouth, x, y
CLIPS = Path(__file__).resolve().parents[2].parent / "shared/data/video"


@pytest.fixture(scope="module")
def photo():
    return demo.photograph()


@pytest.fixture(scope="module")
def detector():
    return HaarDetector()


def assert_covers(boxes, points, frame):
    x, y, width, height = boxes[0]
    assert 0 <= x < x + width <= frame.shape[1]
    assert 0 <= y < y + height <= frame.shape[0]
    assert ((points > [x, y]) & (points < [x + width, y + height])).all()


def test_finds_the_face_and_only_it(photo, detector):
    boxes = detector(photo)
    assert boxes.dtype == np.int32
    assert boxes.shape == (1, 4)
    assert_covers(boxes, LANDMARKS, photo)
    assert 150 < boxes[0, 2] < 300


# The face reaches from x = 160 to 375 and from the cap's brim at y = 130 to the chin at y = 325.
@pytest.mark.parametrize(
    ("left", "top", "right", "bottom"),
    [(165, 0, 512, 600), (0, 130, 512, 600), (0, 0, 370, 600), (0, 0, 512, 320), (165, 130, 512, 600)],
    ids=["left", "top", "right", "bottom", "corner"],
)
def test_finds_a_face_at_the_frames_edge(photo, detector, left, top, right, bottom):
    frame = np.ascontiguousarray(photo[top:bottom, left:right])
    assert_covers(detector(frame), LANDMARKS - [left, top], frame)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_boxes_are_in_pixels_of_the_whole_frame(photo, detector, scale):
    frame = cv2.resize(photo, None, fx=scale, fy=scale)
    assert_covers(detector(frame), LANDMARKS * scale, frame)


def test_low_contrast_is_equalised(photo, detector):
    frame = (photo // 12 + 100).astype(np.uint8)
    assert_covers(detector(frame), LANDMARKS, frame)


def test_smallest_size_is_kept(photo):
    assert len(HaarDetector(min_size=300)(photo)) == 0


def test_every_frame_of_the_demo_has_the_face(detector):
    assert all(len(detector(frame)) for frame in list(demo.video())[::8])


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (3, 900), (300, 300)])
def test_no_face(detector, shape):
    boxes = detector(np.full((*shape, 3), 128, np.uint8))
    assert boxes.shape == (0, 4)
    assert boxes.dtype == np.int32


@pytest.mark.parametrize(
    ("argument", "value"), [("scale_factor", 1.0), ("min_neighbors", 0), ("min_size", 0), ("max_side", 0)]
)
def test_bad_argument_is_named(argument, value):
    with pytest.raises(FaceflaxError, match=f"{argument}: {value}"):
        HaarDetector(**{argument: value})


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs ../shared/data/video")
@pytest.mark.parametrize(("clip", "least", "most"), [("pyfeat_single_face.mp4", 6, 6), ("pyfeat_no_face.mp4", 0, 0)])
def test_clips(detector, clip, least, most):
    frames = [frame.image for frame in open_source(str(CLIPS / clip)).frames][:72:12]
    assert least <= sum(len(detector(frame)) for frame in frames) <= most
