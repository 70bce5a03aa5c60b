"""The experiment's truth and counting; its numbers are in its own table."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.detection import clips
from faceflax.faces.tracking import Track

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ROOT / "../shared/data/video"


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.detection.clips", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_truth_is_interpolated_and_ends():
    boxes = clips.truth("pyfeat_face_noface.mov", 80)
    assert [len(box) for box in boxes] == [1] * 72 + [0] * 8
    np.testing.assert_allclose(boxes[12], [[296.5, 129, 292.5, 292.5]])
    assert [box.shape for box in clips.truth("pyfeat_no_face.mp4", 2)] == [(0, 4)] * 2


def test_found_and_false_are_told_apart():
    true = [np.array([[10.0, 10, 20, 20]])] * 2 + [np.empty((0, 4))]
    tracks = iter(
        [[Track(4, (12, 9, 20, 21), True), Track(5, (60, 60, 20, 20), True)], [], [Track(4, (0, 0, 9, 9), True)]]
    )
    run = clips.follow(lambda frame: next(tracks), [np.zeros((9, 9, 3), np.uint8)] * 3, true)
    assert (run.faces, run.found, run.false, run.tracks) == (2, 1, 2, 2)
    assert len(run.seconds) == 3


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs ../shared/data/video")
def test_command_writes_its_table(tmp_path):
    done = command("--clips", CLIPS, "--every", 5, 10, "--max-frames", 12, "--output", tmp_path / "table.md")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines == [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| Haar, every frame",
        "| followed, 1 in 5",
        "| followed, 1 in 10",
    ]
    assert [line.split(" | ")[5:7] for line in lines[3:]] == [["36 (1.000)", "0"]] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clips", "no/such"], "--clips: there is no 'pyfeat_WolfgangLanger_Pexels.mp4' in 'no/such'"),
        (["--clips", CLIPS, "--every", 0], "--every: 0"),
        (["--clips", CLIPS, "--max-frames", 0], "--max-frames: 0"),
        (["--clips", CLIPS, "--output", "README.md/t.md"], "--output: cannot write"),
    ],
)
@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs ../shared/data/video")
def test_bad_options_are_named(arguments, message):
    done = command(*arguments)
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr
