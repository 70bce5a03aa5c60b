"""A set that need not fit in memory: does the step wait for its images, and how much memory do they take?

Command: ``python -m experiments.large_set --images 100000``

The pictures are made at random, in the layout in which IMDB-WIKI is published: ``imdb.mat`` beside folders of colour
JPEGs of several sizes, five of each person. They are prepared as ``imdb`` is, and then one network is trained for some
steps twice, each time in a process of its own: with the set in memory, on the device, and with the set in its files,
from which other processes read and decode it a little ahead of the steps (Grain). Waiting is the share of the time in
which the step's images were not ready; memory is the peak of the process that trains and of the largest that reads.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from faceflax.cli import run
from faceflax.errors import FaceflaxError

PHOTOS = 5
"""Photos of each person."""
SIDES = (80, 128, 200)
"""Pixels a side, in turn."""
WARM = 32
"""Steps before those that are measured."""
Place = Literal["memory", "files"]


@dataclass(frozen=True)
class Options:
    """Make a set in imdb's layout, prepare it and train on it, in memory and from its files."""

    images: int = 100_000
    """How many pictures; what is already in the folder is used again."""
    folder: Path = Path("out/large_set")
    """Where they and the prepared set go."""
    arch: str = "mini_xception"
    """The network."""
    image_size: int = 48
    """Pixels a side of its images."""
    batch_size: int = 64
    """Images a step."""
    steps: int = 300
    """Steps that are measured, at the most an epoch's, after 32 more."""
    readers: int = 1
    """Processes that read and decode."""
    seed: int = 0
    """Of the pictures and the order."""
    place: Place | None = None
    """Measure one of the two alone, in this process, and print the numbers as JSON."""


def write_set(folder: Path, count: int, seed: int = 0) -> Path:
    """Writes pictures as IMDB-WIKI publishes them.

    Args:
        folder: gets ``imdb_crop``.
        count: how many pictures.
        seed: of the pictures.

    Returns:
        The folder ``imdb_crop``.
    """
    import scipy.io
    from tqdm import tqdm

    from faceflax.opencv import cv2

    root = folder / "imdb_crop"
    random = np.random.default_rng(seed)
    people = np.arange(count) // PHOTOS
    paths = [f"{person % 100:02d}/nm{person:07d}_rm{i}_1950-1-1_2000.jpg" for i, person in enumerate(people)]
    for name in sorted({Path(path).parent for path in paths}):
        (root / name).mkdir(parents=True, exist_ok=True)
    for i, path in enumerate(tqdm(paths, "making pictures", unit=" images", leave=False)):
        side = SIDES[i % len(SIDES)]
        coarse = random.integers(40, 216, size=(12, 12, 3), dtype=np.uint8)
        if people[i] % 2:
            coarse[3:9, 3:9] //= 2  # what tells the two classes apart
        cv2.imwrite(str(root / path), cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))

    def cells(values: list[str]) -> np.ndarray:
        array = np.empty((1, count), object)
        array[0, :] = values
        return array

    table = {
        "full_path": cells(paths),
        "gender": (people % 2).astype(float)[None],
        "face_score": np.full((1, count), 5.0),
        "second_face_score": np.full((1, count), np.nan),
        "celeb_id": people.astype(float)[None] + 1,
    }
    scipy.io.savemat(root / "imdb.mat", {"imdb": table})
    return root


def measure(options: Options, place: Place) -> dict[str, float]:
    """Trains, and returns images a second, the share of the time spent waiting, and MiB at the peak."""
    import jax

    from faceflax import data, models
    from faceflax.data.streaming import Plan, epoch_order
    from faceflax.training import Trainer, cosine, make_targets
    from faceflax.training.devices import Devices
    from faceflax.training.feeding import Feed
    from faceflax.training.memory import keep_freed_memory

    keep_freed_memory()
    size = options.batch_size
    where: dict[str, Any] = {"image_size": options.image_size, "data_dir": options.folder / "prepared"}
    devices = Devices()
    model = models.create(options.arch, 2)
    trainer = Trainer(model, key=jax.random.key(1))
    state = trainer.start(models.init(model, jax.random.key(0), options.image_size))
    waited = 0.0
    if place == "memory":
        whole = data.load("imdb", "train", **where)
        order = epoch_order(np.random.default_rng([options.seed, 1]), len(whole.labels))
        steps = _steps(options, len(order))
        batches = order[: (WARM + steps) * size].reshape(-1, size)
        rates = cosine(len(batches), 1e-3)
        arrays: tuple[Any, Any] = devices.everywhere((whole.images, make_targets(whole.labels, 2)))
        state, _, _ = trainer.steps(state, *arrays, batches[:WARM], rates[:WARM])
        begin = time.perf_counter()
        trainer.steps(state, *arrays, batches[WARM:], rates[WARM:])
        seconds = time.perf_counter() - begin
    else:
        train, validation = (data.load_index("imdb", split, **where) for split in ("train", "validation"))
        count = len(train.labels)
        steps = _steps(options, count)
        plan = Plan(options.seed, 1, count, len(validation.labels), size, devices.columns(size))
        rates = cosine(WARM + steps, 1e-3)
        with Feed(plan, train, validation, make_targets(train.labels, 2), devices, options.readers) as feed:
            inputs = feed.steps(1, 0)
            state, _, _ = trainer.steps_over(state, islice(inputs, WARM), rates[:WARM])
            begin, before = time.perf_counter(), feed.waited
            trainer.steps_over(state, inputs, rates[WARM:])
            seconds, waited = time.perf_counter() - begin, feed.waited - before
    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    own, reading = (peak / (2**20 if sys.platform == "darwin" else 2**10) for peak in peaks)
    return {
        "steps": steps,
        "images_per_second": steps * size / seconds,
        "waiting": waited / seconds,
        "own_mib": own,
        "reader_mib": reading if place == "files" and options.readers else 0.0,
    }


def _steps(options: Options, count: int) -> int:
    steps = min(options.steps, count // options.batch_size - WARM)
    if steps < 1:
        problem = f"are too few for more than {WARM} steps of {options.batch_size} training images"
        raise FaceflaxError("images", options.images, problem, "give more, or a smaller batch_size")
    return steps


def main(options: Options) -> None:
    """Makes what is missing and prints a line for each place of the images."""
    for name in ("images", "batch_size", "steps"):
        if getattr(options, name) < 1:
            raise FaceflaxError(name, getattr(options, name), "is too small", "give 1 or more")
    if options.place is not None:
        print(json.dumps(measure(options, options.place)))
        return
    from faceflax import files
    from faceflax.data.loading import make_builder

    files.writable_folder("folder", options.folder)
    _steps(options, int(0.75 * options.images))  # before anything is made; 80% are for training
    made = options.folder / "made.json"
    what = json.dumps({"images": options.images, "seed": options.seed})
    if not made.exists() or made.read_text() != what:
        source = write_set(options.folder, options.images, options.seed)
        begin = time.perf_counter()
        builder = make_builder("imdb", source=source, data_dir=options.folder / "prepared")
        builder.prepare()
        print(f"prepared {options.images:,} images in {time.perf_counter() - begin:.0f} s")
        files.write(made, what)
    print("images in  steps  images/s  waiting  MiB, training  MiB, largest reader")
    for place in ("memory", "files"):
        command = [sys.executable, "-m", "experiments.large_set", "--place", place, "--folder", str(options.folder)]
        for name in ("images", "arch", "image_size", "batch_size", "steps", "readers", "seed"):
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise FaceflaxError("place", place, "could not be measured; see above")
        told = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{place:9}  {told['steps']:5}  {told['images_per_second']:8,.0f}  {told['waiting']:7.1%}"
            f"  {told['own_mib']:13,.0f}  {told['reader_mib']:19,.0f}",
            flush=True,
        )


if __name__ == "__main__":
    run(main, Options)
