"""Detection against the photograph's eyes and mouth, whose pixels were read off by eye."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.faces.detection import Detection, boxes_of, clip_to_frame, non_max_suppression
from faceflax.faces.haar import HaarDetector
from faceflax.media import demo
from faceflax.media.sources import open_source
from faceflax.opencv import load_cascade

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


PAD = 64


def padded(photo):
    """What the detector searches: grey, equalised, with an eighth of the border repeated outwards."""
    grey = cv2.equalizeHist(cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY))
    return cv2.copyMakeBorder(grey, PAD, PAD, PAD, PAD, cv2.BORDER_REPLICATE)


def test_neighbours_and_boxes_are_those_of_opencv(photo):
    cascade = load_cascade("haarcascade_frontalface_default")
    boxes, hits = cascade.detectMultiScale2(padded(photo), 1.1, 1, minSize=(48, 48))
    box, most = boxes[np.argmax(hits)] - [PAD, PAD, 0, 0], max(hits)
    for neighbors, found in ((most - 1, 1), (most, 0)):
        assert len(HaarDetector(min_neighbors=int(neighbors), min_confidence=-np.inf)(photo)) == found
    np.testing.assert_allclose(HaarDetector()(photo)[0], box, atol=1)


def test_confidence_is_that_of_the_last_stage(photo):
    cascade = load_cascade("haarcascade_frontalface_default")
    _, _, confidences = cascade.detectMultiScale3(padded(photo), 1.1, 5, minSize=(48, 48), outputRejectLevels=True)
    most = max(confidences)
    assert len(HaarDetector(min_confidence=most - 0.01)(photo)) == 1
    assert len(HaarDetector(min_confidence=most + 0.01)(photo)) == 0


def test_tiles_find_a_face_in_a_dark_corner(photo):
    """A bright lamp beside a dark face: one histogram for both leaves the face as flat as it was."""
    dark = cv2.resize(photo, None, fx=0.5, fy=0.5)
    frame = np.hstack([(dark // 10 + 4).astype(np.uint8), np.full((dark.shape[0], 600, 3), 200, np.uint8)])
    frame[::2, 256:] = 235
    assert_covers(HaarDetector(equalization="clahe")(frame), LANDMARKS / 2, frame)


def turned(photo, degrees):
    """The photo turned clockwise about a point between the eyes and the mouth."""
    center = LANDMARKS.mean(0)
    return cv2.warpAffine(
        photo, cv2.getRotationMatrix2D(center.tolist(), -degrees, 1), photo.shape[1::-1], borderMode=cv2.BORDER_REFLECT
    )


def middle_of(box):
    return box[:2] + box[2:] / 2


@pytest.mark.parametrize("shift", [(0, 0), (25, -15), (-20, 30)])
@pytest.mark.parametrize("scale", [0.9, 1.15])
def test_a_close_look_finds_the_face_again(photo, detector, shift, scale):
    (box,) = detector(photo).astype(float)
    side = scale * box[2]
    expected = Detection(np.array([*(middle_of(box) + shift - side / 2), side, side]))
    (seen,) = detector.follow(photo, [expected])
    assert seen.confident
    np.testing.assert_allclose(seen.box, box, atol=0.13 * box[2])


@pytest.mark.parametrize("degrees", [-30, -20, 20, 30])
def test_a_close_look_finds_a_tilted_head_and_says_how(photo, detector, degrees):
    (box,) = detector(photo).astype(float)
    (seen,) = detector.follow(turned(photo, degrees), [Detection(box)])
    assert seen.confident
    assert np.sign(seen.roll) == np.sign(degrees)
    (again,) = detector.follow(turned(photo, degrees), [seen])
    assert abs(again.roll - degrees) <= 20
    np.testing.assert_allclose(middle_of(again.box), LANDMARKS.mean(0), atol=0.15 * box[2])


def test_close_looks_are_in_the_order_asked(photo, detector):
    frame = np.hstack([photo, photo])
    left = detector(photo)[0].astype(float)
    right, nowhere = left + np.array([photo.shape[1], 0, 0, 0]), np.array([0.0, 480, 100, 100])
    seen = detector.follow(frame, [Detection(box) for box in (right, nowhere, left)])
    assert seen[1] is None
    assert seen[0].box[0] - seen[2].box[0] == pytest.approx(photo.shape[1], abs=2)
    assert detector.follow(frame, []) == []


def test_a_close_look_at_the_frames_edge_and_beyond(photo, detector):
    (box,) = detector(photo).astype(float)
    (whole,) = detector.follow(photo, [Detection(box)])
    frame, shift = np.ascontiguousarray(photo[:, 165:]), np.array([165, 0, 0, 0])
    (cut,) = detector.follow(frame, [Detection(box - shift)])
    assert cut.box[0] < 0
    np.testing.assert_allclose(cut.box + shift, whole.box, atol=0.05 * box[2])
    assert detector.follow(frame, [Detection(np.array([9000.0, -9000, 40, 40]))]) == [None]
    assert detector.follow(frame[:1, :1], [Detection(np.array([0.0, 0, 0.2, 0.2]))]) == [None]


def test_fifty_faces(photo, detector):
    head = cv2.resize(photo[80:380, 117:417], (100, 100), interpolation=cv2.INTER_AREA)
    frame = np.tile(head, (5, 10, 1))
    boxes = detector(frame)
    assert len(boxes) == 50
    tiles = {(int(y + height / 2) // 100, int(x + width / 2) // 100) for x, y, width, height in boxes}
    assert len(tiles) == 50
    seen = detector.follow(frame, [Detection(box.astype(float)) for box in boxes])
    assert all(face and face.confident for face in seen)


def test_non_max_suppression_by_definition():
    rng = np.random.default_rng(0)
    boxes = rng.integers(1, 20, (40, 4)).astype(float)
    kept = non_max_suppression(boxes)

    def covered(a, b):
        x, y = (max(0, min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
        return x * y / min(a[2] * a[3], b[2] * b[3])

    for index in range(40):
        earlier = [covered(boxes[index], boxes[i]) for i in kept if i < index]
        assert (index in kept) == (max(earlier, default=0) <= 0.5)


def test_nothing_to_round_or_compare():
    none = boxes_of([])
    assert none.shape == (0, 4)
    assert clip_to_frame(none, 5, 5).shape == (0, 4)
    assert non_max_suppression(none) == []


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("scale_factor", 1.0),
        ("min_neighbors", -1),
        ("min_confidence", np.nan),
        ("min_size", 0),
        ("max_side", 0),
        ("equalization", "unknown"),  # the message begins so
    ],
)
def test_bad_argument_is_named(argument, value):
    with pytest.raises(FaceflaxError, match=f"{argument}: {value}"):
        HaarDetector(**{argument: value})


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs ../shared/data/video")
@pytest.mark.parametrize(("clip", "least", "most"), [("pyfeat_single_face.mp4", 6, 6), ("pyfeat_no_face.mp4", 0, 0)])
def test_clips(detector, clip, least, most):
    frames = [frame.image for frame in open_source(str(CLIPS / clip)).frames][:72:12]
    assert least <= sum(len(detector(frame)) for frame in frames) <= most
