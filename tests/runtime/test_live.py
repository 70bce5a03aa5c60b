"""The live command as a user runs it, in its own process."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax.vision import demo
from faceflax.vision.sources import open_source

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments):
    return [sys.executable, str(ROOT / "scripts/live.py"), *map(str, arguments)]


def live(*arguments, **environment):
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=ROOT, env=os.environ | environment, check=False
    )
    assert "Traceback" not in done.stderr
    return done


def read_rows(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def options(weights):
    return ["--headless", "--emotion-weights", weights[0], "--gender-weights", weights[1]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """JAX's persistent compilation cache, so that the second run need not compile again."""
    folder = tmp_path_factory.mktemp("cache")
    return {"JAX_COMPILATION_CACHE_DIR": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def test_image(tmp_path, options, cache):
    photo = demo.photograph()
    cv2.imwrite(str(tmp_path / "i.png"), photo)
    output, table = tmp_path / "new/o.png", tmp_path / "o.csv"
    done = live("--source", tmp_path / "i.png", "--output", output, "--csv", table, *options, **cache)
    assert done.returncode == 0, done.stderr
    assert "1 frames, 1 with a face" in done.stdout
    (row,) = read_rows(table)
    x, y, width, height = (int(row[name]) for name in ("x", "y", "width", "height"))
    assert x < 228 < 306 < x + width
    assert y < 187 < 278 < y + height
    assert sum(float(value) for name, value in row.items() if name.startswith("emotion_")) == pytest.approx(1, abs=1e-3)
    drawn = cv2.imread(str(output))
    changed = np.argwhere((drawn != photo).any(axis=2))
    assert changed.max(axis=0).tolist() >= [y + height - 2, x + width - 2]


def test_interrupt_leaves_a_playable_video_and_complete_rows(tmp_path, options, cache):
    output, table = tmp_path / "o.mp4", tmp_path / "o.csv"
    heed = "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); del sys.argv[0]; "
    run = 'runpy.run_path(sys.argv[0], run_name="__main__")'  # a suite started in the background ignores Ctrl-C
    python, *rest = command("--source", "demo", "--output", output, "--csv", table, *options)
    process = subprocess.Popen(
        [python, "-c", heed + run, *rest],
        cwd=ROOT,
        env=os.environ | cache,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not any(file.stat().st_size > 500 for file in tmp_path.glob(".o.*.partial.csv")):  # a few rows
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("interrupted\n")
    assert "Traceback" not in errors
    frames = sum(1 for _ in open_source(str(output)).frames)
    rows = read_rows(table)
    assert all(None not in row.values() and row["gender_man"] for row in rows)
    analysed = int(rows[-1]["frame"]) + 1
    assert 0 < analysed < demo.NUM_FRAMES
    assert frames in (analysed, analysed - 1)  # stopped between a frame's rows and its picture
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o.csv", "o.mp4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "77"], "--source: there is no camera 77"),
        (["--source", "no/such.mp4"], "--source: there is no 'no/such.mp4'"),
        (["--source", "{folder}/empty.mp4"], "empty.mp4' is empty"),
        (["--source", "{folder}/bad.png"], "bad.png' cannot be read as an image"),
        (["--source", "demo", "--output", "{folder}/o.png"], "--output: "),
        (["--source", "demo", "--output", "{folder}/empty.mp4/o.mp4"], "--output: cannot write"),
        (["--source", "demo", "--csv", "{folder}/empty.mp4/o.csv"], "--csv: cannot write"),
        (["--source", "demo", "--csv", "{folder}/o.mp4"], "--csv: "),
        (["--source", "demo", "--max-frames", "0"], "--max-frames: 0"),
    ],
)
def test_bad_input(tmp_path, arguments, message):
    for name in ("empty.mp4", "bad.png"):
        (tmp_path / name).touch()
    done = live("--headless", *(argument.format(folder=tmp_path) for argument in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_unknown_weights_are_named():
    done = live("--headless", "--source", "demo", "--emotion-weights", "no-such-weights")
    assert done.returncode == 2
    assert "emotion weights: unknown 'no-such-weights'" in done.stderr


def test_no_display_names_headless():
    done = live("--source", "demo", DISPLAY="", WAYLAND_DISPLAY="")
    assert done.returncode == 2
    assert "--headless: a window cannot be opened" in done.stderr
