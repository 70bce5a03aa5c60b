"""Images that are read as they are needed are those of the set in memory, whoever reads them and from wherever."""

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflax import FaceflaxError, data
from faceflax.data.loading import make_builder
from faceflax.data.streaming import SHARED, VALIDATED_TOGETHER, Plan, epoch_order, read_ahead

ROOT = Path(__file__).parents[2]
COUNTS = {"train": 50, "validation": 7}


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A prepared set of pictures of several sizes, no two of which are alike."""
    root = tmp_path_factory.mktemp("noise")
    random = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for i in range(count):
            file = root / "images" / split / "ab"[i % 2] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), random.integers(256, size=(40, 30 + i), dtype=np.uint8))
    make_builder("folder/noise", source=root / "images", data_dir=root / "tfds").prepare()
    return root / "tfds"


@pytest.fixture(scope="module")
def splits(noise):
    """For each split what is in memory and what is not."""
    where = {"image_size": 32, "data_dir": noise}
    return [tuple(read("folder/noise", name, **where) for read in (data.load, data.load_index)) for name in COUNTS]


def plan(**changes):
    settings = dict(seed=3, epochs=400, count=50, validated=7, batch_size=8, columns=slice(0, 8))
    return Plan(**settings | changes)


def test_an_index_has_all_of_a_split_but_its_images(splits, noise):
    for whole, index in splits:
        np.testing.assert_array_equal(index.labels, whole.labels)
        assert (index.names, index.attributes) == (whole.names, whole.attributes)
        rows = np.random.default_rng(1).integers(len(whole.labels), size=20)
        np.testing.assert_array_equal(index.images[rows], whole.images[rows])
        assert len(index.images) == len(whole.images)
    needed = data.memory_needed("folder/noise", COUNTS, image_size=32, data_dir=noise)
    assert needed == sum(whole.images.nbytes for whole, _ in splits)
    digests = {index.digest for _, index in splits}
    digests.add(data.load_index("folder/noise", "train", image_size=48, data_dir=noise).digest)
    assert len(digests) == 3


def test_a_plan_shows_every_image_once_an_epoch_and_draws_by_shares():
    whole = plan()
    rows = [whole[i] for i in range(whole.batches)]
    assert [split for split, _ in rows] == [0] * 6 + [1]
    trained = np.concatenate([rows for split, rows in rows if split == 0])
    np.testing.assert_array_equal(trained, epoch_order(np.random.default_rng([3, 1]), 50)[:48])
    assert len(set(trained)) == 48
    np.testing.assert_array_equal(rows[6][1], np.arange(7))
    assert not np.array_equal(whole[whole.batches][1], whole[0][1])
    assert len(whole) == 400 * whole.batches

    parts = [plan(columns=slice(0, 4)), plan(columns=slice(4, 8))]
    for i in (0, 5, 9):
        np.testing.assert_array_equal(np.concatenate([part[i][1] for part in parts]), whole[i][1])
    only = np.where(np.arange(50) < 2, 0.5, 0.0)
    assert set(plan(shares=only)[2][1]) == {0, 1}
    many = plan(validated=2 * VALIDATED_TOGETHER + 1)
    assert [len(many[i][1]) for i in range(6, many.batches)] == [VALIDATED_TOGETHER] * 2 + [1]


def check(ahead, splits, whole, first, count):
    for i in range(first, first + count):
        split, rows = whole[i]
        np.testing.assert_array_equal(next(ahead), splits[split][0].images[rows])


def test_processes_read_what_is_planned_from_anywhere_until_one_is_killed(splits):
    pytest.importorskip("grain", reason="comes with the extra train")
    whole, images = plan(), [index.images for _, index in splits]
    with read_ahead(whole, images, readers=0, first=5) as ahead:
        check(ahead, splits, whole, 5, 20)
    with read_ahead(plan(epochs=1), images, readers=0) as ahead:
        assert len(list(ahead)) == whole.batches
    with read_ahead(whole, images, readers=2, first=9) as ahead:
        check(ahead, splits, whole, 9, 30)
        children = multiprocessing.active_children()
        assert len(children) == 2
        os.kill(children[0].pid, signal.SIGKILL)
        with pytest.raises(FaceflaxError, match=r"^readers: one of 2 of the processes that read images was ended"):
            list(ahead)
    assert not multiprocessing.active_children()


KILLED = """
import sys, time
from pathlib import Path
from faceflax import data
from faceflax.data.streaming import Plan, read_ahead

images = data.load_index("folder/noise", "train", image_size=32, data_dir=Path(sys.argv[1])).images
with read_ahead(Plan(3, 10**6, 50, 7, 8, slice(0, 8)), (images, images), readers=1) as ahead:
    next(ahead)
    print("reads", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux shows what processes there are")
def test_processes_that_read_end_with_the_one_that_is_killed_and_leave_no_memory(noise):
    pytest.importorskip("grain", reason="comes with the extra train")

    def reading():
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == process.pid and "spawn_main" in (folder / "cmdline").read_text():
                    found.add(folder)
        return found

    def shared(folder):
        return set(re.findall(rf"{SHARED}/psm_\S+", (folder / "maps").read_text()))

    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(noise)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    ) as process:
        assert process.stdout.readline() == b"reads\n"
        children = reading()
        while not (names := shared(Path(f"/proc/{process.pid}"))):
            time.sleep(0.01)
        process.kill()
    assert len(children) == 1
    left = children | set(map(Path, names))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(path.exists() for path in left):
        time.sleep(0.1)
    assert not [path for path in left if path.exists()]


@pytest.mark.skipif(not SHARED.is_dir(), reason="only Linux says how much memory processes can share")
def test_too_little_shared_memory_is_said_before_anything_is_read(splits):
    pytest.importorskip("grain", reason="comes with the extra train")
    large = plan(batch_size=2**40, columns=slice(0, 2**40))
    with (
        pytest.raises(FaceflaxError, match=r"^readers: 2 need [\d,]+ MiB of shared memory, .*; give fewer, or smaller"),
        read_ahead(large, [index.images for _, index in splits], readers=2),
    ):
        pass


def test_a_record_that_is_damaged_meanwhile_is_named(noise, tmp_path):
    make_builder("folder/noise", source=noise.parent / "images", data_dir=tmp_path).prepare()
    index = data.load_index("folder/noise", "train", image_size=32, data_dir=tmp_path)
    (file,) = tmp_path.rglob("folder-train.array_record*")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    with pytest.raises(FaceflaxError, match=r"^dataset: row \d+ of 'folder/noise' train in .* is damaged .*; prep"):
        index.images[np.arange(50)]
