"""Data parallel training: eight simulated devices, two processes on loopback, and what is refused."""

import csv
import json
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from faceflax import FaceflaxError
from faceflax.models import blocks
from faceflax.training.config import TrainConfig
from faceflax.training.devices import _gather, start

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def told():
    done = subprocess.run([sys.executable, HERE / "eight_devices.py"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_eight_devices_give_the_losses_of_one(told):
    assert (told["1"]["places"], told["8"]["places"]) == (1, 8)
    assert len(told["1"]["losses"]) == 50
    assert told["1"]["moved"] > 3e-5
    # Adam divides by the gradient's size: rounding comes back as a share of the learning rate, so this one is low.
    np.testing.assert_allclose(told["8"]["losses"], told["1"]["losses"], rtol=1e-5)
    np.testing.assert_allclose(told["fed"], told["8"]["losses"], rtol=1e-6)
    assert told["8"]["mean"] == pytest.approx(told["1"]["mean"], rel=1e-3)


@pytest.mark.slow
def test_the_divided_program_has_no_kernels_and_adds_up_gradients_and_moments(told):
    assert told["kernels"] == 0
    assert told["collectives"] == {"all-reduce": told["formula"]}


def test_plain_layers_call_no_kernels_forward_or_back():
    x, kernel, depthwise = jnp.ones((2, 8, 8, 8)), jnp.ones((3, 3, 8, 8)), jnp.ones((3, 3, 1, 8))

    def apply(x, kernel, depthwise):
        y = blocks.max_pool(blocks.depthwise_conv(blocks.conv(x, kernel), depthwise))
        return blocks.normalise(y, jnp.ones(8), jnp.zeros(8), True)[0].sum()

    def program():
        text = str(jax.make_jaxpr(jax.grad(apply, (0, 1, 2)))(x, kernel, depthwise))
        return re.sub("0x[0-9a-f]+", "", text)  # where Python has a function

    usual = program()
    with blocks.plainly():
        assert "platform_index" not in program()
    assert "platform_index" in usual
    assert program() == usual


def free_port():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


class Runs:
    """Starts trainings of the small set, and ends them with the test."""

    def __init__(self, faces, folder):
        self.started = []
        self.command = [sys.executable, ROOT / "scripts/train.py", "--dataset", "folder/faces", "--data-dir", faces]
        self.command += ["--epochs", "4", "--batch-size", "8", "--image-size", "32", "--learning-rate", "2e-6"]
        self.command += ["--checkpoint-steps", "1"]
        self.folder = folder

    def start(self, name, *more):
        command = [*self.command, "--output", self.folder / name, *map(str, more)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def start_two(self, name, *more):
        port = free_port()
        return [
            self.start(name, "--coordinator", f"localhost:{port}", "--processes", 2, "--process", number, *more)
            for number in range(2)
        ]

    def losses(self, name):
        rows = csv.DictReader((self.folder / name / "metrics.csv").read_text().splitlines())
        return np.array([[float(row[column]) for column in ("train_loss", "validation_loss")] for row in rows])


@pytest.fixture
def runs(faces, tmp_path):
    runs = Runs(faces, tmp_path)
    yield runs
    for process in runs.started:
        process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_and_end_with_each_other(runs):
    whole = runs.start("one")
    _, said = whole.communicate()
    assert whole.returncode == 0, said
    for name, more in (("two", ()), ("fed", ("--in-memory-gib", 0, "--readers", 1))):
        for process in runs.start_two(name, *more):
            _, said = process.communicate()
            assert process.returncode == 0, said[-3000:]
    np.testing.assert_allclose(runs.losses("two")[:, 0], runs.losses("one")[:, 0], rtol=1e-5)
    np.testing.assert_allclose(runs.losses("two")[:, 1], runs.losses("one")[:, 1], rtol=1e-4)
    np.testing.assert_allclose(runs.losses("fed"), runs.losses("two"), rtol=1e-6)  # each reads its part from files

    first, second = runs.start_two("lost")
    while first.poll() is None and not list((runs.folder / "lost").glob("checkpoints/[0-9]*")):
        time.sleep(0.01)
    second.kill()
    _, said = first.communicate(timeout=30)
    assert first.returncode == 2, said[-3000:]
    assert re.search(
        r"process 0 cannot reach another process of this training .*; the checkpoints are whole: start", said
    )
    alone = runs.start("lost", "--resume")
    _, said = alone.communicate()
    assert alone.returncode == 0, said
    np.testing.assert_allclose(runs.losses("lost")[:, 0], runs.losses("one")[:, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("number", "count", "message"),
    [
        (1, 2, r"coordinator: 'localhost:\d+' cannot be reached in 1 s \(.*\); start the first process"),
        (0, 3, "processes: 3 were to come together in 1 s, and these did not: 1, 2; start them all"),
    ],
)
def test_processes_that_do_not_come_are_named_in_time(number, count, message):
    config = TrainConfig(coordinator=f"localhost:{free_port()}", processes=count, process=number, join_seconds=1)
    with pytest.raises(FaceflaxError, match=message):
        start(config)


def test_processes_that_were_told_other_numbers_are_refused():
    place = f"localhost:{free_port()}"
    first = TrainConfig(coordinator=place, processes=2, process=0, join_seconds=20)
    other = TrainConfig(coordinator=place, processes=3, process=1, join_seconds=3)
    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(start, other)
        with pytest.raises(FaceflaxError, match="processes: 2 is not what process 1 was told, which is 3; give each"):
            start(first)
        with pytest.raises(FaceflaxError, match=r"coordinator: .* cannot be reached in 3 s"):
            refused.result()


def connected(port):
    """A connection, as soon as somebody listens."""
    while True:
        try:
            return socket.create_connection(("localhost", port))
        except ConnectionRefusedError:
            time.sleep(0.01)


def test_a_stranger_who_connects_and_says_nothing_holds_up_nobody():
    port = free_port()
    first, other = (
        TrainConfig(coordinator=f"localhost:{port}", processes=2, process=number, join_seconds=60) for number in (0, 1)
    )
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_gather, first)
        with connected(port) as silent, connected(port) as other_tongue:
            other_tongue.sendall(b"GET / HTTP/1.1")
            _gather(other)
            waiting.result(timeout=30)
            silent.settimeout(5)
            assert silent.recv(1) == b""  # it was sent away


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"coordinator": "localhost:1"},
            "coordinator: 'localhost:1' is not enough .*; give coordinator, processes and",
        ),
        (
            {"coordinator": "x:1", "processes": 2, "process": 2},
            "process: 2 is not from 0 to 1; give each process its own",
        ),
        ({"coordinator": "x", "processes": 2, "process": 1}, "coordinator: 'x' is not HOST:PORT"),
        ({"devices": 0}, "devices: 0 is too small; give 1 or more"),
        ({"devices": 500}, "devices: 500 is more than there are here, which is "),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(FaceflaxError, match=message):
        start(TrainConfig(**changes))
