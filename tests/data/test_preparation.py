"""However a dataset is prepared, in how many threads, in how many goes, or on Beam, it is the same."""

import io
import os
import signal
import subprocess
import sys
from functools import partial

import cv2
import numpy as np
import pytest

from faceflax.data import preparation
from faceflax.data.loading import make_builder, prepare
from faceflax.data.preparation import TOGETHER, Kept, Preparation, Row, outcome, outcomes
from faceflax.errors import FaceflaxError

COUNT = 3 * TOGETHER + 5


def write_pictures(folder, count=COUNT):
    """A folder of one's own: two classes, a picture's brightness in the corner is its number."""
    for i in range(count):
        image = np.random.default_rng(i).integers(0, 256, (40 + i % 7, 50, 3), dtype=np.uint8)
        file = folder / "train" / "ab"[i % 2] / f"{i:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), image)
    for split in ("validation", "test"):
        for name in "ab":
            place = folder / split / name / f"{split}.png"
            place.parent.mkdir(parents=True)
            cv2.imwrite(str(place), np.full((30, 30), 200, np.uint8))
    return folder


def content(data_dir):
    """All that was prepared, but for when."""
    (folder,) = data_dir.glob("folder/*/*")
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.suffix == ".array_record" or "array_record" in file.name or file.name == "label.labels.txt"
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def expected(pictures, tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    prepare("folder", source=pictures, data_dir=root, how=Preparation(workers=1))
    found = content(root)
    assert len(found) >= 3
    return found


@pytest.mark.parametrize("workers", [0, 3])
def test_any_number_of_threads_writes_the_same_files(workers, pictures, expected, tmp_path):
    prepare("folder", source=pictures, data_dir=tmp_path, how=Preparation(workers))
    assert content(tmp_path) == expected
    assert not list(tmp_path.glob("unfinished.*"))


CHILD = """
import sys, time
from pathlib import Path
from faceflax.data import preparation
from faceflax.data.loading import prepare

read, done = preparation.Kept.read, 0
def slowly(self, rows):
    global done
    if done == 2:
        time.sleep(60)
    found = read(self, rows)
    done += len(rows) == preparation.TOGETHER
    if len(rows) == preparation.TOGETHER:
        print("read", file=sys.__stdout__, flush=True)  # the other goes nowhere while TFDS writes
    return found
preparation.Kept.read = slowly
prepare("folder", source=Path(sys.argv[1]), data_dir=Path(sys.argv[2]), how=preparation.Preparation(1))
"""


def test_a_killed_preparation_goes_on_where_it_was(pictures, expected, tmp_path, monkeypatch):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(pictures), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with child:
        assert [child.stdout.readline(), child.stdout.readline()] == ["read\n"] * 2
        os.kill(child.pid, signal.SIGKILL)
    (kept,) = tmp_path.glob("unfinished.*")
    assert len(list(kept.iterdir())) == 2
    opened = []
    whole = preparation.outcome
    monkeypatch.setattr(preparation, "outcome", lambda row: opened.append(row.id) or whole(row))
    prepare("folder", source=pictures, data_dir=tmp_path)
    assert content(tmp_path) == expected
    assert len(opened) == COUNT + 4 - 2 * TOGETHER
    assert not list(tmp_path.glob("unfinished.*")) + list(tmp_path.glob("incomplete.*"))


def test_a_damaged_picture_stops_it_and_the_rest_is_not_read_twice(tmp_path, monkeypatch, caplog):
    source, data_dir = write_pictures(tmp_path / "pictures"), tmp_path / "tfds"
    last = source / "train" / "b" / f"{COUNT - COUNT % 2 - 1:04d}.png"
    good = last.read_bytes()
    last.write_bytes(good[:100])
    with pytest.raises(FaceflaxError, match="cannot read the image"):
        prepare("folder", source=source, data_dir=data_dir)
    assert "the same command goes on with it" in caplog.text
    last.write_bytes(good)
    first = source / "train" / "a" / "0000.png"
    cv2.imwrite(str(first), np.full((30, 30), 7, np.uint8))  # one of those kept has changed meanwhile
    opened = []
    whole = preparation.outcome
    monkeypatch.setattr(preparation, "outcome", lambda row: opened.append(row.id) or whole(row))
    builder = prepare("folder", source=source, data_dir=data_dir)
    assert TOGETHER <= len(opened) <= COUNT + 4 - TOGETHER
    images = {each["id"].decode(): each["image"] for each in builder.as_data_source("train")}
    assert (images["train/a/0000.png"] == 7).all()
    assert len(images) == COUNT


def boxes(number):
    if number == 3:
        raise FaceflaxError("source", number, "is damaged")
    return {
        "image": io.BytesIO(bytes([number]) * 9),
        "boxes": np.full((number % 2, 4), number, np.float32),
        "ignored": np.zeros(number % 2, bool),
        "group": "wider",
        "number": number,
    }


def plain(found):
    def value(v):
        return v.getvalue() if isinstance(v, io.BytesIO) else np.asarray(v)

    return [
        (name, str(e) if isinstance(e, FaceflaxError) else {key: value(v) for key, v in sorted(e.items())})
        for name, e in found
    ]


def test_what_is_kept_is_what_was_read(tmp_path):
    file = tmp_path / "picture"
    file.touch()
    rows = [Row(str(i), partial(boxes, i), file) for i in range(TOGETHER)]
    truth = plain([outcome(row) for row in rows])
    kept = Kept(tmp_path / "kept")
    assert str(plain(kept.read(rows))) == str(truth)
    (place,) = (tmp_path / "kept").iterdir()
    written = place.read_bytes()
    assert str(plain(kept.read(rows))) == str(truth)
    broken = bytearray(written)
    broken[-1] ^= 1
    for damaged in (bytes(broken), b"", written[:-1]):
        place.write_bytes(damaged)
        assert str(plain(kept.read(rows))) == str(truth)
        assert len(preparation._unpacked(place)) == TOGETHER - 1
    Kept(tmp_path / "kept", "another version").read(rows)
    Kept(tmp_path / "kept").read(rows[1:] + rows[:1])
    os.utime(file, ns=(1, 1))
    kept.read(rows)
    assert len(list((tmp_path / "kept").iterdir())) == 4
    kept.read(rows[:-1])
    kept.read([row._replace(file=None) for row in rows])
    assert len(list((tmp_path / "kept").iterdir())) == 4


def test_few_rows_are_held_at_a_time():
    drawn = 0

    def rows():
        nonlocal drawn
        for drawn in range(100 * TOGETHER):
            yield Row(str(drawn), partial(dict, value=drawn))

    found = outcomes(rows(), 2, lambda some: [outcome(row) for row in some])
    assert [next(found)[0] for _ in range(TOGETHER)] == [str(i) for i in range(TOGETHER)]
    assert drawn < 8 * TOGETHER
    found.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": -1}, "workers: -1 is too small"),
        ({"runner_options": ("direct_num_workers=2",)}, "runner_options: 'direct_num_workers=2' is for --runner"),
        ({"runner": "DirectRunner", "workers": 2}, "workers: 2 is not for --runner"),
    ],
)
def test_bad_input(given, message):
    with pytest.raises(FaceflaxError, match=message):
        Preparation(**given)


# Of TFDS with the Protobuf that Beam takes.
DEPRECATED = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated")


@pytest.mark.slow
@DEPRECATED
@pytest.mark.parametrize("options", [(), ("direct_running_mode=multi_processing", "direct_num_workers=2")])
def test_on_beam_it_is_what_one_machine_writes(options, pictures, tmp_path):
    """In the same order, too; the bytes are not, as processes order what is in a record at random."""
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed: pip install 'faceflax[beam]'")
    found = []
    for runner, given in ((None, ()), ("DirectRunner", options)):
        how = Preparation(runner=runner, runner_options=given)
        builder = prepare("folder", source=pictures, data_dir=tmp_path / str(runner), how=how)
        examples = [dict(example) for split in builder.info.splits for example in builder.as_data_source(split)]
        found.append((builder.info.splits["train"].shard_lengths, examples))
    np.testing.assert_equal(found[1], found[0])
    assert len(found[0][1]) == COUNT + 4


@pytest.mark.slow
@DEPRECATED
def test_on_beam_damaged_rows_end_it_or_are_left_out_and_named(tmp_path):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed: pip install 'faceflax[beam]'")
    source = write_pictures(tmp_path / "pictures", 30)
    for name in ("b/0001.png", "a/0008.png"):
        (source / "train" / name).write_bytes(b"none")
    how = Preparation(runner="DirectRunner")
    given = {"source": source, "data_dir": tmp_path / "tfds", "how": how}
    with pytest.raises(FaceflaxError, match=r"runner: 'DirectRunner' failed \(source: cannot read the image"):
        prepare("folder", **given)
    builder = prepare("folder", **given, skip_corrupt=True)
    assert builder.skipped == {"train": ["train/a/0008.png", "train/b/0001.png"]}
    assert builder.info.splits["train"].num_examples == 28
    again = make_builder("folder", data_dir=tmp_path / "tfds")
    assert again.skipped == builder.skipped
    with pytest.raises(FaceflaxError, match=r"^source: nothing at '.*nowhere'"):
        prepare("folder", source=tmp_path / "nowhere", data_dir=tmp_path, how=how)
    with pytest.raises(FaceflaxError, match=r"runner: unknown 'Nothing'; choose one of: DirectRunner"):
        prepare("folder", source=source, data_dir=tmp_path, how=Preparation(runner="Nothing"))
