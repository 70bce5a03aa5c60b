"""Whatever is damaged or hostile: the right answer or one line, never a traceback, a crash, a hang or 2 GB."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faceflax import native

ROOT = Path(__file__).resolve().parents[2]
SEED = int(os.environ.get("FACEFLAX_FUZZ_SEED", "25"))
COUNTS = {
    **{"images": 300, "videos": 100, "archives": 150, "weights": 120, "records": 150, "keras": 120, "mat": 25},
    **{"tables": 160, "journals": 120, "datasets": 30, "checkpoints": 100, "options": 150},
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs alarms of a POSIX system")
@pytest.mark.parametrize("kind", COUNTS)
def test_damaged_input_has_the_right_answer_or_one_line(kind, tmp_path):
    native.available()  # compiled before time is measured
    answers: dict[int, str] = {}
    while len(answers) < COUNTS[kind]:
        file, first = str(Path(__file__).with_name("fuzzed.py")), len(answers)
        done = subprocess.run(
            [sys.executable, file, kind, str(SEED), str(first), str(COUNTS[kind] - first), str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        for line in done.stdout.splitlines():
            number, _, answer = line.partition(" ")
            if number == str(len(answers)):
                answers[len(answers)] = answer
        if len(answers) < COUNTS[kind] and not answers.get(len(answers) - 1, "").endswith("MB"):
            answers[len(answers)] = f"the process ended with {done.returncode}: {done.stderr[-500:]}"
            assert list(answers.values()).count(answers[len(answers) - 1]) < 20
    wrong = {number: answer for number, answer in answers.items() if answer not in ("ok", "refused")}
    assert not wrong, f"seed {SEED}, {kind}: {len(wrong)} of {len(answers)}: {wrong}"
