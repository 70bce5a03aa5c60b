"""The loop with a source made by the test and an analyzer that finds one face, depending on the frame's brightness."""

import csv
import json
import os
import re
import signal
import subprocess
import threading
import time

import cv2
import numpy as np
import pytest

from faceflax.errors import FaceflaxError
from faceflax.faces.face import Face
from faceflax.faces.frame import Frame
from faceflax.live import loop
from faceflax.media import outputs
from faceflax.media.sources import Source, open_source
from faceflax.media.table import COLUMNS


def analyzer(image):
    if image.mean() < 50:
        return []
    emotions = np.float32([0, 0, 0.25, 0.5, 0.125, 0.125, 0])
    return [Face((1, 2, 30, 40), "happy", emotions, "woman", np.float32([0.75, 0.25]))]


TENTHS = tuple(index / 10 for index in range(10))


def clip(times=TENTHS, fail_after=None, kind="video"):
    def frames():
        for index, seconds in enumerate(times):
            if index == fail_after:
                raise RuntimeError("the source fails")
            yield Frame(np.full((48, 64, 3), 20 * index % 256, np.uint8), "clip", index, float(seconds))

    return Source(kind, frames(), fps=10.0, count=len(times))


class Tracking:
    """The same in two stages."""

    def locate(self, image):
        return [(1, 2, 30, 40)] if image.mean() >= 50 else []

    def read_batch(self, images, located):
        return [analyzer(image) if found else [] for image, found in zip(images, located, strict=True)]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [thread for thread in threading.enumerate() if "guarded" in thread.name]


def read_video(path):
    return [frame.image for frame in open_source(str(path)).frames]


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_video_and_rows(tmp_path):
    output, table = tmp_path / "o.mp4", tmp_path / "o.csv"
    summary = loop.run(clip(), analyzer, output=output, csv=table, overlay=lambda image, faces: image)
    assert (summary.frames, summary.frames_with_face) == (10, 7)
    np.testing.assert_allclose([image.mean() for image in read_video(output)], 20 * np.arange(10), atol=4)
    rows = read_rows(table)
    assert [row["frame"] for row in rows] == ["3", "4", "5", "6", "7", "8", "9"]
    assert tuple(rows[0]) == COLUMNS.names
    first = {
        "schema": "1",
        "input": "clip",
        "kind": "video",
        "time": "0.300",
        "face": "0",
        "x": "1",
        "y": "2",
        "width": "30",
        "height": "40",
    }
    labels = {"emotion": "happy", "emotion_happy": "0.5000", "gender": "woman", "gender_man": "0.2500"}
    assert rows[0].items() >= (first | labels).items()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o.csv", "o.mp4"]


def test_overlay_gets_frame_and_faces_and_its_image_is_written(tmp_path):
    output = tmp_path / "o.avi"
    loop.run(clip(), analyzer, output=output, overlay=lambda image, faces: np.full_like(image, 200 * len(faces)))
    np.testing.assert_allclose([image.mean() for image in read_video(output)], [0] * 3 + [200] * 7, atol=4)


def test_a_slow_source_keeps_its_clock_in_the_video(tmp_path):
    output = tmp_path / "o.mp4"
    loop.run(clip([0, 0.5, 0.6]), analyzer, output=output, overlay=lambda image, faces: image)
    np.testing.assert_allclose([frame.time for frame in open_source(str(output)).frames], [0, 0.5, 0.6], atol=1e-3)


def test_max_frames_closes_the_source(tmp_path):
    source = clip()
    summary = loop.run(source, analyzer, csv=tmp_path / "o.csv", max_frames=4)
    assert summary.frames == 4
    assert list(source.frames) == []


def test_two_stages_give_what_one_gives(tmp_path):
    for name, each in (("one", analyzer), ("two", Tracking())):
        loop.run(clip(), each, csv=tmp_path / f"{name}.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_json_lines_hold_what_the_table_holds(tmp_path):
    loop.run(clip(), analyzer, csv=tmp_path / "o.csv", jsonl=tmp_path / "o.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert len(lines) == 7
    for line, row in zip(lines, read_rows(tmp_path / "o.csv"), strict=True):
        assert list(line) == list(row) == list(COLUMNS.names)
        for name, kind in COLUMNS.kinds.items():
            assert line[name] == (kind(row[name]) if row[name] else None)


@pytest.fixture
def usual_signals():
    """Signals as a terminal leaves them: under ``nohup`` some are ignored."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield usual
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["analyzer", "overlay"])
def test_a_signal_ends_it_with_everything_written_whole(tmp_path, usual_signals, number, moment):
    output, table, lines = tmp_path / "o.mp4", tmp_path / "o.csv", tmp_path / "o.jsonl"
    output.write_text("older")
    seen = []

    def interrupt(image, faces=None):
        seen.append(None)
        if len(seen) == 40:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # an impatient user
        return analyzer(image) if faces is None else image

    overlay = interrupt if moment == "overlay" else lambda image, faces: image
    source = clip(np.arange(100_000) / 10)
    with pytest.raises(KeyboardInterrupt):
        loop.run(
            source,
            interrupt if moment == "analyzer" else analyzer,
            overlay=overlay,
            output=output,
            csv=table,
            jsonl=lines,
        )
    assert list(source.frames) == []
    frames, rows = read_video(output), read_rows(table)
    assert 20 < len(frames) < 90_000
    with_face = [index for index in range(len(frames)) if 20 * index % 256 >= 50]
    assert [int(row["frame"]) for row in rows] == with_face  # the rows of just the frames in the video
    assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()] == with_face
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o.csv", "o.jsonl", "o.mp4"]
    assert {number: signal.getsignal(number) for number in usual_signals} == usual_signals


@pytest.mark.parametrize("where", ["source", "locate", "read", "overlay"])
def test_an_error_anywhere_ends_it_and_keeps_what_was_written(tmp_path, where):
    output, table = tmp_path / "o.mp4", tmp_path / "o.csv"
    calls = []

    def failing(value):
        calls.append(None)
        if len(calls) == 7:
            raise RuntimeError(f"{where} fails")
        return value

    tracking = Tracking()
    if where == "locate":
        tracking.locate = lambda image: failing(Tracking().locate(image))
    if where == "read":
        tracking.read_batch = lambda images, located: failing([analyzer(image) for image in images])
    with pytest.raises(RuntimeError, match=f"{where} fails"):
        loop.run(
            clip(fail_after=6 if where == "source" else None),
            tracking,
            output=output,
            csv=table,
            overlay=lambda image, faces: failing(image) if where == "overlay" else image,
        )
    assert len(read_video(output)) == 6
    assert [row["frame"] for row in read_rows(table)] == ["3", "4", "5"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o.csv", "o.mp4"]


def test_an_error_does_not_touch_an_older_file(tmp_path, caplog):
    output, table = tmp_path / "o.mp4", tmp_path / "o.csv"
    output.write_text("older video")
    table.write_text("older table")
    with pytest.raises(RuntimeError):
        loop.run(clip(fail_after=6), analyzer, output=output, csv=table)
    assert output.read_text() == "older video"
    assert table.read_text() == "older table"
    assert len(read_video(tmp_path / "o.partial.mp4")) == 6
    assert len(read_rows(tmp_path / "o.partial.csv")) == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o.csv", "o.mp4", "o.partial.csv", "o.partial.mp4"]
    assert "o.mp4' is as it was before; what was written until now is" in caplog.text


def test_a_source_without_frames_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        loop.run(clip(fail_after=0), analyzer, output=tmp_path / "o.mp4", csv=tmp_path / "o.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_camera_drops_frames_behind_a_slow_stage_and_a_file_does_not(tmp_path):
    """The camera gives ten frames while one is analysed; what comes out is still new."""
    given = []

    def frames():
        for index in range(100):
            given.append(index)
            yield Frame(np.full((48, 64, 3), 200, np.uint8), "camera", index, index / 100)
            time.sleep(0.0005)

    def slow(image):
        start = len(given)
        while len(given) < min(100, start + 10):
            time.sleep(0.0005)
        return analyzer(image)

    def overlay(image, faces):
        return image

    summary = loop.run(Source("camera", frames(), fps=100.0), slow, csv=tmp_path / "o.csv", overlay=overlay)
    shown = [int(row["frame"]) for row in read_rows(tmp_path / "o.csv")]
    assert summary.frames == len(shown)
    assert summary.frames + summary.dropped == 100
    assert summary.frames <= 20
    assert shown == sorted(shown)
    assert 0 < summary.latency <= summary.latency_95
    summary = loop.run(clip(kind="video"), slow, csv=tmp_path / "o.csv")
    assert (summary.frames, summary.dropped) == (10, 0)


def test_folder_gives_a_folder_with_the_same_names(tmp_path):
    faces = tmp_path / "faces"
    faces.mkdir()
    for name, level in (("a.png", 0), ("b.bmp", 200)):
        cv2.imwrite(str(faces / name), np.full((48, 64, 3), level, np.uint8))
    output = tmp_path / "out"
    outputs.check_output(str(faces), "folder", output)
    loop.run(open_source(str(faces)), analyzer, output=output, csv=tmp_path / "o.csv")
    assert sorted(file.name for file in output.iterdir()) == ["a.png", "b.bmp"]
    assert (cv2.imread(str(output / "a.png")) == 0).all()
    assert not (cv2.imread(str(output / "b.bmp")) == 200).all()  # a box is drawn
    assert [row["input"] for row in read_rows(tmp_path / "o.csv")] == ["b.bmp"]


def test_frames_of_changing_size_and_kind(tmp_path):
    """Grey, BGRA and 16-bit frames, one pixel and 8K: all go through, into a video of the first one's size."""
    rng = np.random.default_rng(0)
    images = [
        np.full((48, 64), 100, np.uint8),
        np.full((48, 64, 4), 100, np.uint8),
        np.full((48, 64, 3), 100 * 257, np.uint16),
        np.full((48, 64, 1), 100, np.uint8),
        np.full((96, 64, 3), 100, np.uint8),
        np.full((1, 1, 3), 100, np.uint8),
        np.full((4320, 7680, 3), 100, np.uint8),
        rng.integers(0, 256, (33, 47, 3), np.uint8),
    ]
    frames = (Frame(image, "camera", index, index / 10) for index, image in enumerate(images))
    seen = []

    def look(image):
        seen.append((image.shape, image.dtype))
        return analyzer(image)

    summary = loop.run(Source("video", frames, fps=10.0), look, output=tmp_path / "o.avi", overlay=lambda i, f: i)
    assert summary.frames == len(images)
    assert seen == [((*image.shape[:2], 3), np.uint8) for image in images]
    video = read_video(tmp_path / "o.avi")
    assert [frame.shape for frame in video] == [(48, 64, 3)] * len(images)
    for frame in (*video[:4], video[5][1:-1, 9:-9], video[6][8:-8, 1:-1]):
        np.testing.assert_allclose(frame, 100, atol=4)
    np.testing.assert_allclose(video[4][:, 20:44], 100, atol=8)  # tall: black bars left and right
    np.testing.assert_allclose(video[4][:, :12], 0, atol=8)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (2, 90)])
def test_video_of_any_size(tmp_path, size, suffix):
    frames = (Frame(np.full((*size, 3), 90, np.uint8), "clip", index, index / 10) for index in range(3))
    loop.run(Source("video", frames, fps=10.0), lambda image: [], output=tmp_path / f"o{suffix}")
    video = read_video(tmp_path / f"o{suffix}")
    assert len(video) == 3
    assert np.abs(video[2].astype(int) - 90).max() <= 4


@pytest.mark.parametrize("count", [0, 50])
def test_any_number_of_faces(tmp_path, count):
    faces = [
        Face((10 * n, 5 * n, 20, 20), "sad", np.eye(7, dtype=np.float32)[4], "man", np.float32([0, 1]), track_id=n)
        for n in range(count)
    ]
    summary = loop.run(clip(), lambda image: faces, output=tmp_path / "o.mp4", csv=tmp_path / "o.csv")
    assert summary.frames_with_face == (10 if count else 0)
    rows = read_rows(tmp_path / "o.csv")
    assert [int(row["track"]) for row in rows] == list(range(count)) * 10
    assert (tmp_path / "o.csv").read_text().startswith("schema,input,kind,frame,time,face,track,")


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".webm"])
def test_a_long_gap_is_cut_out_of_a_cameras_video_and_kept_in_a_films(tmp_path, suffix):
    times = [0, 0.1, 0.2, 3600, 3600.1]
    for kind in ("camera", "video"):
        if (kind, suffix) == ("video", ".avi"):  # which has no place for an hour without frames
            continue
        output = tmp_path / f"{kind}{suffix}"
        source = clip(times, kind=kind)
        with outputs.annotated(source, output) as write:
            for frame in source.frames:
                write(frame, frame.image)
        frames = list(open_source(str(output)).frames)
        np.testing.assert_allclose([frame.image.mean() for frame in frames], 20 * np.arange(5), atol=4)
        expected = times if kind == "video" else [0, 0.1, 0.2, 0.3, 0.4]
        np.testing.assert_allclose([frame.time for frame in frames], expected, atol=2e-3)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of three megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode != 0:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def noise():
    rng = np.random.default_rng(0)
    frames = (Frame(rng.integers(0, 256, (240, 320, 3), np.uint8), "clip", i, i / 10) for i in range(1000))
    return Source("video", frames, fps=10.0)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi"])
def test_a_full_disk_ends_it_with_a_video_that_plays(small_disk, suffix):
    output = small_disk / f"o{suffix}"
    with pytest.raises(FaceflaxError, match=r"^output: the disk of .* is full; make room"):
        loop.run(noise(), lambda image: [], output=output)
    assert len(read_video(output)) >= 5
    assert [file.name for file in small_disk.iterdir()] == [output.name]


def test_a_full_disk_ends_it_with_whole_rows(small_disk):
    many = [analyzer(np.full((48, 64, 3), 200, np.uint8))[0]] * 50
    table = small_disk / "o.csv"
    with pytest.raises(
        FaceflaxError, match=r"^csv: cannot write more than \d+ bytes \(No space left on device\); make room"
    ):
        loop.run(noise(), lambda image: many, csv=table)
    content = table.read_bytes()
    assert len(content) > 2_000_000
    assert content.endswith(b"\n")
    rows = read_rows(table)
    assert len(rows) % 50 == 0  # the rows of whole frames
    assert all(row["gender_man"] == "0.2500" for row in rows)


def test_speed_and_latency_are_logged(monkeypatch, caplog):
    monkeypatch.setattr(loop, "_LOG_SECONDS", 0.0)
    caplog.set_level("INFO", "faceflax")
    summary = loop.run(clip(), analyzer)
    assert summary.frames == 10
    assert re.match(r"\d+ frames, [\d.]+ a second, latency \d+ ms$", caplog.messages[-1])
    loop.run(clip(kind="camera"), analyzer)
    assert re.search(r"latency \d+ ms, \d+ dropped$", caplog.messages[-1])
