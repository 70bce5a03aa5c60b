"""The analyze command as a user runs it, in its own process."""

import csv
import functools
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from contextlib import closing
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax.faces.frame import Frame
from faceflax.media import demo
from faceflax.media import table as table_module
from faceflax.media.writing import VideoFile

ROOT = Path(__file__).resolve().parents[2]


def analyze(*arguments):
    command = [sys.executable, str(ROOT / "scripts/analyze.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def options(weights):
    return ["--emotion-weights", weights[0], "--gender-weights", weights[1], "--detector", "haar"]


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A short and a longer video, photographs as files and in an archive, and a file that is none."""
    folder = tmp_path_factory.mktemp("media")
    for name, times in (("long.mp4", 6), ("brief.avi", 1)):
        with closing(VideoFile(folder / name, demo.FPS)) as writer:
            for index, image in enumerate(image for _ in range(times) for image in demo.video()):
                small = cv2.resize(image, (320, 180))
                writer.write(Frame(small, name, index, index / demo.FPS), small)
    cv2.imwrite(str(folder / "photo.png"), demo.photograph())
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for name in ("a.png", "b.png"):
            archive.write(folder / "photo.png", name)
    (folder / "bad.jpg").write_bytes(b"no picture")
    return folder


def read_rows(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def read_inputs(table):
    return read_rows(table.with_name(f"{table.stem}.inputs.csv"))


@pytest.mark.slow
def test_after_a_kill_and_an_interrupt_it_ends_with_every_row_once(tmp_path, media, options):
    """Twice stopped and once more begun gives what one run gives, to the last digit but one."""
    table, page, whole = tmp_path / "o.csv", tmp_path / "o.html", tmp_path / "whole.csv"
    arguments = ["--csv", table, "--report", page, *options]
    heed = "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); del sys.argv[0]; "
    run = 'runpy.run_path(sys.argv[0], run_name="__main__")'  # a suite started in the background ignores Ctrl-C
    for size, number in ((3000, signal.SIGKILL), (30_000, signal.SIGINT)):
        process = subprocess.Popen(
            [sys.executable, "-c", heed + run, str(ROOT / "scripts/analyze.py"), str(media), *map(str, arguments)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 120
        while not (table.exists() and table.stat().st_size > size):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        if number == signal.SIGINT and process.returncode != 1:  # it may have been faster
            assert process.returncode == 130
            assert errors.endswith("the same command goes on from here\ninterrupted\n")
            assert "Traceback" not in errors
            assert not page.exists()
    if not page.exists():
        done = analyze(media, *arguments)
        assert done.returncode == 1
        assert "by an earlier run" in done.stdout
        assert done.stdout.endswith(f"wrote {table}\nwrote {tmp_path / 'o.inputs.csv'}\nwrote {page}\n")
        assert (
            "inputs:\n  5 done\n  1 failed: cannot be read as an image; is it complete, and an image?\n" in done.stdout
        )
        assert f"1 could not be read, or not whole:\n  {media}/bad.jpg: cannot be read as an image" in done.stderr
    assert analyze(media, "--csv", whole, *options).returncode == 1
    rows, expected = read_rows(table), read_rows(whole)
    assert len(rows) == len(expected) > 500
    for row, other in zip(rows, expected, strict=True):
        for column in row:
            if column.startswith(
                ("emotion_", "gender_")
            ):  # a probability: whichever faces went through the network together
                assert float(row[column]) == pytest.approx(float(other[column]), abs=2e-4)
            elif column not in ("emotion", "gender", "sure_emotion", "sure_gender"):
                assert row[column] == other[column]
    assert {Path(row["input"]).relative_to(media).as_posix() for row in rows} == {
        "long.mp4",
        "photo.png",
        "photos.zip/a.png",
        "photos.zip/b.png",
        "brief.avi",
    }
    assert page.read_text().count("<h2>") == 4  # two videos, the images, what failed
    assert "image/jpeg" not in page.read_text()  # no faces unless asked for
    names = ["o.csv", "o.html", "o.inputs.csv", "whole.csv", "whole.inputs.csv"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    statuses = [(Path(row["input"]).name, row["status"]) for row in read_rows(tmp_path / "o.inputs.csv")]
    assert sorted(statuses) == sorted((Path(row["input"]).name, row["status"]) for row in read_inputs(whole))
    assert dict(statuses) == {
        **dict.fromkeys(("brief.avi", "long.mp4", "photo.png", "a.png", "b.png"), "done"),
        "bad.jpg": "failed",
    }
    done = analyze(media, "--csv", table, *options)
    assert done.returncode == 2
    assert f"--csv: {str(table)!r} is there already; name another file or delete it" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--csv", "{folder}/o.csv"], "PATH: None given"),
        (["no/such", "--csv", "{folder}/o.csv"], "PATH: there is no 'no/such'"),
        (["{folder}", "--csv", "{folder}/o.csv"], "PATH: no images, videos or archives in"),
        (["{media}", "--csv", "{folder}/o.txt"], "--csv: "),
        (["{media}", "--csv", "{folder}/file/o.csv"], "--csv: cannot write"),
        (["{media}", "--csv", "{folder}/o.csv", "--report", "{folder}/o.pdf"], "--report: "),
        (["{media}", "--csv", "{folder}/o.csv", "--gender-weights", "no-such"], "unknown 'no-such'"),
        (["{media}", "--csv", "{folder}/o.csv", "--detector", "{media}/no.onnx"], "no model file"),
        (["{media}", "--csv", "{folder}/o.csv", "--detector", "{media}/bad.jpg"], "choose one of: faceflax, haar"),
        (["{media}", "--csv", "{folder}/o.csv", "--min-score", "2"], "--min-score: 2.0 is not a score"),
        (["{media}"], "--csv: there is no file for the table; give one of"),
        (["{media}", "--csv", "{folder}/o.csv", "--jsonl", "{folder}/o.jsonl"], "--csv: there are several files for"),
        (["{media}", "--jsonl", "{folder}/o.csv"], "--jsonl: "),
        (["{media}", "--csv", "{folder}/o.csv", "--every", "0"], "--every: 0 is not a number of frames"),
        (["{media}", "--csv", "{folder}/o.csv", "--fps", "0"], "--fps: 0.0 is not a number of frames a second"),
        (["{media}", "--csv", "{folder}/o.csv", "--workers", "0"], "--workers: 0 is not a number of processes"),
        (["{media}", "--csv", "{folder}/o.csv", "--max-side", "-1"], "--max-side: -1 is not a number of pixels"),
        (["{media}", "--csv", "{folder}/o.csv", "--faces"], "--faces: is for --report"),
        (["{media}", "--csv", "{folder}/o.csv", "--include", "*.xyz"], "PATH: no images, videos or archives in"),
        (["concat:a", "--csv", "{folder}/o.csv"], "PATH: there is no 'concat:a'"),
        (["ftp://me:secret@host/a", "--csv", "{folder}/o.csv"], "PATH: 'ftp://***@host/a' has an unknown protocol"),
        (["{media}", "--csv", "{folder}/o.csv", "--min-face", "0"], "--min-face: 0 is not a number of pixels"),
    ],
)
def test_bad_input(tmp_path, media, arguments, message, refused):
    (tmp_path / "file").touch()
    given = (argument.format(folder=tmp_path, media=media) for argument in arguments)
    said = refused("faceflax", "analyze", *given)
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "o.csv").exists()


def test_names_of_any_bytes_are_one_line_each(tmp_path, options):
    """Given as arguments, a leading dash needs its folder, as with any command."""
    folder = tmp_path / "m"
    folder.mkdir()
    cv2.imwrite(str(folder / "good.png"), demo.photograph())
    names = [
        b"two\nlines.jpg",
        b"-x.jpg",
        b"50%s.jpg",
        b"a:b.jpg",
        b"\x1b[31mred.jpg",
        b"caf\xe9.jpg",
        b"\xed\xa0\x80.jpg",
    ]
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(b"no picture")
    table = tmp_path / os.fsdecode(b"o\xe9.csv")
    done = analyze(folder, "--csv", table, *options)
    assert done.returncode == 1
    shown = [line.removeprefix(f"  {folder}/").partition(": cannot")[0] for line in done.stderr.splitlines()[-7:]]
    assert sorted(shown) == sorted(
        [
            "two\\nlines.jpg",
            "-x.jpg",
            "50%s.jpg",
            "a:b.jpg",
            "\\x1b[31mred.jpg",
            "caf\\udce9.jpg",
            "\\udced\\udca0\\udc80.jpg",
        ]
    )
    assert f"wrote {tmp_path}/o\\udce9.csv\n" in done.stdout
    assert [Path(row["input"]).name for row in read_rows(table)] == ["good.png"]


@pytest.mark.slow
def test_workers_give_what_one_process_gives(tmp_path, media, options):
    """To the byte, in the same order: with videos in an archive, every third frame, rows for those without a face."""
    with tarfile.open(tmp_path / "videos.tar.gz", "w:gz") as archive:
        for name in ("brief.avi", "photo.png", "bad.jpg"):
            archive.add(media / name, name)
    chosen = ["--every", "3", "--every-frame", "--preset", "fast", *options]
    paths = [media, tmp_path / "videos.tar.gz"]
    done = {}
    for workers in (1, 2):
        table = tmp_path / f"{workers}.csv"
        done[workers] = analyze(
            *paths, "--csv", table, "--workers", workers, "--report", table.with_suffix(".html"), *chosen
        )
        assert done[workers].returncode == 1, done[workers].stderr
    for suffix in (".csv", ".inputs.csv", ".html"):
        one, two = ((tmp_path / f"{workers}{suffix}").read_bytes() for workers in (1, 2))
        assert one == two
    rows = read_rows(tmp_path / "1.csv")
    frames = {int(row["frame"]) for row in rows if row["input"].endswith("long.mp4")}
    assert frames == set(range(0, 6 * demo.NUM_FRAMES, 3))
    assert {Path(row["input"]).name for row in rows if "videos.tar.gz" in row["input"]} == {"brief.avi", "photo.png"}
    assert sorted(file.suffix for file in tmp_path.iterdir()) == sorted([".gz", *(".csv", ".csv", ".html") * 2])
    for text in (done[1].stdout, done[2].stdout):
        assert "2 failed: cannot be read as an image" in text


def test_a_second_run_into_the_same_table_is_refused(tmp_path, media, options):
    table = tmp_path / "o.csv"
    arguments = [str(each) for each in (media, "--csv", table, *options)]
    first = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/analyze.py"), *arguments], cwd=ROOT, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not (table.exists() and table.stat().st_size > 3000):
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    done = analyze(*arguments)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    if first.returncode == 130:  # it was still writing
        assert done.returncode == 2
        assert (
            done.stderr
            == f"error: --csv: {str(table)!r} is being written by another run; wait for it or name another one\n"
        )
        assert b"\0" not in table.read_bytes()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_other_formats_and_a_film_in_the_network(tmp_path, media, options, suffix):
    handler = functools.partial(Quiet, directory=media)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        address = f"http://me:secret@127.0.0.1:{server.server_port}/brief.avi"
        table = tmp_path / f"o.{suffix}"
        done = analyze(address, media / "photo.png", f"--{suffix}", table, "--fps", "5", *options)
        server.shutdown()
        thread.join()
    assert done.returncode == 0, done.stderr
    rows = list(table_module.read_rows(table))
    name = address.replace("me:secret", "***")
    assert {row["input"] for row in rows} == {name, str(media / "photo.png")}
    assert "secret" not in done.stdout + done.stderr
    times = sorted(row["time"] for row in rows if row["input"] == name)
    assert all(step > 0.19 for step in np.diff(times))
    assert len(times) > 10
    (video, photo) = table_module.read_rows(tmp_path / f"o.inputs.{suffix}", table_module.INPUT_COLUMNS)
    assert (video["frames"], photo["frames"]) == (20, 1)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([table.name, f"o.inputs.{suffix}"])


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass
