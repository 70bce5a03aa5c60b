"""One analyzer and its detectors in many threads, in a forked child, and on a frame that changes meanwhile."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.faces.analyzer import FaceAnalyzer
from faceflax.faces.detection import Detection
from faceflax.faces.haar import HaarDetector
from faceflax.faces.network import NetworkDetector
from faceflax.faces.video import VideoAnalyzer
from faceflax.faces.yunet import YuNetDetector
from faceflax.media import demo

from .networks import Seer

ROOT = Path(__file__).resolve().parents[2]
YUNET = ROOT.parent / "shared/reference/yunet_2026may.onnx"
THREADS, CALLS = 8, 500


@pytest.fixture(scope="module")
def frames():
    """Twenty frames of different sizes, small, so that many calls take little time."""
    return [cv2.resize(frame, (140 + 2 * i, 100 + i)) for i, frame in enumerate(list(demo.video())[:60:3])]


def detectors():
    yield "haar", lambda: HaarDetector(min_size=30, scale_factor=1.2)
    yield "network", lambda: NetworkDetector(Seer([[60, 20, 60, 75], [10, 20, 24, 30]]))
    yield "faceflax", NetworkDetector
    if YUNET.is_file():
        yield "yunet", lambda: YuNetDetector(YUNET)


def content(faces):
    return [
        (face.box, face.score, face.emotion_probabilities.tobytes(), face.gender_probabilities.tobytes(), marks(face))
        for face in faces
    ]


def marks(face):
    return None if face.landmarks is None else face.landmarks.tobytes()


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in detectors()])
def test_eight_threads_get_what_one_gets_to_the_last_bit(weights, frames, make):
    analyzer = FaceAnalyzer(*weights, make(), preset="fast")
    alone = [content(analyzer(frame)) for frame in frames]
    assert sum(map(len, alone)) >= 15
    order = np.random.default_rng(0).integers(0, len(frames), CALLS)
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda index: content(analyzer(frames[index])), order))
    assert all(found == alone[index] for found, index in zip(together, order, strict=True))


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in detectors()])
def test_close_looks_in_threads_are_those_of_one(frames, make):
    detector = make()
    expected = [Detection(np.array([60.0, 20, 60, 75]))]

    def look(frame):
        return [face and (face.box.tobytes(), face.score, marks(face)) for face in detector.follow(frame, expected)]

    alone = [look(frame) for frame in frames]
    assert any(face is not None for (face,) in alone)
    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(look, frames * 10)) == alone * 10


def test_videos_share_an_analyzer_and_a_detector(weights, frames):
    """Each of four threads has a video of its own."""
    analyzer, detector = FaceAnalyzer(*weights, "haar", preset="fast"), HaarDetector(1.25, min_size=30)
    same = [cv2.resize(frame, (200, 140)) for frame in frames[:8]]

    def run(order):
        video = VideoAnalyzer(analyzer, detector=detector)
        return [content(video(same[index])) for index in order]

    orders = [list(np.random.default_rng(seed).permutation(8)) for seed in range(4)]
    alone = [run(order) for order in orders]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, orders)) == alone


def test_a_video_analyzer_is_one_threads_at_a_time(weights, frames):
    """While one thread searches, another is refused; afterwards it is not."""
    entered, leave = threading.Event(), threading.Event()

    def detector(frame):
        entered.set()
        leave.wait(10)
        return []

    video = VideoAnalyzer(FaceAnalyzer(*weights, detector, preset="fast"), detector=detector)
    thread = threading.Thread(target=video.locate, args=(frames[0],))
    thread.start()
    entered.wait(10)
    with pytest.raises(
        FaceflaxError, match=r"^VideoAnalyzer: is in use by another thread, and it is one video's; make"
    ):
        video.locate(frames[1])
    assert video.read(frames[0], []) == []  # the other half may work meanwhile
    leave.set()
    thread.join()
    assert video.locate(frames[1]) == []


def test_a_frame_that_another_thread_changes_does_no_harm(weights):
    frame = cv2.resize(demo.photograph(), (256, 300))
    analyzer = FaceAnalyzer(*weights, "haar", preset="fast")
    video = VideoAnalyzer(analyzer, detector=HaarDetector(1.25), full_search_every=1)
    done = threading.Event()

    def scribble():
        rng = np.random.default_rng(0)
        while not done.is_set():
            frame[rng.integers(0, 300, 50)] = rng.integers(0, 256)
            frame[:] = frame[:, ::-1]

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for _ in range(30):
            for face in [*analyzer(frame), *video(frame)]:
                assert face.emotion_probabilities.sum() == pytest.approx(1, abs=1e-5)
    finally:
        done.set()
        thread.join()


def test_a_forked_child_is_told_so_and_does_not_hang():
    script = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
import faceflax
from faceflax.faces import HaarDetector
from faceflax.media import demo
frame = demo.photograph()
analyzer, detector = faceflax.FaceAnalyzer(preset="fast", detector="haar"), HaarDetector()
assert analyzer(frame) and detector(frame)
child = os.fork()
if child == 0:
    signal.alarm(60)
    for call, *rest in ((analyzer,), (detector,), (detector.follow, []), (detector.propose, [])):
        try:
            call(frame, *rest)
        except faceflax.FaceflaxError as error:
            print(error, flush=True)
    assert faceflax.FaceAnalyzer(preset="fast", detector="haar")(frame)  # what it has made itself works
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert analyzer(frame)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" was made")[0] for line in lines] == [
        "process: this FaceAnalyzer",
        *["process: this HaarDetector"] * 3,
    ]
    assert all("whose threads this one lacks; make it in the child" in line for line in lines)
