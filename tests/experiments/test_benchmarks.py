"""The benchmark's own work: turns, comparison of numbers, ratios, the peers' graph, bad input. Not the times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from PIL import Image

import faceflax
from experiments.benchmarks import cases, files, measure, plot, report, run, shared, worker
from experiments.benchmarks.cases import Call, Case, Process
from faceflax.errors import FaceflaxError
from faceflax.media import demo
from faceflax.opencv import cv2

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "../shared/reference/mini_xception_emotion.onnx"

TOY = """
import os, time
import numpy as np
print("a framework that prints")

def sleep(seconds, number=1.0):
    def run():
        print("at every call")
        time.sleep(seconds)
        return np.full((2, 3), number)
    return run

def cores():
    return lambda: np.array(sorted(os.sched_getaffinity(0)))

def count(n):
    return lambda: np.array(n)

def leave():
    return lambda: os._exit(3)
"""


@pytest.fixture
def workers(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with measure.Workers() as workers:
        yield workers


def test_a_number_is_what_the_work_returns(workers, tmp_path):
    counts = {"faceflax": Call("toy", "count", {"n": 12}), "fer": Call("toy", "count", {"n": 8}, checked=False)}
    result = case(unit="frames", **counts)
    rounds = measure.measure(result, workers, tmp_path)
    assert rounds == {"faceflax": [[12.0]], "fer": [[8.0]]}
    assert list(report.lines(report.record(result, rounds)))[2].endswith("1.50 of fer's number (1.50 to 1.50)")


def case(rounds=2, unit="ms", **contenders):
    return Case("forward", "toy", 1, unit, rounds, contenders)


def test_contenders_take_turns_in_worker_processes(workers, tmp_path):
    sleepers = {f"{ms} ms": Call("toy", "sleep", {"seconds": ms / 1e3}) for ms in (5, 30)}
    rounds = measure.measure(case(rounds=3, **sleepers), workers, tmp_path)
    assert [len(turns) for turns in rounds.values()] == [3, 3]
    block = 1e3 * worker.BLOCK
    for least in (5, 30):  # a turn is as many calls as make up a block
        assert all(min(turn) >= least and sum(turn[:-1]) < block <= sum(turn) for turn in rounds[f"{least} ms"])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin processes")
def test_a_worker_runs_on_its_cores_and_we_keep_ours(workers):
    before = os.sched_getaffinity(0)
    answer = workers.get("toy", 1, "forward").ask(prepare="cores", function="cores", arguments={})
    assert answer["numbers"][0] == measure.cores(1)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(("number", "refused"), [(1.0005, False), (1.002, True), (float("nan"), True)])
def test_different_numbers_are_not_compared(workers, tmp_path, number, refused):
    peer = {"seconds": 0, "number": number}
    contenders = {"ours": Call("toy", "sleep", {"seconds": 0}), "peer": Call("toy", "sleep", peer)}
    if refused:
        with pytest.raises(FaceflaxError, match=r"toy: the numbers of peer differ from those of ours .* 0\.001"):
            measure.measure(case(**contenders), workers, tmp_path)
    else:
        assert set(measure.measure(case(**contenders), workers, tmp_path)) == {"ours", "peer"}
    contenders["peer"] = Call("toy", "sleep", peer, checked=False)
    measure.measure(case(rounds=1, **contenders), workers, tmp_path)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "toy: ours: 'nothing' failed with AttributeError: .*nothing"),
        ("leave", "toy: ours: .* status 3"),
    ],
)
def test_failing_work_is_named(workers, tmp_path, function, message):
    with pytest.raises(FaceflaxError, match=message):
        measure.measure(case(ours=Call("toy", function, {})), workers, tmp_path)


def test_a_process_has_its_time_memory_and_cache(tmp_path):
    code = "import os, time; time.sleep(0.2); open(os.environ['FACEFLAX_CACHE_DIR'] + '/kept', 'x'); b'x' * 2**27"
    seconds, mebibytes = measure.run_process(Process(("-c", code)), 1, tmp_path)
    assert seconds > 0.2
    assert 128 < mebibytes < 200  # our own is more
    assert (tmp_path / "kept").exists()
    measure.run_process(Process(("-c", code), empty_cache=True), 1, tmp_path)
    with pytest.raises(FaceflaxError, match=r"(?s)status 1: .*FileExistsError"):
        measure.run_process(Process(("-c", code)), 1, tmp_path)


def test_ratio_is_that_of_the_medians_and_its_spread_that_of_the_rounds(capsys):
    rounds = {"faceflax": [[1.0, 3.0], [2.0, 2.0], [6.0]], "PyTorch": [[4.0], [8.0], [8.0]]}
    result = report.record(case(**dict.fromkeys(rounds)), rounds)
    percentiles = {"median": 2.0, "p10": 1.4, "p90": 4.8, "p95": 5.4}
    assert result["contenders"]["faceflax"] == {"mean": 2.8, **percentiles, "timings": 5}
    rounds = pytest.approx({"mean": 0.5, "median": 0.25, "p10": 0.3, "p90": 0.7, "p95": 0.725})  # 2/4, 2/8, 6/8
    assert result["ratios"]["PyTorch"] == rounds
    assert list(report.lines(result)) == [
        "toy, 1 thread",
        "    faceflax                       2.00 ms  (1.40 to 4.80)",
        "    PyTorch                        8.00 ms  (4.80 to 8.00)     0.25 of PyTorch's time (0.30 to 0.70)",
    ]


def test_only_faceflax_is_compared():
    rounds = {"python": [[1.0]], "script": [[2.0]]}
    assert report.record(case(unit="s", **dict.fromkeys(rounds)), rounds)["ratios"] == {}


@pytest.mark.parametrize(("value", "text"), [(0.004, "0.00"), (0.5, "0.50"), (12.34, "12.3"), (4e3, "4000")])
def test_three_digits_are_shown(value, text):
    assert report._show(value) == text


SETTING = cases.Setting(30, (1, 2), {arch: Path(f"{arch}.onnx") for arch in cases.GRAPHS})


def test_every_case_starts_with_faceflax_or_compares_nothing():
    everything = cases.cases(list(cases.ROWS), SETTING)
    assert len({(case.name, case.threads) for case in everything}) == len(everything)
    for case in everything:
        first = next(iter(case.contenders))
        assert first == cases.OURS or not set(cases.PEERS).intersection(case.contenders)


def test_what_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(cases, "find_spec", lambda name: None if name == "torch" else object())
    assert cases.missing() == ["torch"]
    found = {label for case in cases.cases(["forward", "guided"], SETTING) for label in case.contenders}
    assert found == {cases.OURS, cases.PLAIN, cases.ONNX}


@pytest.mark.parametrize("arch", cases.ARCHS)
def test_plain_flax_is_the_same_network(arch):
    from experiments.benchmarks import plain

    model, variables = network(arch)
    expected = model.apply(variables, shared.images(2), train=False)[0]
    np.testing.assert_allclose(plain.forward(arch, 2)(), expected, atol=1e-4)


@pytest.mark.parametrize("arch", cases.GRAPHS)
def test_onnx_graph_is_the_same_network(arch, tmp_path):
    pytest.importorskip("onnx", reason="needs the extra 'benchmark'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'benchmark'")
    from experiments.benchmarks import peer_onnx

    peer_onnx.write_graph(arch, str(tmp_path / "graph.onnx"))
    model, variables = network(arch)
    expected = model.apply(variables, shared.images(3), train=False)[0]
    logits = peer_onnx.forward(str(tmp_path / "graph.onnx"), 3, 1)()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def network(arch):
    return faceflax.create(arch, shared.CLASSES), jax.tree.map(
        jnp.asarray, unflatten_dict(shared.tensors(arch), sep="/")
    )


def command(*arguments):
    return subprocess.run(
        [sys.executable, "scripts/benchmark.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "sleep"], "sleep"),
        (["--repeats", "0"], "error: --repeats: 0 is not a number of rounds"),
        (["--video", "no/such.mp4"], "error: --video: there is no file 'no/such.mp4'"),
        (["--output", "README.md/x.json"], "error: --output: cannot write into 'README.md'"),
        (["--plot", "plot.txt"], "error: --plot: 'plot.txt' is no image file"),
    ],
)
def test_bad_options_are_named(arguments, message):
    done = command(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_options_are_the_rows():
    code = "import typing; from experiments.benchmarks.command import Row; print(*typing.get_args(Row))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(cases.ROWS)


@pytest.mark.skipif(bool(cases.missing()), reason="needs the extra 'benchmark'")
@pytest.mark.parametrize("content", [None, b"no graph"])
def test_bad_graph_is_named(content, tmp_path):
    file = tmp_path / "graph.onnx"
    if content:
        file.write_bytes(content)
    with pytest.raises(FaceflaxError, match=r"onnx: .*graph\.onnx"):
        run.check_graph(file)


@pytest.mark.slow
def test_files_are_as_large_as_said_and_show_what_is_counted(tmp_path):
    files.make(tmp_path, 2)
    few, many = sorted((tmp_path / "few").iterdir()), list((tmp_path / "many").iterdir())
    assert (len(few), len(many)) == (files.PHOTOGRAPHS, 2 * files.PHOTOGRAPHS)
    assert len({file.read_bytes() for file in few}) == files.PHOTOGRAPHS
    with Image.open(few[0]) as photograph:
        assert photograph.size == (4000, 3000)
    assert files.photographs(str(tmp_path / "few"))() == files.PHOTOGRAPHS
    video = str(tmp_path / "video.mp4")
    assert files.video(video)() == files.video_in_turn(video)() == demo.NUM_FRAMES


@pytest.mark.slow
def test_command_prints_and_writes_what_it_measured(tmp_path):
    video = str(tmp_path / "video.avi")
    writer = cv2.VideoWriter(video, cv2.VideoWriter.fourcc(*"MJPG"), demo.FPS, (demo.WIDTH, demo.HEIGHT))
    for frame in islice(demo.video(), 12):
        writer.write(frame)
    writer.release()
    with measure.pinned(1):  # half the work: without the rows of two threads
        done = command("--rows", "live", "--repeats", "2", "--video", video, "--output", str(tmp_path / "b.json"))
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "b.json").read_text())
    for result in content["results"]:
        assert result["rounds"] == (1 if result["unit"] == "frames" else 2)
        assert "\n".join(report.lines(result)) in done.stdout
    counts = {label: value["median"] for label, value in content["results"][-1]["contenders"].items()}
    assert (counts["faceflax"], counts["Haar, every frame"]) == (12, 12)
    result = content["results"][0]
    parts = {"finding", "networks", "drawing", "single images"}
    assert set(result["contenders"]) >= {"faceflax", "--explain", *parts}
    whole, part = (result["contenders"][label]["median"] for label in ("faceflax", "finding"))
    assert result["ratios"]["finding"]["median"] == pytest.approx(whole / part, rel=1e-4)
    assert content["machine"]["packages"]["jax"] == jax.__version__
    absent = cases.missing()
    assert not absent or f"not installed: {', '.join(absent)}; " in done.stdout


def test_plot_shows_every_ratio(tmp_path):
    rounds = {cases.OURS: [[1.0]]} | {peer: [[2.0]] for peer in cases.PEERS}
    results = [report.record(case(**dict.fromkeys(rounds)), rounds)] * 3
    plot.draw(results, tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    assert text.count("<!-- toy, 1 thread -->") == 3
    for peer in cases.PEERS:
        assert f"<!-- {peer} -->" in text
