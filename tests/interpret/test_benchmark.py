"""The benchmark: its table, what it refuses, and the whole command on a small network."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

import interpret
from faceflax import models, pretrained
from faceflax.cli import ReportOptions
from faceflax.errors import FaceflaxError
from interpret import benchmark, metrics
from interpret.benchmark import Options, Table

ROOT = Path(__file__).resolve().parents[2]


class Net(nn.Module):
    """Two layers."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Conv(6, (3, 3), name="first")(images))
        x = nn.Conv(self.num_classes, (3, 3), name="last_conv")(x)
        return x.mean((1, 2)), {"last_conv": x}


@pytest.fixture(scope="module")
def network():
    images = np.random.default_rng(0).uniform(-1, 1, (4, 24, 24, 1)).astype(np.float32)
    return Net(), jax.jit(Net().init)(jax.random.key(0), images), images


@pytest.fixture
def table():
    rows = {
        "grad_cam": {"a": np.array([1.0, 2.0, 6.0]), "b": np.zeros(3)},
        "random": {"a": np.ones(3), "b": np.ones(3)},
    }
    return Table({"a": "lower", "b": "higher", "not measured": ""}, rows, "Three images.")


def test_markdown(table):
    assert table.text(".md") == (
        "| method | a \N{DOWNWARDS ARROW} | b \N{UPWARDS ARROW} |\n"
        "| --- | --- | --- |\n"
        "| grad cam | 3.000 | 0.000 |\n"
        "| random | 1.000 | 1.000 |\n"
        "| *standard error up to* | *1.528* | *0.000* |\n"  # sqrt(7 / 3)
        "\n"
        "Three images.\n"
    )


def test_csv_and_json_hold_means_and_standard_errors(table):
    rows = list(csv.DictReader(table.text(".csv").splitlines()))
    assert [row["method"] for row in rows] == ["grad_cam", "random"]
    assert (float(rows[0]["a"]), float(rows[0]["a standard error"])) == (3, pytest.approx(np.sqrt(7 / 3), rel=1e-5))
    content = json.loads(table.text(".json"))
    assert content["methods"]["grad_cam"]["a"] == {"mean": 3.0, "standard_error": pytest.approx(np.sqrt(7 / 3))}
    assert content["better"] == {"a": "lower", "b": "higher"}


def test_sensitivities_are_methods():
    assert benchmark.SENSITIVITIES.issubset(interpret.METHODS)


def test_evaluation_is_that_of_the_metrics(network):
    model, variables, images = network
    target = np.array([0, 2, 1, 1])
    masks = np.random.default_rng(1).random((4, 24, 24)) < 0.3
    numbers = benchmark.evaluate(
        interpret.gradient, model, variables, images, target, signed=False, key=jax.random.key(0), masks=masks
    )
    assert list(numbers) == list(benchmark.METRICS)
    assert all(values.shape == (4,) and np.isfinite(values).all() for values in numbers.values())
    maps = interpret.gradient(model, variables, images, target)
    expected = metrics.deletion(model, variables, images, target, np.abs(maps[..., 0]))
    np.testing.assert_allclose(numbers["deletion"], expected, rtol=1e-6)
    np.testing.assert_allclose(numbers["energy inside"], metrics.energy_inside(np.abs(maps[..., 0]), masks), rtol=1e-6)


def test_contributions_are_taken_per_unit_for_infidelity(network):
    # Gradient x input over the input is the gradient; so both foretell the same.
    model, variables, images = network
    target = np.zeros(4, int)
    scores = [
        benchmark.evaluate(method, model, variables, images, target, signed=signed, key=jax.random.key(0))["infidelity"]
        for method, signed in ((interpret.gradient, False), (interpret.gradient_x_input, True))
    ]
    np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-5)
    assert (scores[0] < 0.9).all()


def test_floors_ignore_the_network(network):
    model, variables, images = network
    for floor in (benchmark.edges, benchmark.random):
        numbers = benchmark.evaluate(
            floor, model, variables, images, np.zeros(4, int), signed=True, key=jax.random.key(0)
        )
        np.testing.assert_allclose(numbers["cascade rank correlation"], 1)
        assert "pointing game" not in numbers


def test_edges_are_the_central_differences():
    ramp = np.broadcast_to(np.arange(6.0)[:, None, None] * 3, (1, 6, 5, 1)) + 4 * np.arange(5.0)[:, None]
    np.testing.assert_allclose(benchmark.edges(None, {}, ramp, 0), 5)


def test_methods_that_are_done_are_printed_on_interruption(capsys):
    def measure(name, method, batch):
        if name == "second":
            raise KeyboardInterrupt
        return {"a": np.full(len(batch), 0.5)}

    with pytest.raises(KeyboardInterrupt):
        benchmark.measure_all({"first": None, "second": None}, 70, measure, {"a": "lower"})
    printed = capsys.readouterr().out
    assert "| first | 0.500 |" in printed
    assert "second" not in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 1}, "samples: 1 is too few; give 2 or more"),
        ({"seed": -1}, "seed: -1 is no seed"),
        ({"output": Path("table.html")}, "output: 'table.html' is none of .md, .csv, .json"),
        ({"methods": ("gradcam",)}, "methods: unknown 'gradcam'; choose one of: gradient, "),
        ({"weights": "nothing"}, "weights: unknown 'nothing'"),
        ({"dataset": "nothing"}, "dataset: unknown 'nothing'"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FaceflaxError, match=message):
        benchmark.main(Options(**changes))
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("how", ["quiet", "json"])
def test_the_table_for_programs(tmp_path, capsys, how):
    outputs = [tmp_path / "t.md", tmp_path / "t.json"]
    table = Table({"score": "higher"}, {"gradient": {"score": np.array([0.25, 0.75])}}, "of two faces")
    benchmark.write_table(outputs, lambda: table, ReportOptions(**{how: True}))
    out = capsys.readouterr().out
    if how == "quiet":
        assert not out
    else:
        said = json.loads(out)
        assert said.pop("seconds") >= 0
        assert said.pop("files") == list(map(str, outputs))
        assert said == json.loads(outputs[1].read_text())


def test_command_line():
    shown = subprocess.run(
        [sys.executable, "-m", "interpret.benchmark", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--weights" in shown.stdout
    heavy = "import sys, interpret.benchmark; print({'jax', 'flax', 'matplotlib', 'cv2', 'numpy'} & set(sys.modules))"
    light = subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True, check=True)
    assert light.stdout == "set()\n"


def test_the_whole_command(tmp_path, monkeypatch, capsys):
    models.register("net", Net)
    variables = models.init(Net(), jax.random.key(0), 32)
    file = tmp_path / "mine.safetensors"
    pretrained.save(file, variables, arch="net", dataset="none", labels=("a", "b", "c"), image_size=32)
    output = tmp_path / "table.json"
    benchmark.main(Options(weights=str(file), samples=3, methods=("gradient",), output=output))
    content = json.loads(output.read_text())
    assert list(content["methods"]) == ["gradient", "edges", "random"]
    assert list(content["methods"]["random"]) == list(benchmark.METRICS)
    assert "mine on 3 faces of synthetic" in content["caption"]
    assert "| gradient |" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.json", "mine.safetensors", "table.json"]
