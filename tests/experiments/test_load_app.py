"""A short run of the load test, against the real server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from experiments import load_app
from faceflax.errors import FaceflaxError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("wrong", [{"requests": 15}, {"clients": 0}, {"clients": 33}, {"calls": 0}])
def test_bad_options_are_refused_before_anything_starts(wrong):
    with pytest.raises(FaceflaxError) as raised:
        load_app.main(load_app.Options(**wrong))
    assert raised.value.field == next(iter(wrong))


def test_a_server_that_is_not_there_is_an_answer_that_differs():
    assert "refused" in load_app.ask(9, b"")[1]


@pytest.mark.slow
def test_every_request_of_several_clients_has_the_same_answer():
    pytest.importorskip("gradio", reason="the extra app is not installed")
    command = [sys.executable, "-m", "experiments.load_app", "--requests", "48", "--calls", "4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "answers that are not the first one's: 0" in done.stdout
