"""A short soak; the long one is the experiment's command."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def soak(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.soak", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says how much memory a process has")
def test_nothing_changes_in_a_thousand_frames():
    done = soak("--frames", "1100")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1100 frames" in done.stdout
    assert "compilations after the first frame: 0" in done.stdout
    assert "but for the first: 0; tracks: 1" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--frames", "1000"], "--frames: 1000 is too few"), (["--noise", "-1"], "--noise: -1")]
)
def test_bad_options_are_named(arguments, message):
    done = soak(*arguments)
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr
