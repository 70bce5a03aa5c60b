"""Videos of one face: what moves in them, and what is counted."""

from __future__ import annotations

from itertools import islice, pairwise, repeat

import cv2
import numpy as np
import pytest

from experiments.steadiness import FPS, SECONDS, Counts, Options, main, video, watch
from faceflax import FaceAnalyzer
from faceflax.errors import FaceflaxError
from faceflax.faces.network import NetworkDetector
from faceflax.media.demo import photograph


@pytest.fixture(scope="module")
def portrait():
    grey = cv2.cvtColor(photograph(), cv2.COLOR_BGR2GRAY)[110:340, 130:360]
    return cv2.resize(grey, (192, 192), interpolation=cv2.INTER_AREA)


def test_a_film_is_ten_seconds_and_depends_on_its_seed_alone(portrait):
    first = list(video(portrait, np.random.default_rng(3)))
    assert len(first) == FPS * SECONDS
    assert {frame.shape for frame in first} == {(384, 384, 3)}
    for one, again in zip(first, video(portrait, np.random.default_rng(3)), strict=True):
        np.testing.assert_array_equal(one, again)
    steps = [np.abs(a.astype(int) - b).mean() for a, b in pairwise(first)]
    whole = np.abs(first[0].astype(int) - first[125]).mean()
    assert 1 < np.median(steps) < whole  # from frame to frame it changes less than in five seconds


def test_nothing_changes_in_a_film_that_stands_still(portrait):
    frame = next(video(portrait, np.random.default_rng(0)))
    counts = Counts()
    (face,) = NetworkDetector()(frame)
    watch(repeat(frame, 12), FaceAnalyzer(preset="fast"), counts, detector=lambda _: [face])
    assert (counts.emotion.frames, counts.gender.frames) == (11, 11)
    assert (counts.emotion.raw, counts.emotion.shown, counts.gender.raw, counts.gender.shown) == (0, 0, 0, 0)


def test_a_cut_to_nobody_counts_for_nothing(portrait):
    frames = [*islice(video(portrait, np.random.default_rng(0)), 4), *repeat(np.full((384, 384, 3), 90, np.uint8), 3)]
    counts = Counts()
    watch(frames, FaceAnalyzer(preset="fast"), counts)
    assert counts.emotion.frames == 3


def test_a_folder_without_a_video_is_refused(tmp_path):
    with pytest.raises(FaceflaxError, match=r"clips: there is no video in"):
        main(Options(clips=tmp_path))
    with pytest.raises(FaceflaxError, match="count: 0 is not a number of faces"):
        main(Options(count=0))
