"""Does work again and again in processes that are killed at random moments, then once to the end: see test_kills.py.

Usage: python killed_run.py DATA_DIR FOLDER SEED. Prints how many kills met a process at work. The imports are made
once, in the parent, which never uses JAX: each forked child initialises it for itself.
"""

import hashlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import orbax.checkpoint
import tensorboardX  # noqa: F401
import tensorflow_datasets  # noqa: F401

from faceflax import batch, cache
from faceflax.cli import analyze
from faceflax.cli.main import main as faceflax
from faceflax.data import loading
from faceflax.data.augment import Augmentation
from faceflax.faces.frame import Frame
from faceflax.media import demo
from faceflax.media.writing import VideoFile
from faceflax.training.config import TrainConfig
from faceflax.training.loop import train

assert orbax.checkpoint
assert analyze
assert batch


HANG = 600
"""Seconds after which work that does not end ends its process."""


@dataclass(frozen=True)
class Work:
    """What is killed.

    Attributes:
        kills: how often.
        run: does it in a folder, or goes on with what killed processes have left there, whose state it checks.
        result: the files that it has made in the end.
        begun: it is done once before the first kill.
    """

    kills: int
    run: Callable[[Path], None]
    result: Callable[[Path], list[Path]]
    begun: bool = False


def trained(data_dir: Path) -> Work:
    """Six steps with a checkpoint each."""

    def run(folder: Path) -> None:
        train(
            TrainConfig(
                dataset="folder/faces",
                data_dir=data_dir,
                output=folder,
                resume=(folder / "config.json").exists(),
                epochs=2,
                batch_size=32,
                image_size=32,
                average=0.9,
                mixup=0.2,
                augmentation=Augmentation(erase=0.2),
                checkpoint_steps=1,
            )
        )

    return Work(30, run, lambda folder: [folder / "weights.safetensors"])


def analysed(media: Path) -> Work:
    """A table of photographs and a video."""

    def make(media: Path) -> None:
        media.mkdir()
        photograph = cv2.resize(demo.photograph(), None, fx=0.5, fy=0.5)
        for number in range(60):
            cv2.imwrite(str(media / f"{number:02}.jpg"), np.roll(photograph, 3 * number, 1))
        with closing(VideoFile(media / "video.mp4", demo.FPS)) as writer:
            for index, image in enumerate(demo.video()):
                small = cv2.resize(image, (320, 180))
                writer.write(Frame(small, "video", index, index / demo.FPS), small)

    def result(folder: Path) -> list[Path]:
        return [folder / "t.csv", folder / "t.inputs.csv"]

    def run(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        if all(file.exists() for file in result(folder)):
            return  # it was killed when all was done: another run would refuse to replace the tables
        try:
            faceflax(["analyze", str(media), "--csv", str(folder / "t.csv"), "--preset", "fast", "--quiet"])
        except SystemExit as stop:
            if stop.code != 0:
                raise

    finish(Work(0, make, lambda folder: []), media)  # elsewhere: a process whose OpenCV has threads cannot be forked
    return Work(9, run, result)


def prepared(images: Path) -> Work:
    """A dataset in place of an older one, of which one is always there, whole."""

    def digest(folder: Path) -> str:
        splits = [loading.load("folder/faces", split, image_size=32, data_dir=folder) for split in ("train", "test")]
        return hashlib.sha256(b"".join(split.images.tobytes() + split.labels.tobytes() for split in splits)).hexdigest()

    def run(folder: Path) -> None:
        place = folder / "digest"
        assert not place.exists() or digest(folder) == place.read_text()
        loading.prepare("folder/faces", source=images, data_dir=folder)
        place.write_text(digest(folder))
        left = {file.name for file in folder.iterdir()} | {
            file.name for file in (folder / "folder" / "faces").iterdir()
        }
        assert left == {"digest", "folder", "1.0.0"}, left

    return Work(9, run, lambda folder: [folder / "digest"], begun=True)


def cached() -> Work:
    """Files in the cache, each of which is whole or not there."""
    contents = [bytes([number]) * 2**20 for number in range(4)]

    def run(folder: Path) -> None:
        os.environ["FACEFLAX_CACHE_DIR"] = str(folder)
        place = cache.folder("programs")
        assert place is not None
        for turn in range(200):
            for number, content in enumerate(contents):
                kept = list(place.glob(f"{number}-*"))
                found = cache.find(place, str(number), ".bin")
                assert [found] == [(file, content) for file in kept] or (found is None and not kept)  # none is damaged
                if found is not None and turn < 199:
                    found[0].unlink()
                else:
                    cache.keep(place, str(number), ".bin", content)
        assert len(os.listdir(place)) == len(contents)

    return Work(6, run, lambda folder: sorted((folder / "programs").iterdir()))


def start(work: Work, folder: Path) -> int:
    """Forks a process that works; returns its number."""
    child = os.fork()
    if child:
        return child
    signal.alarm(HANG)
    os.dup2(2, 1)  # what the work says is not this script's answer
    try:
        work.run(folder)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def finish(work: Work, folder: Path) -> float:
    """Works to the end; returns how many seconds that took."""
    begin = time.monotonic()
    _, status = os.waitpid(start(work, folder), 0)
    assert status == 0, (folder, status)
    return time.monotonic() - begin


def killed(work: Work, folder: Path, draw: random.Random) -> int:
    """Kills, then works to the end and compares; returns how many kills met a process at work."""
    longest = min(finish(work, folder / name) for name in ("whole", "again"))  # the first compiles
    met = number = 0
    while met < work.kills:
        place = folder / f"killed{number}"
        if work.begun:
            finish(work, place)
        ended = False
        while not ended and met < work.kills:
            child = start(work, place)
            # Mostly while it works and writes; at times before, while it reads and compiles.
            time.sleep(draw.uniform(0.05, 1.0) ** 0.5 * longest)
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            assert status in (0, signal.SIGKILL), status
            ended = status == 0
            met += not ended
        finish(work, place)
        for mine, right in zip(work.result(place), work.result(folder / "whole"), strict=True):
            assert mine.read_bytes() == right.read_bytes(), mine
        number += 1
    return met


def main() -> None:
    """Kills each kind of work."""
    data_dir, folder, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    works = {
        "train": trained(data_dir),
        "analyze": analysed(folder / "media"),
        "prepare": prepared(data_dir.parent / "images"),
        "cache": cached(),
    }
    for name, work in works.items():
        begin = time.monotonic()
        (folder / name).mkdir()
        met = killed(work, folder / name, random.Random(f"{seed} {name}"))
        print(name, met, f"{time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
