"""Tracks of simulated faces, whose paths are known."""

import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.faces.detection import Detection, boxes_of, iou
from faceflax.faces.tracking import Tracker

SIZE = {"height": 400, "width": 600}


def detection(x, y=100.0, side=40.0, score=0.6, landmarks=None):
    return Detection(np.array([x, y, side, side]), score, landmarks)


def step(tracker, *found, new=(), cut=False, grey=None):
    """One frame: what was found near the faces, and elsewhere."""
    tracker.predict()
    tracker.update(found, new, cut=cut, grey=grey, **SIZE)
    return tracker.tracks()


def followed(x=100.0, frames=30, speed=0.0, **options):
    """A tracker that has followed one face for so many frames."""
    tracker = Tracker(**options)
    for frame in range(frames):
        step(tracker, new=[detection(x + speed * frame)])
    return tracker


def test_a_face_is_shown_when_it_is_seen_again():
    tracker = Tracker(confirm=3)
    assert step(tracker, new=[detection(100)]) == []
    assert step(tracker, detection(100)) == []
    (track,) = step(tracker, detection(100))
    assert (track.id, track.box, track.seen) == (0, (100, 100, 40, 40), True)


def test_what_is_seen_once_is_never_shown():
    tracker = Tracker()
    for frame in range(20):
        assert step(tracker, new=[detection(100)] if frame % 2 == 0 else []) == []


@pytest.mark.parametrize("missed", [1, 3, 14])
def test_a_face_that_comes_back_in_time_has_its_number(missed):
    tracker = followed()
    for frame in range(missed):
        assert [track.seen for track in step(tracker)] == ([False] if frame < tracker.show_missed else [])
    for _ in range(20):
        tracks = step(tracker, new=[detection(105)])
    assert [track.id for track in tracks] == [0]


def test_a_face_that_comes_back_late_has_another_number():
    tracker = followed()
    for _ in range(tracker.memory):
        step(tracker)
    step(tracker, new=[detection(100)])
    (track,) = step(tracker, detection(100))
    assert track.id == 1


def test_a_face_seen_for_a_short_time_is_soon_forgotten():
    tracker = followed(frames=3)
    for _ in range(3):
        step(tracker)
    assert tracker.predict() == []


def test_a_face_that_is_only_detected_with_low_scores_fades():
    tracker = followed()
    frames = 0
    while step(tracker, detection(100, score=0.4)):
        frames += 1
    assert 4 * (tracker.memory - tracker.confirm) - 1 <= frames <= 4 * (tracker.memory - tracker.confirm) + 1
    assert [track.id for track in step(followed(), detection(100, score=0.4))] == [0]


def test_a_detection_elsewhere_with_a_low_score_begins_nothing():
    tracker = followed()
    for _ in range(3):
        tracks = step(tracker, detection(100), detection(300, score=0.4))
    assert [track.id for track in tracks] == [0]


def test_a_moving_face_that_is_not_seen_is_shown_where_it_should_be():
    tracker = followed(speed=4)
    (track,) = step(tracker)
    assert track.box[0] == pytest.approx(100 + 4 * 30, abs=1)
    assert not track.seen


def test_still_boxes_are_steadied_and_moving_ones_do_not_lag():
    rng = np.random.default_rng(0)
    for speed in (0.0, 3.0):
        tracker, errors = Tracker(), []
        for frame in range(120):
            x = 20 + speed * frame
            noise = rng.normal(0, 2, 2)
            side = 80 * np.exp(rng.normal(0, 0.03))
            tracks = step(tracker, new=[detection(x + noise[0] + 40 - side / 2, 100 + noise[1] + 40 - side / 2, side)])
            if frame >= 20:
                box = np.array(tracks[0].box)
                errors.append([*(box[:2] + box[2:] / 2 - [x + 40, 140]), box[2] - 80])
        assert np.abs(np.mean(errors, axis=0)).max() < 0.7
        assert np.diff(errors, axis=0).std(0).max() < 0.5 * np.sqrt(2) * 2  # half of how the detections jump


def test_numbers_stay_with_faces_that_pass_each_other():
    """Beside each other they overlap, but motion and height tell them apart."""
    tracker = Tracker()
    for frame in range(60):
        boxes = [detection(100 + 4 * frame, 100), detection(340 - 4 * frame, 125)]
        tracks = step(tracker, new=boxes[:: 1 if frame % 2 else -1])
        if frame > 1:
            left, right = (next(t for t in tracks if t.id == number) for number in (1, 0))
            assert abs(left.box[0] - boxes[0].box[0]) < 8
            assert abs(right.box[0] - boxes[1].box[0]) < 8


def test_sightings_are_shared_out_for_the_largest_overlap_in_all():
    """The middle detection overlaps most with the second face, but that one has another and the first has not."""
    tracker = Tracker(confirm=1)
    step(tracker, new=[detection(100), detection(120)])
    first, second = step(tracker, detection(112), detection(136))
    assert (first.id, second.id) == (0, 1)
    assert 100 < first.box[0] < 112
    assert 120 < second.box[0] < 136


def test_one_face_seen_twice_is_one_face():
    tracker = followed()
    for _ in range(3):
        tracks = step(tracker, detection(100), new=[detection(104), detection(108, 106, 30)])
    assert [track.id for track in tracks] == [0]


def test_faces_in_a_new_scene():
    tracker = Tracker()
    for _ in range(9):
        step(tracker, new=[detection(100), detection(300)])
    assert [track.id for track in step(tracker, detection(300), cut=True)] == [1]
    assert len(tracker.predict()) == 1


def test_a_face_that_leaves_the_frame_is_forgotten():
    tracker = followed(x=380, speed=6)
    for _ in range(12):
        step(tracker)
    assert tracker.predict() == []


def test_boxes_are_inside_the_frame_and_numbers_differ():
    rng = np.random.default_rng(1)
    tracker = Tracker(confirm=1)
    for _ in range(200):
        places = rng.uniform([-50, -50, 5], [620, 420, 150], (rng.integers(0, 12), 3))
        tracks = step(tracker, new=[detection(*place) for place in places])
        assert len({track.id for track in tracks}) == len(tracks)
        for x, y, width, height in (track.box for track in tracks):
            assert 0 <= x < x + width <= SIZE["width"]
            assert 0 <= y < y + height <= SIZE["height"]


def test_low_scores_come_second():
    """A face gets the good detection, though the poor one lies nearer to where it should be; that is left to no one."""
    tracker = Tracker(confirm=1)
    for _ in range(5):
        step(tracker, new=[detection(100), detection(180)])
    near, good = detection(96, side=34, score=0.3), detection(116, score=0.9)
    assert iou(boxes_of([detection(100)]), boxes_of([near, good])).argmax() == 0
    tracks = step(tracker, near, good, detection(178, score=0.3))
    assert [(track.id, track.seen, track.score) for track in tracks] == [(0, True, 0.9), (1, True, 0.3)]
    assert tracks[0].box[0] > 104


@pytest.mark.parametrize(
    ("min_score", "score", "shown"), [(0.5, 0.74, 0), (0.5, 0.76, 1), (0.7, 0.8, 0), (0.7, 0.86, 1)]
)
def test_a_face_with_a_high_score_is_shown_at_once(min_score, score, shown):
    tracker = Tracker(confirm=4)
    tracker.update([], [detection(100, score=score)], min_score=min_score, **SIZE)
    assert len(tracker.tracks()) == shown


def picture(*patterns):
    """A frame with a pattern of squares in each place of 40 pixels, and what stands beside it even."""
    grey = np.full((400, 600), 90, np.uint8)
    for x, seed in patterns:
        squares = np.random.default_rng(seed).integers(0, 256, (8, 8)).astype(np.uint8)
        grey[100:140, x : x + 40] = squares.repeat(5, axis=0).repeat(5, axis=1)
    return grey


@pytest.mark.parametrize("cut", [False, True])
def test_another_face_at_the_same_place_has_another_number(cut):
    tracker = Tracker(confirm=1)
    for _ in range(9):
        step(tracker, new=[detection(100), detection(300)], grey=picture((100, 1), (300, 2)))
    tracks = step(tracker, detection(100), detection(300), grey=picture((100, 7), (300, 2)), cut=cut)
    assert [track.id for track in tracks] == [1, 2]
    assert tracks[1].box == (100, 100, 40, 40)
    tracks = step(tracker, detection(100), detection(300), grey=picture((100, 7), (300, 2)))
    assert [track.id for track in tracks] == [1, 2]


def test_a_face_that_becomes_darker_or_moves_a_little_is_the_same():
    tracker = Tracker(confirm=1)
    step(tracker, new=[detection(100)], grey=picture((100, 1)))
    dark = (picture((100, 1)) // 3 + 20).astype(np.uint8)
    for cut in (False, True):
        assert [track.id for track in step(tracker, detection(100), grey=dark, cut=cut)] == [0]
    assert [track.id for track in step(tracker, detection(101, 101), grey=dark)] == [0]


def test_an_even_surface_says_nothing_of_who_it_is():
    tracker = Tracker(confirm=1)
    step(tracker, new=[detection(100)], grey=picture((100, 1)))
    assert [track.id for track in step(tracker, detection(100), grey=picture(), cut=True)] == [0]


def test_a_poor_detection_of_another_face_begins_nothing():
    tracker = Tracker(confirm=1)
    for _ in range(3):
        step(tracker, new=[detection(100)], grey=picture((100, 1)))
    (track,) = step(tracker, detection(100, score=0.3), grey=picture((100, 7)))
    assert (track.id, track.seen) == (0, False)


def test_landmarks_are_steadied_and_go_with_the_box():
    rng = np.random.default_rng(0)
    places = np.float32([[12, 16], [28, 16], [20, 24], [13, 31], [27, 31]])
    tracker, found, shown = Tracker(confirm=1), [], []
    for frame in range(80):
        corner = np.array([20.0 + 3 * frame, 100])
        noisy = (places + corner + rng.normal(0, 1, (5, 2))).astype(np.float32)
        (track,) = step(tracker, new=[detection(*corner, landmarks=noisy)])
        assert track.landmarks.dtype == np.float32
        found.append(noisy - places - corner)
        shown.append(track.landmarks - places - corner)
    assert np.std(shown[20:]) < 0.6 * np.std(found[20:])
    assert np.abs(np.mean(shown[20:], axis=0)).max() < 0.5
    (unseen,) = step(tracker)
    assert not unseen.seen
    np.testing.assert_allclose(unseen.landmarks - track.landmarks, [[3, 0]] * 5, atol=0.3)
    assert followed().tracks()[0].landmarks is None


def test_reset_forgets_faces_and_gives_no_number_again():
    tracker = followed()
    tracker.reset()
    assert tracker.predict() == []
    step(tracker, new=[detection(100)])
    assert [track.id for track in step(tracker, detection(100))] == [1]


def test_iou_by_counting_pixels():
    rng = np.random.default_rng(2)
    boxes, others = (rng.integers(1, 12, (5, 4)).astype(float) for _ in range(2))

    def pixels(box):
        picture = np.zeros((30, 30), bool)
        x, y, width, height = box.astype(int)
        picture[y : y + height, x : x + width] = True
        return picture

    expected = [[(pixels(a) & pixels(b)).sum() / (pixels(a) | pixels(b)).sum() for b in others] for a in boxes]
    np.testing.assert_allclose(iou(boxes, others), expected)


@pytest.mark.parametrize(
    "options", [{"confirm": 0}, {"confirm": 16}, {"show_missed": -1}, {"show_missed": 16}, {"min_iou": 0.0}]
)
def test_bad_argument_is_named(options):
    ((name, value),) = options.items()
    with pytest.raises(FaceflaxError, match=f"{name}: {value}"):
        Tracker(**options)
