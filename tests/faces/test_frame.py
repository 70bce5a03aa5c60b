import threading

import cv2
import numpy as np
import pytest

from faceflax.faces.analyzer import FaceAnalyzer
from faceflax.faces.choosing import make_detector
from faceflax.faces.crop import crop_face
from faceflax.faces.frame import Frame, as_frame
from faceflax.faces.tracking import Track
from faceflax.faces.video import VideoAnalyzer
from faceflax.live.overlay import SaliencyOverlay
from faceflax.media import demo
from faceflax.pretrained import weights_info

IMAGE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def analyzer(weights):
    return FaceAnalyzer(*weights, "haar", preset="fast")


@pytest.fixture
def conversions(monkeypatch):
    """Counts conversions from colour to grey."""
    codes, convert = [], cv2.cvtColor

    def counting(image, code, *rest, **named):
        codes.append(code)
        return convert(image, code, *rest, **named)

    monkeypatch.setattr(cv2, "cvtColor", counting)
    return lambda: codes.count(cv2.COLOR_BGR2GRAY)


def test_a_frame_is_an_array_with_its_grey_image_its_source_and_time():
    frame = Frame(IMAGE, "clip.mp4", index=7, time=0.5)
    np.testing.assert_array_equal(frame, IMAGE)
    np.testing.assert_array_equal(frame.grey, cv2.cvtColor(IMAGE, cv2.COLOR_BGR2GRAY))
    assert type(frame.grey) is type(frame.image) is np.ndarray
    assert frame.grey is frame.grey
    assert (frame.name, frame.index, frame.time) == ("clip.mp4", 7, 0.5)
    assert np.shares_memory(frame, IMAGE)


def test_the_weights_of_grey_are_those_of_rec_601():
    exact = IMAGE @ np.array([0.114, 0.587, 0.299])
    np.testing.assert_allclose(Frame(IMAGE).grey, exact, atol=0.51)


def test_opencv_takes_a_frame_as_an_array(tmp_path):
    frame = Frame(IMAGE)
    assert cv2.imwrite(str(tmp_path / "f.png"), frame)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "f.png")), IMAGE)
    np.testing.assert_array_equal(cv2.resize(frame, (80, 60)), cv2.resize(IMAGE, (80, 60)))


def test_what_is_made_of_a_frame_has_no_stale_grey():
    frame = Frame(IMAGE)
    assert frame.grey.shape == (30, 40)
    part = frame[5:25, 10:30]
    np.testing.assert_array_equal(part.grey, frame.grey[5:25, 10:30])
    changed = frame.copy()
    changed[:] = 0
    assert changed.grey.max() == 0
    assert frame.grey.max() > 0
    assert type(frame + 1) is type(frame.astype(float) / 2) is np.ndarray
    assert isinstance(frame.mean(), float)


def test_masked_is_black_in_the_boxes_alone():
    frame = Frame(IMAGE)
    masked = frame.masked(np.array([[3, 4, 10, 12], [20, 0, 20, 9]], np.int32))
    expected = IMAGE.copy()
    expected[4:16, 3:13] = expected[0:9, 20:40] = 0
    np.testing.assert_array_equal(masked, expected)
    np.testing.assert_array_equal(masked.grey, cv2.cvtColor(expected, cv2.COLOR_BGR2GRAY))
    np.testing.assert_array_equal(frame, IMAGE)


def test_a_frame_is_taken_as_it_is():
    frame = Frame(IMAGE)
    assert as_frame(frame) is frame
    assert np.shares_memory(as_frame(IMAGE), IMAGE)


def test_threads_that_ask_together_get_the_same_grey():
    frame = Frame(np.tile(IMAGE, (20, 20, 1)))
    barrier, greys = threading.Barrier(8), []

    def ask():
        barrier.wait()
        greys.append(frame.grey)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for grey in greys:
        np.testing.assert_array_equal(grey, cv2.cvtColor(np.tile(IMAGE, (20, 20, 1)), cv2.COLOR_BGR2GRAY))


def saliency(faces, emotions):
    return None, faces


def test_grey_is_computed_once_a_frame_from_detection_to_overlay(analyzer, weights, conversions):
    """With a search of every frame, tracks, both networks and saliency maps."""
    info = weights_info(weights[0])
    overlay = SaliencyOverlay(saliency, info.crop_margin, info.image_size)
    video, found = VideoAnalyzer(analyzer, detector=make_detector("haar", video=True), full_search_every=1), 0
    frames = [Frame(image) for _, image in zip(range(5), demo.video(), strict=False)]
    for frame in frames:
        faces = video(frame)
        overlay(frame, faces)
        found += len(faces)
    assert found == 5
    assert conversions() == len(frames)


def test_a_plain_image_is_converted_once_too(analyzer, weights, conversions):
    info = weights_info(weights[0])
    photo = demo.photograph()
    faces = analyzer(photo)
    SaliencyOverlay(saliency, info.crop_margin, info.image_size)(photo, faces)  # by the crops that the faces carry
    assert len(faces) == conversions() == 1


def test_crops_are_carried_and_any_other_is_cut(analyzer, weights):
    photo = demo.photograph()
    grey = cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)
    (face,) = analyzer(photo)
    infos = [weights_info(file) for file in weights]
    assert set(face.crops) == {(info.crop_margin, info.image_size) for info in infos}
    for (margin, size), crop in face.crops.items():
        np.testing.assert_array_equal(crop, crop_face(grey, face.box, margin, size))
        assert face.crop(np.zeros_like(photo), margin, size) is crop
    np.testing.assert_array_equal(face.crop(photo, 0.2, 50), crop_face(grey, face.box, 0.2, 50))
    assert "crops" not in repr(face)


def test_a_tracked_face_carries_crops_of_the_frame_in_which_it_was_seen(analyzer):
    video = VideoAnalyzer(analyzer, detector=make_detector("haar", video=True))
    frames = list(demo.video())[:3]
    for frame in frames:
        faces = video(frame)
    (face,) = faces
    for (margin, size), crop in face.crops.items():
        grey = cv2.cvtColor(frames[-1], cv2.COLOR_BGR2GRAY)
        np.testing.assert_array_equal(crop, crop_face(grey, face.box, margin, size))
    (unseen,) = video.read(frames[0], [Track(face.track_id, face.box, seen=False)])
    assert not unseen.crops
    np.testing.assert_array_equal(unseen.emotion_probabilities, face.emotion_probabilities)


def test_a_detector_of_ones_own_gets_an_array(weights):
    given = []

    def detector(frame):
        assert cv2.resize(frame, (64, 48)).shape == (48, 64, 3)
        given.append(frame)
        return np.array([[1, 2, 30, 40]])

    (face,) = FaceAnalyzer(*weights, detector, preset="fast")(demo.photograph())
    assert face.box == (1, 2, 30, 40)
    assert isinstance(given[0], np.ndarray)
    np.testing.assert_array_equal(given[0], demo.photograph())
