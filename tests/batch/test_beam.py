"""The pipeline gives what one machine gives: on Beam's own runner, in threads and in several processes."""

import posixpath
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

beam = pytest.importorskip("apache_beam", reason="Apache Beam is not installed: pip install 'faceflax[beam]'")

from apache_beam.io import fileio, filesystem  # noqa: E402
from apache_beam.io.localfilesystem import LocalFileSystem  # noqa: E402
from apache_beam.testing.util import assert_that  # noqa: E402

from faceflax import batch  # noqa: E402
from faceflax.batch.beam import Analyze, inputs_folder, run  # noqa: E402
from faceflax.cli.analyze import Options, main  # noqa: E402
from faceflax.errors import FaceflaxError  # noqa: E402
from faceflax.faces.frame import Frame  # noqa: E402
from faceflax.media import demo  # noqa: E402
from faceflax.media.table import COLUMNS, INPUT_COLUMNS, SCHEMA, read_rows  # noqa: E402
from faceflax.media.writing import VideoFile  # noqa: E402

from .test_analysis import Video, images, write_image, write_video  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SHELF = "shelf://room/"


class Shelf(LocalFileSystem):
    """A file system that only Beam knows: the folder ``shelf`` under another scheme."""

    @classmethod
    def scheme(cls):
        return "shelf"

    def join(self, base, *paths):
        return posixpath.join(base, *paths)

    def split(self, path):
        return posixpath.split(path)

    def _list(self, dir_or_prefix):
        for file in Path("shelf").rglob("*"):
            name = SHELF + file.relative_to("shelf").as_posix()
            if file.is_file() and name.startswith(dir_or_prefix):
                yield filesystem.FileMetadata(name, file.stat().st_size)

    def has_dirs(self):
        return False

    def mkdirs(self, path):
        place(path).mkdir(parents=True, exist_ok=True)

    def exists(self, path):
        return place(path).exists()

    def open(self, path, mime_type="application/octet-stream", compression_type="auto"):
        return place(path).open("rb")

    def create(self, path, mime_type="application/octet-stream", compression_type="auto"):
        place(path).parent.mkdir(parents=True, exist_ok=True)
        return place(path).open("wb")

    def rename(self, sources, destinations):
        for source, destination in zip(sources, destinations, strict=True):
            place(source).rename(place(destination))

    def delete(self, paths):
        for path in paths:
            shutil.rmtree(place(path)) if place(path).is_dir() else place(path).unlink(missing_ok=True)

    def last_updated(self, path):
        return place(path).stat().st_mtime


def place(path):
    return Path("shelf", path.removeprefix(SHELF))


def make():
    return batch.Analyzers(images, Video)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Images with and without a face, two videos, archives, and files that cannot be read; the paths are relative."""
    monkeypatch.chdir(tmp_path)
    folder = Path("shelf/media")
    for index in range(40):
        write_image(folder / f"b/{index:02}.png", 5 * index)
    write_video(folder / "a.avi", 50)
    write_video(folder / "c.avi", 33)
    with tarfile.open(folder / "d.tar.gz", "w:gz") as archive:
        archive.add(folder / "a.avi", "in/a.avi")
        archive.add(folder / "b/30.png", "in/30.png")
    with zipfile.ZipFile(folder / "e.zip", "w") as archive:
        archive.write(folder / "b/31.png", "31.png")
    (folder / "bad.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture")
    return folder


def in_order(rows):
    return sorted(rows, key=lambda row: (row["input"], row["frame"] or 0, row["face"] or 0))


def on_one_machine(folder, reading):
    """Rows and records as the table of one machine has them."""
    inputs, others = batch.find_inputs([folder])
    with batch.open_table(Path("one.jsonl"), {}) as table:
        records = batch.analyze(inputs, table, make, reading) + others
        table.complete(records)
    records = [INPUT_COLUMNS.written(record.row()) for record in records]
    return in_order(read_rows(Path("one.jsonl"))), sorted(records, key=lambda record: record["input"])


def tables(folder):
    rows = [row for part in Path(folder).glob("part-*.parquet") for row in read_rows(part)]
    parts = Path(inputs_folder(str(folder))).glob("part-*.parquet")
    records = [row for part in parts for row in read_rows(part, INPUT_COLUMNS)]
    return in_order(rows), sorted(records, key=lambda record: record["input"])


def test_rows_are_those_of_one_machine(files):
    reading = batch.Reading(every=2, every_frame=True)
    expected = on_one_machine(files, reading)
    inputs, others = batch.find_inputs([files])
    records = run([], inputs, "faces.parquet", make, reading, others)
    assert tables("faces.parquet") == expected
    assert len(expected[0]) > 100
    assert sorted(INPUT_COLUMNS.written(record.row())["input"] for record in records) == [
        record["input"] for record in expected[1]
    ]
    with pytest.raises(FaceflaxError, match=r"parquet: 'faces.parquet' is there already"):
        run([], inputs, "faces.parquet", make, reading, others)


def test_files_of_beams_file_systems_are_found_by_the_workers(files):
    """Archives too; and the tables go there."""
    rows, records = on_one_machine(files, batch.Reading())
    run([f"{SHELF}media/**"], [], f"{SHELF}out/faces.parquet", make, batch.Reading())
    for row in (*rows, *records):
        row["input"] = row["input"].replace("shelf/", SHELF, 1)
    assert tables("shelf/out/faces.parquet") == (in_order(rows), sorted(records, key=lambda record: record["input"]))
    with pytest.raises(FaceflaxError, match=r"paths: there is no 'shelf://room/none/\*'"):
        run([f"{SHELF}none/*"], [], "other.parquet", make, batch.Reading())


def test_the_transform_takes_files_addresses_and_images_in_memory(files):
    level = np.full((48, 64, 3), 200, np.uint8)
    elements = [("in memory", level), ("dark", level * 0), str(files / "a.avi"), f"{SHELF}media/b/39.png"]
    elements += ["none.png", "http://me:secret@127.0.0.1:1/none.mp4", f"{SHELF}none.jpg"]
    statuses = {
        **{"in memory": "done", "dark": "no face", str(files / "a.avi"): "done", f"{SHELF}media/b/39.png": "done"},
        **{"none.png": "failed", "http://***@127.0.0.1:1/none.mp4": "failed", f"{SHELF}none.jpg": "failed"},
    }

    def check(records):
        assert {record["input"]: record["status"] for record in records} == statuses

    def check_rows(rows):
        assert all(tuple(row) == COLUMNS.names and row["schema"] == SCHEMA for row in rows)
        assert {row["input"] for row in rows} == {name for name, status in statuses.items() if status == "done"}

    with beam.Pipeline() as pipeline:
        found = pipeline | beam.Create(elements) | Analyze(make)
        assert_that(found.inputs, check, label="inputs")
        assert_that(found.rows, check_rows, label="rows")


def test_it_reads_what_fileio_matches(files):
    with beam.Pipeline() as pipeline:
        matched = pipeline | fileio.MatchFiles("shelf/media/b/3*.png") | fileio.ReadMatches()
        found = matched | Analyze(make)
        names = found.rows | beam.Map(lambda row: row["input"])
        assert_that(names, lambda names: sorted(names) == [f"shelf/media/b/3{n}.png" for n in range(10)] or 1 / 0)


def analyze(*arguments):
    command = [sys.executable, str(ROOT / "scripts/analyze.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_several_processes_give_what_one_machine_gives(tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    with closing(VideoFile(media / "clip.mp4", demo.FPS)) as writer:
        for index, image in enumerate(list(demo.video())[:20]):
            small = cv2.resize(image, (320, 180))
            writer.write(Frame(small, "clip", index, index / demo.FPS), small)
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(media / name), demo.photograph())
    (media / "bad.jpg").write_bytes(b"no picture")
    options = ["--preset", "fast", "--detector", "haar", "--task-weights", "mini_xception-ferplus"]
    one = analyze(media, "--parquet", tmp_path / "one.parquet", *options)
    several = ["--runner", "DirectRunner", "--runner-options", "direct_num_workers=2"]
    several += ["direct_running_mode=multi_processing"]
    many = analyze(media, "--parquet", tmp_path / "many.parquet", *several, *options)
    assert one.returncode == many.returncode == 1, many.stderr
    rows, records = tables(tmp_path / "many.parquet")
    assert len(rows) > 20
    assert all(row["task"] and 0 < row["task_probability"] <= 1 for row in rows if row["face"] is not None)
    assert rows == in_order(read_rows(tmp_path / "one.parquet"))
    expected = read_rows(tmp_path / "one.inputs.parquet", INPUT_COLUMNS)
    assert records == sorted(expected, key=lambda record: record["input"])
    one_said, many_said = (re.sub(r"; [\d.]+ s$", "", done.stdout, flags=re.M).splitlines() for done in (one, many))
    assert one_said[:4] == many_said[:4]
    assert "1 could not be read, or not whole:" in many.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runner": "DirectRunner"}, "parquet: there is no folder for the tables; --runner writes --parquet only"),
        ({"runner": "NoRunner", "parquet": "o"}, "runner: unknown 'NoRunner'; choose one of: DirectRunner"),
        ({"parquet": "o.parquet", "runner_options": ("a=b",)}, "runner_options: 'a=b' is for --runner"),
        ({"runner": "DirectRunner", "csv": Path("o.csv"), "parquet": "o"}, "csv: 'o.csv' is not written by --runner"),
        ({"runner": "DirectRunner", "workers": 2, "parquet": "o"}, "workers: 2 is not for --runner; use --runner-opt"),
        ({"runner": "DirectRunner", "parquet": "a.png"}, "parquet: 'a.png' is there already"),
        ({"runner": "DirectRunner", "parquet": "no://a/b"}, "parquet: cannot look for 'no://a/b/\\*'"),
        ({"runner": "DirectRunner", "parquet": "o", "paths": ("no://a/b",)}, "paths: cannot look for 'no://a/b'"),
        ({"runner": "DirectRunner", "parquet": "o", "paths": ("no://a",), "include": ("a",)}, "include: is not for"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write_image(Path("a.png"), 100)
    with pytest.raises(FaceflaxError, match=message):
        main(Options(**{"paths": ("a.png",), "preset": "fast", **options}))
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["a.png"]
