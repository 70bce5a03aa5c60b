"""The analyze command as a user runs it, in its own process."""

import csv
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import pytest

from faceflax.media import demo

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
    """A short and a longer film, photographs as files and in an archive, and a file that is none."""
    folder = tmp_path_factory.mktemp("media")
    for name, times in (("long.avi", 6), ("brief.avi", 1)):
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*"MJPG"), demo.FPS, (320, 180))
        for _ in range(times):
            for frame in demo.video():
                writer.write(cv2.resize(frame, (320, 180)))
        writer.release()
    cv2.imwrite(str(folder / "photo.png"), demo.photograph())
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for name in ("a.png", "b.png"):
            archive.write(folder / "photo.png", name)
    (folder / "bad.jpg").write_bytes(b"no picture")
    return folder


def read_rows(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


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
        assert done.stdout.endswith(f"wrote {table}\nwrote {page}\n")
        assert f"1 could not be read, or not whole:\n  {media}/bad.jpg: cannot be read as an image" in done.stderr
    assert analyze(media, "--csv", whole, *options).returncode == 1
    rows, expected = read_rows(table), read_rows(whole)
    assert len(rows) == len(expected) > 500
    for row, other in zip(rows, expected, strict=True):
        for column in row:
            if "_" in column:  # a probability: whichever faces went through the network together
                assert float(row[column]) == pytest.approx(float(other[column]), abs=2e-4)
            elif column not in ("emotion", "gender"):
                assert row[column] == other[column]
    assert {Path(row["name"]).relative_to(media).as_posix() for row in rows} == {
        "long.avi",
        "photo.png",
        "photos.zip/a.png",
        "photos.zip/b.png",
        "brief.avi",
    }
    assert page.read_text().count("<h2>") == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o.csv", "o.html", "whole.csv"]
    done = analyze(media, "--csv", table, *options)
    assert done.returncode == 2
    assert f"--csv: {str(table)!r} is there already; name another file or delete it" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--csv", "{folder}/o.csv"], "PATH: None given"),
        (["no/such", "--csv", "{folder}/o.csv"], "PATH: there is no 'no/such'"),
        (["{folder}", "--csv", "{folder}/o.csv"], "PATH: no images, videos or zip archives in"),
        (["{media}", "--csv", "{folder}/o.txt"], "--csv: "),
        (["{media}", "--csv", "{folder}/file/o.csv"], "--csv: cannot write"),
        (
            ["{media}/photo.png", "--csv", "{folder}/o.csv", "--report", "{folder}/o.html"],
            "--report: there is no video",
        ),
        (["{media}", "--csv", "{folder}/o.csv", "--report", "{folder}/o.pdf"], "--report: "),
        (["{media}", "--csv", "{folder}/o.csv", "--gender-weights", "no-such"], "unknown 'no-such'"),
        (["{media}", "--csv", "{folder}/o.csv", "--detector", "{media}/no.onnx"], "no model file"),
        (["{media}", "--csv", "{folder}/o.csv", "--detector", "{media}/bad.jpg"], "choose one of: faceflax, haar"),
        (["{media}", "--csv", "{folder}/o.csv", "--min-score", "2"], "--min-score: 2.0 is not a score"),
        (["{media}", "--csv", "{folder}/o.csv", "--min-face", "0"], "--min-face: 0 is not a number of pixels"),
    ],
)
def test_bad_input(tmp_path, media, arguments, message):
    (tmp_path / "file").touch()
    done = analyze(*(argument.format(folder=tmp_path, media=media) for argument in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "o.csv").exists()
