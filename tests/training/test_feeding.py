"""A set that does not stay in memory gives the weights of one that does, bit for bit, wherever the run was left."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.scaling import CLASSES, Small
from faceflax import FaceflaxError, data, models
from faceflax.data.streaming import Plan, epoch_order
from faceflax.training import TrainConfig, Trainer, cosine, make_targets, train
from faceflax.training.devices import Devices
from faceflax.training.feeding import Feed

ROOT = Path(__file__).parents[2]
pytest.importorskip("grain", reason="comes with the extra train")


def test_steps_over_what_is_read_are_those_in_memory_from_any_step(faces):
    where = {"image_size": 32, "data_dir": faces}
    whole = data.load("folder/faces", "train", **where)
    splits = [data.load_index("folder/faces", name, **where) for name in ("train", "validation")]
    targets = make_targets(whole.labels, CLASSES, smoothing=0.1)
    devices, model = Devices(), Small()
    variables = models.init(model, jax.random.key(0), 32)
    trainer = Trainer(model, key=jax.random.key(1), average=0.9)
    plan = Plan(seed=5, epochs=2, count=96, validated=32, batch_size=16, columns=devices.columns(16))
    rates = cosine(2 * plan.steps, 1e-2)

    images = devices.everywhere((whole.images, targets))
    orders = [epoch_order(np.random.default_rng([5, epoch]), 96) for epoch in (1, 2)]
    expected, loss, _ = trainer.steps(trainer.start(variables), *images, np.reshape(orders, (-1, 16)), rates)

    losses = []
    state = trainer.start(variables)
    for epoch, first, last in ((1, 0, 4), (1, 4, 6), (2, 0, 6)):
        with Feed(plan, *splits, targets, devices, readers=0) as feed:
            begin = (epoch - 1) * plan.steps
            given = feed.steps(epoch, first)
            state, mean, _ = trainer.steps_over(state, given, rates[begin + first : begin + last])
            losses.append(mean * (last - first))
            if last == 6:
                ((seen, labels),) = feed.validation(epoch)
                np.testing.assert_array_equal(seen, data.load("folder/faces", "validation", **where).images)
                np.testing.assert_array_equal(labels, splits[1].labels)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert loss == pytest.approx(sum(losses) / 12, rel=1e-5)


def test_faces_that_a_detector_finds_need_memory_and_what_is_given_is_checked(faces, tmp_path):
    settings = dict(dataset="folder/faces", data_dir=faces, output=tmp_path / "run", image_size=32)
    message = "^detector: 'haar' needs the images of folder/faces in memory, and they are more than in_memory_gib, 0; "
    with pytest.raises(FaceflaxError, match=message):
        train(TrainConfig(**settings, detector="haar", in_memory_gib=0.0))
    with pytest.raises(FaceflaxError, match="in_memory_gib: -1 is not usable"):
        TrainConfig(in_memory_gib=-1)
    with pytest.raises(FaceflaxError, match="readers: -1 is too small; give 0 or more"):
        TrainConfig(readers=-1)


@pytest.mark.slow
def test_a_run_that_reads_is_killed_and_ends_as_one_in_memory(faces, tmp_path):
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs")}
    least = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    command = [sys.executable, ROOT / "scripts/train.py", "--dataset", "folder/faces", "--data-dir", faces]
    command += ["--epochs", "20", "--stop-after", "3", "--batch-size", "16", "--image-size", "32"]
    command += ["--checkpoint-steps", "1", "--average", "0.9", "--mixup", "0.2", "--corrupt", "0.3"]

    def start(name, *more):
        environment = os.environ | quick | least
        given = [*command, "--output", tmp_path / name, *more]
        return subprocess.Popen(given, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(process):
        _, said = process.communicate()
        assert process.returncode == 0, said[-3000:]

    def told(name):
        """All that the metrics say but the images a second."""
        return [row[:-1] for row in csv.reader((tmp_path / name / "metrics.csv").read_text().splitlines())]

    finish(start("whole"))
    process = start("read", "--in-memory-gib", "0", "--readers", "2")
    while process.poll() is None and not (tmp_path / "read" / "checkpoints" / "8").exists():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    finish(start("read", "--in-memory-gib", "0", "--readers", "1", "--resume"))
    assert told("read") == told("whole")
    files = [tmp_path / name / "weights.safetensors" for name in ("whole", "read")]
    assert files[0].read_bytes() == files[1].read_bytes()
