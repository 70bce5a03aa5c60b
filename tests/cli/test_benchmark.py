"""The measurement of one's own machine."""

import json

import numpy as np
import pytest

import faceflax
from faceflax.cli import benchmark
from faceflax.errors import FaceflaxError


def test_summary_is_numpy_s_percentiles():
    times = np.random.default_rng(0).random(31).tolist()
    low, middle, high = np.percentile(times, (10, 50, 90))
    assert benchmark.summary(times) == {"median": middle, "p10": low, "p90": high, "count": 31}


def test_calls_are_counted():
    calls = []
    times = benchmark.timed(lambda: calls.append(1), 0.0, least=4)
    assert (len(calls), len(times)) == (6, 4)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_bad_times(seconds):
    with pytest.raises(FaceflaxError, match=r"^seconds: .* is not a time; give more than 0"):
        benchmark.main(benchmark.Options(seconds=seconds))


@pytest.mark.slow
def test_all_of_it(tmp_path, capsys):
    file = tmp_path / "speed.json"
    benchmark.main(benchmark.Options(json=file, seconds=0.01))
    result = json.loads(file.read_text())
    assert {row["weights"] for row in result["forward"]} == {
        name for name in faceflax.list_weights() if faceflax.weights_info(name).arch != "face_detector"
    }
    assert {row["batch"] for row in result["forward"]} == {1, 8, 32}
    for row in (result["start"], result["frames"]["analyzer"], result["frames"]["video"], *result["forward"]):
        assert 0 < row["p10"] <= row["median"] <= row["p90"]
    assert "python scripts/benchmark.py" in capsys.readouterr().out
