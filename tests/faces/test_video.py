"""Faces followed through frames: the demo video, stills with noise, crowds, and frames of every size."""

import threading
from pathlib import Path
from queue import Queue

import cv2
import jax
import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.faces.analyzer import FaceAnalyzer
from faceflax.faces.choosing import make_detector
from faceflax.faces.crop import crop_face
from faceflax.faces.detection import Detection, boxes_of, iou
from faceflax.faces.haar import HaarDetector
from faceflax.faces.tracking import Track
from faceflax.faces.video import VideoAnalyzer
from faceflax.labels import GENDERS
from faceflax.media import demo
from faceflax.media.sources import open_source

CLIPS = Path(__file__).resolve().parents[2].parent / "shared/data/video"


@pytest.fixture(scope="module")
def analyzer(weights):
    return FaceAnalyzer(*weights, "haar", preset="fast")


@pytest.fixture(scope="module")
def clip():
    return list(demo.video())


def following(analyzer, **options):
    """A video analyzer with Haar, whatever the default is."""
    return VideoAnalyzer(analyzer, **{"detector": make_detector("haar", video=True)} | options)


@pytest.fixture
def video(analyzer):
    return following(analyzer)


class Counting(HaarDetector):
    """Counts how often it searches a whole frame."""

    searches = 0

    def propose(self, frame, known):
        self.searches += 1
        return super().propose(frame, known)


def noisy(image, seed, sigma=10):
    return np.clip(image + np.random.default_rng(seed).normal(0, sigma, image.shape), 0, 255).astype(np.uint8)


def test_one_face_keeps_its_number_and_its_box_is_the_detectors(video, clip):
    detector = HaarDetector()
    for index, frame in enumerate(clip):
        faces = video(frame)
        assert [face.track_id for face in faces] == [0]
        if index % 8 == 0:
            box, found = np.array([faces[0].box], float), boxes_of(detector(frame))
            assert iou(box, found).max() > 0.7


def test_locate_and_read_in_two_threads_are_one_call(analyzer, clip):
    one, two = following(analyzer), following(analyzer)
    located, faces = Queue(), []

    def read():
        while (item := located.get()) is not None:
            faces.append(one.read(*item))

    reader = threading.Thread(target=read)
    reader.start()
    for frame in clip[:30]:
        located.put((frame, one.locate(frame)))
    located.put(None)
    reader.join()
    for frame, found in zip(clip[:30], faces, strict=True):
        for face, other in zip(found, two(frame), strict=True):
            assert (face.track_id, face.box) == (other.track_id, other.box)
            np.testing.assert_array_equal(face.emotion_probabilities, other.emotion_probabilities)
            np.testing.assert_array_equal(face.gender_probabilities, other.gender_probabilities)


@pytest.mark.parametrize("smoothing", [0.0, 0.8])
def test_probabilities_are_averaged_by_the_formula(analyzer, clip, smoothing):
    tracks = [[Track(7, (260 + index, 80, 150, 150), True)] for index in range(12)]
    raw = [
        np.float64(analyzer.probabilities(frame, np.array([track.box]))[0][0])
        for frame, (track,) in zip(clip, tracks, strict=False)
    ]
    video = following(analyzer, smoothing=smoothing)
    expected = raw[0]
    for index, (frame, located) in enumerate(zip(clip, tracks, strict=False)):
        weight = max(1 - smoothing, 1 / (index + 1))
        expected = (1 - weight) * expected + weight * raw[index]
        (face,) = video.read(frame, located)
        np.testing.assert_allclose(face.emotion_probabilities, expected, atol=1e-5)
        assert face.emotion_probabilities.dtype == np.float32
        assert (face.track_id, face.box) == (7, located[0].box)


def answering(analyzer, monkeypatch, answers):
    """A video whose faces' probabilities of a woman are ``answers``, frame by frame."""
    emotions = np.full(7, 1 / 7, np.float32)
    faces = iter(
        analyzer.make_face(Detection(np.array([260.0, 80, 150, 150])), [emotions, np.float32([p, 1 - p])], {})
        for p in answers
    )
    monkeypatch.setattr(analyzer, "label_batch", lambda frames, found: [[next(faces)]])
    return analyzer


def test_a_label_stays_until_another_leads_it(analyzer, clip, monkeypatch):
    """Averages near one half change the label once they are past it by the lead, and not before; each time alike."""
    answers = [0.6] + 20 * [0.44, 0.54] + 40 * [0.3] + 60 * [0.52]
    video = following(answering(analyzer, monkeypatch, answers))
    mean, label, seen, expected = 0.0, "woman", [], []
    for index, p in enumerate(answers):
        mean += max(0.1, 1 / (index + 1)) * (p - mean)
        if abs(2 * mean - 1) > 0.05:
            label = "woman" if mean > 0.5 else "man"
        (face,) = video.read(clip[0], [Track(1, (260, 80, 150, 150), True)])
        own = face.gender_probabilities[GENDERS.index(face.gender)]
        assert face.sure_gender == (own >= analyzer.sure_from[1])
        seen.append(face.gender)
        expected.append(label)
    assert seen == expected
    assert (seen[40], seen[80], seen[-1]) == ("woman", "man", "man")


def test_without_smoothing_each_frame_is_labelled_by_itself(analyzer, clip, monkeypatch):
    answers = [0.6, 0.49, 0.51, 0.45]
    video = following(answering(analyzer, monkeypatch, answers), smoothing=0)
    seen = [video.read(clip[0], [Track(1, (260, 80, 150, 150), True)])[0].gender for _ in answers]
    assert seen == ["woman", "man", "woman", "man"]


def test_frames_read_together_are_those_read_one_by_one(analyzer, clip):
    """With a face that comes, is missed, and goes, and a frame without any."""
    one, two = (Track(number, (260 + number, 80, 150, 150), True) for number in (0, 1))
    located = [[one], [one, two], [], [one, Track(1, two.box, False)], [two], [Track(2, one.box, False)], [one]]
    together, apart = following(analyzer), following(analyzer)
    batched = together.read_batch(clip[:3], located[:3]) + together.read_batch(clip[3:7], located[3:])
    assert together.read_batch([], []) == []
    for frame, tracks, faces in zip(clip, located, batched, strict=False):
        for face, other in zip(faces, apart.read(frame, tracks), strict=True):
            assert (face.track_id, face.box) == (other.track_id, other.box)
            np.testing.assert_allclose(face.emotion_probabilities, other.emotion_probabilities, atol=1e-5)
            np.testing.assert_allclose(face.gender_probabilities, other.gender_probabilities, atol=1e-5)
    assert [len(faces) for faces in batched] == [1, 2, 0, 2, 1, 1, 1]


def test_a_face_that_is_not_seen_keeps_its_labels(video, clip):
    box = (260, 80, 150, 150)
    (before,) = video.read(clip[0], [Track(3, box, True)])
    (after,) = video.read(np.zeros_like(clip[0]), [Track(3, box, False)])
    np.testing.assert_array_equal(before.emotion_probabilities, after.emotion_probabilities)
    (unread,) = video.read(clip[0], [Track(4, box, False)])  # its first frames were dropped on the way
    np.testing.assert_allclose(unread.emotion_probabilities, before.emotion_probabilities, atol=1e-6)


def test_faces_that_are_gone_take_no_memory(video, clip):
    for number in range(60):
        video.read(clip[0], [Track(number, (260, 80, 150, 150), True)])
    assert len(video._averages) <= video.finder.tracker.memory + 1


@pytest.mark.slow
def test_labels_and_boxes_of_a_still_face_are_steady(clip):
    """With the shipped weights, on stills over the whole video: on some the noise alone changes a frame's label."""
    analyzer = FaceAnalyzer(detector="haar", preset="fast")
    flickers = {"each frame alone": 0, "over time": 0}
    for still in clip[1::10]:
        plain, steady = following(analyzer, smoothing=0), following(analyzer)
        faces = []
        for index in range(40):
            frame = noisy(still, index, sigma=20)
            if located := steady.locate(frame):
                faces.append((plain.read(frame, located)[0], steady.read(frame, located)[0]))
        later = faces[-33:]  # before that the average is of a few frames
        assert len(faces) >= 39
        assert {face.track_id for _, face in later} == {0}
        assert np.std([face.box for _, face in later], axis=0).max() < 0.01 * later[0][1].box[2]
        for way, shown in zip(flickers, zip(*later, strict=True), strict=True):
            labels = np.array([(face.emotion, face.gender) for face in shown])
            flickers[way] += np.sum(labels[1:] != labels[:-1])
    assert flickers["each frame alone"] > 20
    assert flickers["over time"] < flickers["each frame alone"] / 5


@pytest.mark.parametrize("every", [1, 7])
def test_the_whole_frame_is_searched_every_so_often(analyzer, clip, every):
    detector = Counting()
    video = following(analyzer, detector=detector, full_search_every=every)
    for index, frame in enumerate(clip[:15]):
        video.locate(frame)
        assert detector.searches == index // every + 1


def test_a_new_scene_is_searched_at_once(analyzer, clip):
    video = following(analyzer, full_search_every=1000)
    dark = np.zeros_like(clip[0])
    found = [len(video.locate(frame)) for frame in [dark] * 3 + clip[:3] + [dark] * 2]
    assert found == [0, 0, 0, 1, 1, 1, 0, 0]


def test_a_flash_does_not_change_the_face(video, clip):
    bright = cv2.convertScaleAbs(clip[0], alpha=1.5, beta=40)
    ids = {track.id for frame in [clip[0]] * 5 + [bright] * 5 + [clip[0]] * 5 for track in video.locate(frame)}
    assert ids == {0}


def test_frames_of_changing_size(video, clip):
    ids = []
    for scale in (1, 1, 1, 2, 2, 0.7, 0.7, 1, 1):
        frame = cv2.resize(clip[0], None, fx=scale, fy=scale)
        for face in video(frame):
            ids.append(face.track_id)
            x, y, width, height = np.array(face.box) / scale
            assert x < 290 < 365 < x + width
            assert y < 140 < 210 < y + height
    assert ids == [0, 0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (360, 640), (4320, 7680)])
def test_no_face_in_frames_of_any_size(video, shape):
    for level in (0, 0, 255):
        assert video(np.full((*shape, 3), level, np.uint8)) == []


def test_a_face_in_an_8k_frame(video, clip):
    frame = cv2.resize(clip[0], (7680, 4320))
    video.locate(frame)
    (face,) = video(frame)
    x, y, width, height = np.array(face.box) / 12
    assert x < 290 < 365 < x + width
    assert y < 140 < 210 < y + height


def test_fifty_faces_and_nothing_compiles(analyzer):
    head = cv2.resize(demo.photograph()[80:380, 117:417], (100, 100), interpolation=cv2.INTER_AREA)
    frame = np.tile(head, (5, 10, 1))
    video = following(analyzer, full_search_every=2)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    try:
        tracks = [{face.track_id: face.box for face in video(noisy(frame, seed, 3))} for seed in range(8)]
    finally:
        jax.monitoring.clear_event_listeners()
    places = {(int(x + width / 2) // 100, int(y + height / 2) // 100) for x, y, width, height in tracks[-1].values()}
    assert len(tracks[-1]) == len(places) == 50
    assert set(tracks[1]) <= set(tracks[-1])
    assert not [name for name in compiled if "compile" in name]


def test_reset_begins_another_video(video, clip):
    for frame in clip[:3]:
        video(frame)
    video.reset()
    assert [face.track_id for face in video(clip[0])] == [1]


def test_a_video_of_one_frame_shows_its_face(video, clip):
    (face,) = video(clip[0])
    assert face.score > 0.7
    assert face.crops


def test_a_plain_function_searches_every_frame_and_its_boxes_are_shown_at_once(analyzer, clip):
    places = iter([[[100, 100, 60, 60]], [[104, 100, 60, 60]], [], [[300, 50, 60, 60], [112, 100, 60, 60]]])
    video = VideoAnalyzer(analyzer, detector=lambda frame: next(places), full_search_every=1000)
    found = [{face.track_id: face.box[0] for face in video(frame)} for frame in [clip[0]] * 4]
    assert [set(faces) for faces in found] == [{0}, {0}, {0}, {0, 1}]
    assert 108 <= found[3][0] <= 112


class Scripted:
    """A detector that follows, whose answers are given."""

    min_score = 0.5

    def __init__(self, searched, followed):
        self.searched, self.followed = searched, followed
        self.searches = 0

    def __call__(self, frame):
        self.searches += 1
        return self.searched

    def follow(self, frame, expected):
        return [self.followed(face) for face in expected]


def test_a_low_score_keeps_a_face_and_begins_none(analyzer, clip):
    box = np.array([100.0, 100, 60, 60])
    for score, shown in ((0.6, 6), (0.3, 0)):
        detector = Scripted([Detection(box, 0.9)], lambda face, score=score: Detection(box, score))
        video = VideoAnalyzer(analyzer, detector=detector)
        assert sum(len(video.locate(clip[0])) for _ in range(7)) == shown
        assert detector.searches == 2  # one in five
    detector = Scripted([Detection(box, 0.9)], lambda face: Detection(box, 0.9))
    video = VideoAnalyzer(analyzer, detector=detector)
    video.locate(clip[0])
    detector.followed = lambda face: Detection(box, 0.3)
    assert [track.id for _ in range(3) for track in video.locate(clip[0])] == [0] * 3


def test_the_crop_of_a_tracked_face_is_upright(analyzer, clip):
    box = np.array([240.0, 70, 170, 215])
    tilted = np.float32([[280, 150], [350, 120], [330, 185], [310, 235], [370, 205]])
    detector = Scripted([Detection(box, 0.9, tilted)], lambda face: Detection(box, 0.9, tilted))
    video = VideoAnalyzer(analyzer, detector=detector)
    for _ in range(3):
        (face,) = video(clip[0])
    np.testing.assert_allclose(face.landmarks, tilted, atol=0.5)
    assert face.square.roll < -15
    grey = cv2.cvtColor(clip[0], cv2.COLOR_BGR2GRAY)
    for (margin, size), crop in face.crops.items():
        np.testing.assert_array_equal(crop, crop_face(grey, face.box, margin, size, face.landmarks))


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs ../shared/data/video")
@pytest.mark.parametrize("background", [False, True], ids=["in another place", "in the same place"])
def test_after_a_cut_to_another_person_there_is_another_face(analyzer, background):
    """A man's face, then a woman's of the same size and place; also where the rest of the picture stays."""
    heads = []
    for name, (left, top, side) in (
        ("pyfeat_WolfgangLanger_Pexels.mp4", (290, 62, 275)),
        ("pyfeat_single_face.mp4", (195, 90, 200)),
    ):
        frame = next(iter(open_source(str(CLIPS / name)).frames)).image
        margin = side // 4
        y, x = max(0, top - margin), max(0, left - margin)
        heads.append(cv2.resize(frame[y : top + side + margin, x : left + side + margin], (240, 240)))
    scene = np.full((360, 640, 3), 128, np.uint8)
    scenes = []
    for shade, head in zip((128, 128 if background else 20), heads, strict=True):
        scene = np.full((540, 960, 3), shade, np.uint8)
        scene[100:340, 300:540] = head
        scenes.append(scene)
    video = following(analyzer)
    ids = [[face.track_id for face in video(scene)] for scene in [scenes[0]] * 6 + [scenes[1]] * 6]
    assert ids[:6] == [[0]] * 6
    assert ids[-1] == [1]
    assert all(0 not in shown for shown in ids[6:])


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs ../shared/data/video")
def test_a_face_that_is_cut_away_is_gone(analyzer):
    """Frame 71 is the last with the face; from 72 on the clip shows a title."""
    video = following(analyzer)
    frames = [frame.image for frame in open_source(str(CLIPS / "pyfeat_face_noface.mov")).frames][50:120]
    assert [len(video.locate(frame)) for frame in frames] == [1] * 22 + [0] * 48


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs ../shared/data/video")
def test_a_head_that_tilts_is_followed(analyzer):
    """In its last second the clip's face is tilted further than Haar's cascade finds by itself."""
    video = following(analyzer)
    frames = [frame.image for frame in open_source(str(CLIPS / "pyfeat_WolfgangLanger_Pexels.mp4")).frames][432:]
    tracks = [video.locate(frame) for frame in frames][1:]
    assert {len(found) for found in tracks} == {1}
    assert {track.id for found in tracks for track in found} == {0}
    x, y, width, height = tracks[-1][0].box
    assert x < 427 < 522 < x + width  # the eyes, read off by eye
    assert y < 172 < 213 < y + height
    assert y < 282 < y + height  # the mouth


@pytest.mark.parametrize(
    ("argument", "value"), [("full_search_every", 0), ("smoothing", 1.0), ("smoothing", -0.1), ("smoothing", np.nan)]
)
def test_bad_argument_is_named(analyzer, argument, value):
    with pytest.raises(FaceflaxError, match=f"{argument}: {value}"):
        following(analyzer, **{argument: value})


@pytest.mark.parametrize("frame", [None, np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.uint16)])
def test_bad_frame_is_named(video, frame):
    with pytest.raises(FaceflaxError, match="frame: "):
        video.locate(frame)
    with pytest.raises(FaceflaxError, match="frame: "):
        video.read(frame, [])
