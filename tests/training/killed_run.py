"""Trains again and again in processes that are killed at random moments, then once to the end: see test_kills.py.

Usage: python killed_run.py DATA_DIR FOLDER KILLS SEED. Prints how many kills met a process at work. The imports
are made once, in the parent, which never uses JAX: each forked child initialises it for itself.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import orbax.checkpoint
import tensorboardX  # noqa: F401
import tensorflow_datasets  # noqa: F401

from faceflax.data.augment import Augmentation
from faceflax.training.config import TrainConfig
from faceflax.training.loop import train

assert orbax.checkpoint


def config(data_dir: Path, output: Path, resume: bool) -> TrainConfig:
    """The training that is killed; it makes twelve steps."""
    return TrainConfig(
        dataset="folder/faces",
        data_dir=data_dir,
        output=output,
        resume=resume,
        epochs=3,
        batch_size=24,
        image_size=32,
        average=0.9,
        mixup=0.2,
        augmentation=Augmentation(erase=0.2),
        checkpoint_steps=1,
    )


def start(data_dir: Path, output: Path) -> int:
    """Forks a process that trains, from the last checkpoint if there is one; returns its number."""
    child = os.fork()
    if child:
        return child
    try:
        train(config(data_dir, output, resume=(output / "config.json").exists()))
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Kills, then trains to the end."""
    data_dir, folder, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    draw = random.Random(seed)
    begin = time.monotonic()
    _, status = os.waitpid(start(data_dir, folder / "whole"), 0)
    assert status == 0
    longest = time.monotonic() - begin  # of which the first compilation is a part
    begin = time.monotonic()
    _, status = os.waitpid(start(data_dir, folder / "again"), 0)
    assert status == 0
    longest = min(longest, time.monotonic() - begin)
    met = number = 0
    while met < kills:
        output = folder / f"killed{number}"
        ended = False
        while not ended and met < kills:
            child = start(data_dir, output)
            # Mostly while it trains and writes; at times before, while it reads the data and compiles.
            time.sleep(draw.uniform(0.1, 1.0) ** 0.5 * longest)
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            assert status in (0, signal.SIGKILL), status
            ended = status == 0
            met += not ended
        number += 1
    for done in range(number):
        _, status = os.waitpid(start(data_dir, folder / f"killed{done}"), 0)
        assert status == 0, status
    print(met, number)


if __name__ == "__main__":
    main()
