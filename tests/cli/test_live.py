"""The live command as a user runs it, in its own process."""

import csv
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax.faces.analyzer import FaceAnalyzer
from faceflax.faces.frame import Frame
from faceflax.faces.video import VideoAnalyzer
from faceflax.live import loop
from faceflax.media import demo
from faceflax.media.sources import Source, open_source

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
    assert "1 frame, 1 with a face" in done.stdout
    (row,) = read_rows(table)
    x, y, width, height = (int(row[name]) for name in ("x", "y", "width", "height"))
    assert x < 228 < 306 < x + width
    assert y < 187 < 278 < y + height
    assert sum(float(value) for name, value in row.items() if name.startswith("emotion_")) == pytest.approx(1, abs=1e-3)
    drawn = cv2.imread(str(output))
    changed = np.argwhere((drawn != photo).any(axis=2))
    assert changed.max(axis=0).tolist() >= [y + height - 2, x + width - 2]


@pytest.mark.slow
def test_all_outputs_of_a_video_with_its_saliency(tmp_path, options, cache):
    output, table, lines = tmp_path / "o.mp4", tmp_path / "o.csv", tmp_path / "o.jsonl"
    files = ["--output", output, "--csv", table, "--jsonl", lines]
    explain = ["--explain", "--overlay", "over", "--emotion", "sad"]
    done = live("--source", "demo", "--max-frames", 30, *files, *explain, *options, **cache)
    assert done.returncode == 0, done.stderr
    assert "30 frames, " in done.stdout
    assert "frames a second, latency " in done.stdout
    assert done.stdout.endswith(f"wrote {output}\nwrote {table}\nwrote {lines}\n")
    rows = read_rows(table)
    assert len(rows) > 10
    assert len({row["track"] for row in rows}) == 1
    for row, line in zip(rows, lines.read_text().splitlines(), strict=True):
        parsed = json.loads(line)
        assert (parsed["frame"], parsed["track"]) == (int(row["frame"]), int(row["track"]))
    drawn, plain = (list(open_source(source).frames) for source in (str(output), "demo"))
    assert len(drawn) == 30
    last = rows[-1]
    assert last["frame"] == "29"
    x, y, width, height = (int(last[name]) for name in ("x", "y", "width", "height"))
    inside = np.s_[y + height // 4 : y + 3 * height // 4, x + width // 4 : x + 3 * width // 4]
    change = np.abs(drawn[29].image[inside].astype(int) - plain[29].image[inside]).max(axis=2)
    assert (change > 40).mean() > 0.05  # the map, which labels alone would leave out


def test_the_real_analyzer_takes_frames_of_any_size_and_kind(tmp_path, weights):
    """A face in colour, grey, 16 bits, with alpha and in 8K; one pixel and nothing between; fifty faces at the end."""
    photo = demo.photograph()[60:420, :]
    many = np.tile(cv2.resize(photo, None, fx=0.25, fy=0.25)[:, 32:96], (5, 10, 1))
    images = [
        *[photo] * 3,
        cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY),
        cv2.cvtColor(photo, cv2.COLOR_BGR2BGRA),
        photo.astype(np.uint16) * 257,
        np.zeros((1, 1), np.uint8),
        np.zeros((360, 512, 3), np.uint8),
        *[cv2.resize(photo, (7680, 4320))] * 2,
        *[many] * 3,
    ]
    frames = (Frame(image, "camera", index, index / 10) for index, image in enumerate(images))
    analyzer = VideoAnalyzer(FaceAnalyzer(*weights))
    table, output = tmp_path / "o.csv", tmp_path / "o.avi"
    summary = loop.run(Source("video", frames, fps=10.0), analyzer, csv=table, output=output)
    assert summary.frames == len(images)
    found = Counter(int(row["frame"]) for row in read_rows(table))
    assert all(found[index] >= 1 for index in (2, 3, 4, 5))
    assert found[6] == 0
    assert found[12] >= 20
    shapes = [frame.image.shape for frame in open_source(str(output)).frames]
    assert shapes == [(360, 512, 3)] * len(images)


def interruptible(*arguments):
    """The command in a process that heeds Ctrl-C, which those that a suite in the background starts would not."""
    heed = "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); del sys.argv[0]; "
    run = 'runpy.run_path(sys.argv[0], run_name="__main__")'
    python, *rest = command(*arguments)
    return [python, "-c", heed + run, *rest]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["at the start", "late"])
def test_interrupt_leaves_a_playable_video_and_complete_rows(tmp_path, options, cache, moment):
    folder = tmp_path / "results"
    folder.mkdir()
    output, table = folder / "o.mp4", folder / "o.csv"
    long = tmp_path / "long.avi"  # longer than the test
    writer = cv2.VideoWriter(str(long), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (320, 180))
    for _ in range(20):
        for image in demo.video():
            writer.write(cv2.resize(image, (320, 180)))
    writer.release()
    process = subprocess.Popen(
        interruptible("--source", long, "--output", output, "--csv", table, *options),
        cwd=ROOT,
        env=os.environ | cache,
        stderr=subprocess.PIPE,
        text=True,
    )
    size = {"at the start": 0, "late": 10_000}[moment]  # bytes of rows
    deadline = time.monotonic() + 120
    while not any(file.stat().st_size >= size for file in folder.glob(".o.*.partial.csv")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("interrupted\n")
    assert "Traceback" not in errors
    if not table.exists():  # not one frame was through
        assert moment == "at the start"
        assert list(folder.iterdir()) == []
        return
    frames = sum(1 for _ in open_source(str(output)).frames)
    rows = read_rows(table)
    assert all(None not in row.values() and row["gender_man"] for row in rows)
    assert 0 < frames < 20 * demo.NUM_FRAMES
    assert not rows or int(rows[-1]["frame"]) < frames
    assert sorted(file.name for file in folder.iterdir()) == ["o.csv", "o.mp4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "no/such.mp4"], "--source: there is no 'no/such.mp4'"),
        (["--source", "{folder}/empty.mp4"], "empty.mp4' is empty"),
        (["--source", "{folder}/bad.png"], "bad.png' cannot be read as an image"),
        (["--source", "demo", "--output", "{folder}/o.png"], "--output: "),
        (["--source", "demo", "--output", "{folder}/empty.mp4/o.mp4"], "--output: cannot write"),
        (["--source", "demo", "--csv", "{folder}/empty.mp4/o.csv"], "--csv: cannot write"),
        (["--source", "demo", "--csv", "{folder}/o.mp4"], "o.mp4' does not end in .csv"),
        (["--source", "demo", "--jsonl", "{folder}/o.csv"], "--jsonl: "),
        (
            ["--source", "http://127.0.0.1:1/x.mjpg"],
            "--source: the stream 'http://127.0.0.1:1/x.mjpg' cannot be opened",
        ),
        (["--source", "demo", "--max-frames", "0"], "--max-frames: 0"),
        (["--source", "demo", "--search-every", "0"], "--search-every: 0"),
        (["--source", "demo", "--detector", "{folder}/no.onnx"], "--detector: there is no model file"),
    ],
)
def test_bad_input(tmp_path, arguments, message, refused):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "bad.png").write_text("no image")
    given = (argument.format(folder=tmp_path) for argument in arguments)
    said = refused("faceflax", "live", "--headless", *given)
    assert message in said
    assert said.count("\n") == 1


def test_a_camera_that_is_not_there():
    """In a process of its own, in which nothing else has loaded OpenCV."""
    done = live("--headless", "--source", "77")
    assert done.returncode == 2
    assert "--source: there is no camera 77" in done.stderr
    assert done.stderr.count("\n") == 1


def test_unknown_weights_are_named():
    done = live("--headless", "--source", "demo", "--emotion-weights", "no-such-weights")
    assert done.returncode == 2
    assert "--emotion-weights: unknown 'no-such-weights'" in done.stderr


@pytest.mark.parametrize("display", ["", ":98765", "no such place:0"])
def test_a_display_that_is_not_there_names_headless(display):
    done = live("--source", "demo", DISPLAY=display, WAYLAND_DISPLAY="")
    assert done.returncode == 2
    assert "--headless: a window cannot be opened" in done.stderr
    assert "add --headless" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def display(tmp_path):
    """A display without a screen, and what presses its keys."""
    if not shutil.which("Xvfb") or not shutil.which("xdotool"):
        pytest.skip("needs Xvfb and xdotool")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x800x24", "-noreset"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with open(read) as number:
        yield {"DISPLAY": f":{number.readline().strip()}", "WAYLAND_DISPLAY": "", "QT_QPA_PLATFORM": "xcb"}
    server.terminate()
    server.wait()


def close_window(window, display):
    """Sends a window what a window manager sends when its close button is pressed; xdotool needs a manager for it."""

    class Message(ctypes.Structure):
        _fields_ = [
            ("type", ctypes.c_int),
            ("serial", ctypes.c_ulong),
            ("send_event", ctypes.c_int),
            ("display", ctypes.c_void_p),
            ("window", ctypes.c_ulong),
            ("message_type", ctypes.c_ulong),
            ("format", ctypes.c_int),
            ("data", ctypes.c_long * 5),
            ("rest", ctypes.c_long * 24),
        ]

    library = ctypes.CDLL("libX11.so.6")
    library.XOpenDisplay.restype = ctypes.c_void_p
    library.XInternAtom.restype = ctypes.c_ulong
    connection = ctypes.c_void_p(library.XOpenDisplay(display.encode()))
    protocols, delete = (library.XInternAtom(connection, name, 0) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW"))
    client_message = 33
    data = (ctypes.c_long * 5)(delete)
    event = Message(client_message, 0, 1, connection, int(window), protocols, 32, data)
    library.XSendEvent(connection, ctypes.c_ulong(int(window)), 0, ctypes.c_long(0), ctypes.byref(event))
    library.XCloseDisplay(connection)


@pytest.mark.parametrize("way_out", ["q", "close button"])
def test_window_and_its_keys(tmp_path, options, cache, display, way_out):
    """With q, one frame is held by p and seen with every overlay before."""
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (512, 360))
    for _ in range(1500):  # a minute, longer than the test
        writer.write(demo.photograph()[60:420])
    writer.release()
    saved = tmp_path / "saved"
    process = subprocess.Popen(
        command("--source", clip, "--snapshots", saved, *(o for o in options if o != "--headless")),
        cwd=ROOT,
        env=os.environ | cache | display,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def tool(*arguments):
        done = subprocess.run(
            ["xdotool", *arguments], env=os.environ | display, capture_output=True, text=True, check=False, timeout=60
        )
        return done.stdout.strip()

    def wait(condition):
        deadline = time.monotonic() + 120
        while not (value := condition()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return value

    def press(key):
        tool("key", "--window", window, key)
        time.sleep(0.5)  # of keys that come together OpenCV sees the last

    def snapshot():
        before = set(saved.glob("*.png"))
        press("s")
        (file,) = wait(lambda: set(saved.glob("faceflax-*.png")) - before)
        return cv2.imread(str(file))

    try:
        window = wait(lambda: tool("search", "--name", "^faceflax$"))
        if way_out == "q":
            frame = cv2.VideoCapture(str(clip)).read()[1]
            wait(lambda: (snapshot() != frame).any())  # until the face has its box
            press("p")
            images = [snapshot()]
            for _ in range(4):
                press("o")
                images.append(snapshot())
            labels, beside, over, plain, again = (image.astype(int) for image in images)
            np.testing.assert_array_equal(labels, again)
            changes = [(np.abs(image - plain).max(axis=2) > 0).mean() for image in (labels, beside, over)]
            assert 0 < changes[0] < changes[1]
            assert changes[0] < changes[2]
            assert (beside != over).any()
            press("p")
            press("q")
        else:
            close_window(window, display["DISPLAY"])
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, errors
    assert 0 < int(output.split()[0]) < 1500
