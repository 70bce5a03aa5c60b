"""Detection against the photograph's eyes and mouth, whose pixels were read off by eye."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.faces.detection import (
    Detection,
    as_detections,
    boxes_of,
    clip_to_frame,
    iou,
    non_max_suppression,
    search,
)
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
    x, y, width, height = boxes[0].box
    assert 0 <= x < x + width <= frame.shape[1]
    assert 0 <= y < y + height <= frame.shape[0]
    assert ((points > [x, y]) & (points < [x + width, y + height])).all()


def test_finds_the_face_and_only_it(photo, detector):
    (face,) = detector(photo)
    assert face.box.shape == (4,)
    assert (face.box == np.rint(face.box)).all()
    assert face.landmarks is None
    assert 0.5 < face.score < 1
    assert_covers([face], LANDMARKS, photo)
    assert 150 < face.box[2] < 300


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
    assert detector(np.full((*shape, 3), 128, np.uint8)) == []


PAD = 64


def padded(photo):
    """What the detector searches: grey, equalised, with an eighth of the border repeated outwards."""
    grey = cv2.equalizeHist(cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY))
    return cv2.copyMakeBorder(grey, PAD, PAD, PAD, PAD, cv2.BORDER_REPLICATE)


def test_scores_and_boxes_are_those_of_opencvs_hits(photo):
    cascade = load_cascade("haarcascade_frontalface_default")
    boxes, hits = cascade.detectMultiScale2(padded(photo), 1.1, 1, minSize=(48, 48))
    box, most = boxes[np.argmax(hits)] - [PAD, PAD, 0, 0], max(hits)
    (face,) = HaarDetector()(photo)
    assert face.score == pytest.approx(most / (most + 6))
    np.testing.assert_allclose(face.box, box, atol=1)
    for min_score, found in ((face.score - 1e-6, 1), (face.score + 1e-6, 0)):
        assert len(HaarDetector(min_score=min_score, min_confidence=-np.inf)(photo)) == found


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
    box = detector(photo)[0].box
    side = scale * box[2]
    expected = Detection(np.array([*(middle_of(box) + shift - side / 2), side, side]))
    (seen,) = detector.follow(photo, [expected])
    assert seen.score >= 0.5
    np.testing.assert_allclose(seen.box, box, atol=0.13 * box[2])


@pytest.mark.parametrize("degrees", [-30, -20, 20, 30])
def test_a_close_look_finds_a_tilted_head_and_says_how(photo, detector, degrees):
    box = detector(photo)[0].box
    (seen,) = detector.follow(turned(photo, degrees), [Detection(box)])
    assert seen.score >= 0.5
    assert np.sign(seen.roll) == np.sign(degrees)
    (again,) = detector.follow(turned(photo, degrees), [seen])
    assert abs(again.roll - degrees) <= 20
    np.testing.assert_allclose(middle_of(again.box), LANDMARKS.mean(0), atol=0.15 * box[2])


def test_close_looks_are_in_the_order_asked(photo, detector):
    frame = np.hstack([photo, photo])
    left = detector(photo)[0].box
    right, nowhere = left + np.array([photo.shape[1], 0, 0, 0]), np.array([0.0, 480, 100, 100])
    seen = detector.follow(frame, [Detection(box) for box in (right, nowhere, left)])
    assert seen[1] is None
    assert seen[0].box[0] - seen[2].box[0] == pytest.approx(photo.shape[1], abs=2)
    assert detector.follow(frame, []) == []


def test_a_close_look_at_the_frames_edge_and_beyond(photo, detector):
    box = detector(photo)[0].box
    (whole,) = detector.follow(photo, [Detection(box)])
    frame, shift = np.ascontiguousarray(photo[:, 165:]), np.array([165, 0, 0, 0])
    (cut,) = detector.follow(frame, [Detection(box - shift)])
    assert cut.box[0] < 0
    np.testing.assert_allclose(cut.box + shift, whole.box, atol=0.05 * box[2])
    assert detector.follow(frame, [Detection(np.array([9000.0, -9000, 40, 40]))]) == [None]
    assert detector.follow(frame[:1, :1], [Detection(np.array([0.0, 0, 0.2, 0.2]))]) == [None]


def test_proposals_are_more_than_faces_and_not_the_known_ones(photo, detector):
    (face,) = detector(photo)
    proposed = detector.propose(photo, [])
    assert len(proposed) > 1
    np.testing.assert_array_equal(proposed[0].box, face.box)
    others = detector.propose(photo, [face])
    assert iou(boxes_of([face]), boxes_of(others)).max(initial=0) < 0.3


def test_fifty_faces(photo, detector):
    head = cv2.resize(photo[80:380, 117:417], (100, 100), interpolation=cv2.INTER_AREA)
    frame = np.tile(head, (5, 10, 1))
    found = detector(frame)
    assert len(found) == 50
    tiles = {(int(y + height / 2) // 100, int(x + width / 2) // 100) for x, y, width, height in boxes_of(found)}
    assert len(tiles) == 50
    seen = detector.follow(frame, found)
    assert all(face and face.score >= 0.5 for face in seen)


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


def test_whole_boxes_are_detections_that_are_certain():
    for found in (np.array([[1, 2, 30, 40]], np.int32), [[1, 2, 30, 40]], [(1, 2, 30, 40)], ((1, 2, 30, 40),)):
        (face,) = search(lambda frame, found=found: found, np.zeros((9, 9, 3), np.uint8))
        np.testing.assert_array_equal(face.box, [1, 2, 30, 40])
        assert (face.score, face.landmarks, face.roll) == (1.0, None, 0.0)
    for none in ((), [], np.empty((0, 4)), np.empty((0, 4), np.int32)):  # OpenCV's cascade gives an empty tuple
        assert as_detections(none) == []
    face = Detection(np.array([1.5, 2, 3, 4]), 0.5)
    assert as_detections([face]) == as_detections((face,)) == [face]


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (None, "NoneType"),
        (np.zeros((2, 4)), r"float64 \(2, 4\)"),
        (np.zeros((2, 5), int), r"int64 \(2, 5\)"),
        (np.zeros(4, int), r"int64 \(4,\)"),
        ([[1, 2, 3, 4], [5]], "list"),
        ([Detection(np.zeros(4)), None], "list"),
        ("face", "str"),
    ],
)
def test_a_detector_that_returns_something_else_is_told_so(found, shown):
    with pytest.raises(FaceflaxError, match=f"^detector: returned {shown}, which is neither detections nor integer"):
        search(lambda frame: found, np.zeros((9, 9, 3), np.uint8))


def test_nothing_to_round_or_compare():
    none = boxes_of([])
    assert none.shape == (0, 4)
    assert clip_to_frame(none, 5, 5).shape == (0, 4)
    assert non_max_suppression(none) == []


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("scale_factor", 1.0),
        ("min_score", -0.1),
        ("min_score", 1.0),
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
