"""Inputs made by the test, and analyzers that find one face, told by the frame's brightness."""

import csv
import os
import random
import signal
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax import batch
from faceflax.batch.analysis import results_of, tasks_of
from faceflax.errors import FaceflaxError
from faceflax.faces.face import Face
from faceflax.media.table import COLUMNS


def faces_of(image, track=None):
    level = float(image.mean())
    if level < 50:
        return []
    emotions = np.float32([level, 255 - level, 0, 0, 0, 0, 0]) / 255
    return [Face((1, 2, 30, 40), "angry", emotions, "woman", np.float32([0.75, 0.25]), track)]


class Video:
    """Counts its own frames as the track, so that a video that does not begin anew is noticed."""

    def __init__(self):
        self.count = 0

    def locate(self, image):
        self.count += 1
        return self.count

    def read_batch(self, images, located):
        assert 0 < len(images) <= 16
        return [faces_of(*each) for each in zip(images, located, strict=True)]


def images(frames):
    assert 0 < len(frames) <= 16
    return [faces_of(frame) for frame in frames]


def write_image(path, level, size=(48, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), level, np.uint8))
    return path


def write_video(path, frames, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, size)
    for index in range(frames):
        writer.write(np.full((size[1], size[0], 3), 42 + 5 * (index % 40), np.uint8))
    writer.release()
    return path


@pytest.fixture
def media(tmp_path, monkeypatch):
    """Forty images, of which some show no face, two videos, and an archive; the paths are relative."""
    monkeypatch.chdir(tmp_path)
    for index in range(20):
        write_image(Path(f"media/b/{index:02}.png"), 5 * index + 20)
        write_image(Path(f"members/{index:02}.png"), 10 * index)
    write_video(Path("media/a.avi"), 50)
    write_video(Path("media/c.avi"), 33)
    with zipfile.ZipFile("media/d.zip", "w") as archive:
        for file in sorted(Path("members").iterdir()):
            archive.write(file, f"in/{file.name}")
    return Path("media")


def run(paths, table, images=images, video=Video, settings=None, reading=None):
    inputs, others = batch.find_inputs(paths)
    with batch.open_table(table, settings or {"weights": "w"}) as opened:
        before = len(opened.records)
        recent = batch.analyze(inputs, opened, lambda: batch.Analyzers(images, video), reading)
    return Result(before, recent, others)


class Result:
    """What became of the inputs, in numbers."""

    def __init__(self, before, recent, others):
        self.before = before
        self.records = {record.input: record for record in recent + others}
        read = [record for record in recent if record.status != "failed"]
        self.images, self.videos = (sum(record.kind == kind for record in read) for kind in ("image", "video"))
        self.frames, self.faces = (sum(getattr(record, name) for record in read) for name in ("frames", "faces"))
        self.bad = {r.input: r.reason for r in recent + others if r.status in ("failed", "damaged")}


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def expected_keys():
    """Name and frame of every row, computed from the levels above."""
    keys = [("media/a.avi", n) for n in range(50) if 42 + 5 * (n % 40) >= 50]
    keys += [(f"media/b/{n:02}.png", 0) for n in range(20) if 5 * n + 20 >= 50]
    keys += [("media/c.avi", n) for n in range(33) if 42 + 5 * n >= 50]
    return keys + [(f"media/d.zip/in/{n:02}.png", 0) for n in range(20) if 10 * n >= 50]


def keys_of(path):
    return [(row["input"], int(row["frame"])) for row in read_rows(path)]


def test_all_inputs_are_in_the_table_in_order(media):
    table = Path("o.csv")
    result = run([media], table)
    assert keys_of(table) == expected_keys()
    assert (result.images, result.videos, result.frames, result.before, result.bad) == (40, 2, 123, 0, {})
    assert result.faces == len(expected_keys())
    rows = read_rows(table)
    assert tuple(rows[0]) == COLUMNS.names
    videos = [row for row in rows if row["input"].endswith(".avi")]
    assert all(int(row["track"]) == int(row["frame"]) + 1 for row in videos)  # each video has a new analyzer
    assert all(float(row["time"]) == pytest.approx(int(row["frame"]) / 10, abs=1e-3) for row in videos)


def test_images_of_different_files_go_through_together(media):
    sizes = []

    def look(frames):
        sizes.append(len(frames))
        return images(frames)

    run([media], Path("o.csv"), images=look)
    assert sizes == [16, 4, 16, 4]  # a video comes between the folder and the archive


def test_inputs_are_listed_once_in_order_and_hidden_ones_not_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("m/b.png", "m/a/z.JPG", "m/.hidden/x.png", "m/._b.png", "m/notes.txt", "m/v.MP4", "x.dat"):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    with zipfile.ZipFile("m/c.zip", "w") as archive:
        for name in ("2.png", "sub/1.png", "__MACOSX/._2.png", "read.me", "sub/"):
            archive.writestr(name, b"x")
    inputs, others = batch.find_inputs([Path("m/b.png"), Path("m"), Path("./m/b.png"), Path("x.dat")])
    assert [(item.name, item.kind) for item in inputs] == [
        ("m/b.png", "image"),
        ("m/a/z.JPG", "image"),
        ("m/c.zip/2.png", "image"),
        ("m/c.zip/sub/1.png", "image"),
        ("m/v.MP4", "video"),
        ("x.dat", "video"),
    ]
    assert [(record.input, record.status, record.reason) for record in others] == [
        ("m/.hidden", "skipped", "is hidden"),
        ("m/._b.png", "skipped", "is hidden"),
        ("m/c.zip/__MACOSX/._2.png", "skipped", "is hidden"),
        ("m/c.zip/read.me", "skipped", "is neither an image nor a video"),
        ("m/notes.txt", "skipped", "is neither an image, nor a video, nor an archive"),
    ]


def test_nothing_to_analyse_is_named(tmp_path):
    with pytest.raises(FaceflaxError, match=r"^paths: there is no 'no/such'; give images, videos, folders or archives"):
        batch.find_inputs([Path("no/such")])
    with pytest.raises(FaceflaxError, match=r"^paths: no images, videos or archives in "):
        batch.find_inputs([tmp_path])


def test_what_cannot_be_read_is_skipped_and_listed(media):
    Path("media/b/05x.png").write_bytes(b"no image")
    Path("media/empty.mp4").touch()
    Path("media/e.zip").write_bytes(b"PK no archive")
    whole = Path("media/c.avi").read_bytes()
    Path("media/cut.avi").write_bytes(whole[: len(whole) * 2 // 3])
    with zipfile.ZipFile("media/f.zip", "w") as archive:
        archive.writestr("bad.png", b"no image")
        archive.write("members/19.png", "good.png")
    with zipfile.ZipFile("media/g.zip", "w") as archive:
        archive.write("members/19.png", "damaged.png")
    content = bytearray(Path("media/g.zip").read_bytes())
    content[60] ^= 255
    Path("media/g.zip").write_bytes(content)
    result = run([media], Path("o.csv"))
    reasons = result.bad
    assert sorted(reasons) == [
        "media/b/05x.png",
        "media/cut.avi",
        "media/e.zip",
        "media/empty.mp4",
        "media/f.zip/bad.png",
        "media/g.zip/damaged.png",
    ]
    assert "cannot be read as an image" in reasons["media/b/05x.png"]
    assert "of the 33 frames" in reasons["media/cut.avi"]
    assert reasons["media/empty.mp4"] == "is empty"
    assert "archive" in reasons["media/e.zip"]
    keys = keys_of(Path("o.csv"))
    assert [key for key in keys if key in set(expected_keys())] == expected_keys()
    count = Counter(name for name, _ in keys)
    assert count["media/f.zip/good.png"] == 1
    assert 3 < count["media/cut.avi"] < count["media/c.avi"]


@pytest.mark.parametrize("calls", range(1, 140, 7))
@pytest.mark.parametrize("how", ["crash", "interrupt"])
def test_after_a_stop_it_goes_on_without_missing_or_double_rows(media, calls, how):
    left = [calls]

    def stop(answer):
        left[0] -= 1
        if left[0] == 0:
            if how == "crash":
                raise RuntimeError("the power fails")
            os.kill(os.getpid(), signal.SIGINT)
        return answer

    class Stopping(Video):
        def read_batch(self, images, located):
            return [stop(faces) for faces in super().read_batch(images, located)]

    table = Path("o.csv")
    error = RuntimeError if how == "crash" else KeyboardInterrupt
    try:
        run([media], table, images=lambda frames: [stop(faces_of(frame)) for frame in frames], video=Stopping)
    except error:
        pass
    else:
        assert calls > 123 or how == "interrupt"  # the signal came with the last frames
    assert batch.journal_of(table).exists()
    result = run([media], table)
    assert keys_of(table) == expected_keys()
    assert result.before + result.images + result.videos == 42
    assert sorted(file.name for file in Path().iterdir() if file.is_file()) == ["o.csv", "o.csv.progress"]


def test_it_goes_on_from_files_cut_off_anywhere(media):
    """What a killed process or a lost disk cache can leave: any beginning of the table with any of the journal."""
    table, journal = Path("o.csv"), batch.journal_of(Path("o.csv"))
    run([media], table)
    rows, entries = table.read_bytes(), journal.read_bytes()
    rng = random.Random(0)
    for _ in range(40):
        table.write_bytes(rows[: rng.randrange(len(rows) + 1)])
        journal.write_bytes(entries[: rng.randrange(entries.index(b"\n") + 1, len(entries) + 1)])
        run([media], table)
        assert table.read_bytes() == rows


def test_it_goes_on_behind_a_journal_that_ends_in_zeros(media):
    """As a computer leaves it that lost its power: the file has its length, and not its content."""
    table, journal = Path("o.csv"), batch.journal_of(Path("o.csv"))
    run([media], table)
    rows, lines = table.read_bytes(), journal.read_bytes().splitlines(keepends=True)
    for kept in range(1, len(lines)):
        zeros = b"".join(bytes(len(line) - 1) + b"\n" for line in lines[kept:])
        journal.write_bytes(b"".join(lines[:kept]) + zeros)
        run([media], table)
        assert table.read_bytes() == rows


def test_it_goes_on_behind_rows_that_were_changed(media, caplog):
    table = Path("o.csv")
    run([media], table)
    rows = table.read_bytes()
    for place in range(1, len(rows), len(rows) // 7):
        table.write_bytes(rows[:place] + bytes([rows[place] ^ 2]) + rows[place + 1 :])
        caplog.clear()
        run([media], table)
        assert table.read_bytes() == rows
        assert "were lost or changed" in caplog.text


def test_a_damaged_journal_is_refused_and_nothing_is_touched(media):
    table, journal = Path("o.csv"), batch.journal_of(Path("o.csv"))
    run([media], table)
    rows, entries = table.read_bytes(), journal.read_bytes()
    lines = entries.splitlines(keepends=True)
    rng = random.Random(0)
    flips = [rng.randrange(entries.rindex(b"\n", 0, -1)) for _ in range(60)]
    damaged = [entries[:i] + bytes([entries[i] ^ (1 << rng.randrange(8))]) + entries[i + 1 :] for i in flips]
    damaged += [
        b"",
        entries[:20],
        b"".join(lines[1:]),
        b"".join(lines[:2] + lines[3:]),
        b"".join([*lines[:2], *lines[1:]]),
    ]
    for content in damaged:
        journal.write_bytes(content)
        with pytest.raises(FaceflaxError, match=r"^csv: 'o\.csv' .*o\.csv\.progress'.*(both|delete it and)"):
            run([media], table)
        assert (table.read_bytes(), journal.read_bytes()) == (rows, content)


def test_a_file_that_is_there_is_not_touched(media):
    table = Path("o.csv")
    table.write_text("mine")
    with pytest.raises(FaceflaxError, match=r"^csv: 'o\.csv' is there already; name another file or delete it"):
        run([media], table)
    assert table.read_text() == "mine"


def test_other_weights_do_not_go_on_with_it(media):
    run([media], Path("o.csv"))
    before = Path("o.csv").read_bytes()
    with pytest.raises(FaceflaxError, match=r"^csv: 'o\.csv' was begun with other options, weights"):
        run([media], Path("o.csv"), settings={"weights": "others"})
    assert Path("o.csv").read_bytes() == before


def test_files_that_came_later_are_added(media):
    run([media], Path("o.csv"))
    write_image(Path("media/b/03x.png"), 200)
    result = run([media], Path("o.csv"))
    assert (result.before, result.images, result.videos) == (42, 1, 0)
    assert sorted(keys_of(Path("o.csv"))) == sorted([*expected_keys(), ("media/b/03x.png", 0)])


def test_memory_does_not_grow_with_the_video(tmp_path):
    path = write_video(tmp_path / "v.avi", 1600, size=(160, 120))
    tracemalloc.start()
    try:
        run([path], tmp_path / "o.csv")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    on_the_way = 8 * 16  # frames: sixteen together, in four hands and before and behind them
    assert peak < (on_the_way + 32) * 160 * 120 * 3


def resident():
    """MiB that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not say how much memory is in use")
def test_memory_stays_flat_over_ten_thousand_inputs_and_a_long_film(tmp_path):
    """All of the process's memory, the libraries' too: what Python does not count, FFmpeg and Pillow may keep."""
    path = write_image(tmp_path / "m/00000.jpg", 200, size=(240, 320))
    for index in range(1, 10_000):
        (tmp_path / f"m/{index:05}.jpg").hardlink_to(path)
    video = write_video(tmp_path / "video.avi", 20_000, size=(160, 120))
    analyzers = batch.Analyzers(images, Video)
    for inputs in (tmp_path / "m", video):
        tasks = tasks_of(batch.find_inputs([inputs])[0])
        seen = [resident() for _ in results_of(tasks, analyzers, batch.Reading())]
        third = len(seen) // 3
        assert max(seen[2 * third :]) - np.median(seen[third : third + 50]) < 12, inputs
