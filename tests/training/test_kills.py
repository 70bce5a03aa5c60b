"""What is killed at random moments ends as if it had not been, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Programs are compiled once for all processes, the quickest way."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("programs"))}
    least = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    return os.environ | cache | least | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing_and_change_no_bit(faces, tmp_path, environment):
    """Of training, analysis, preparation and the cache: what is left goes on, and ends as if nothing had happened."""
    command = [sys.executable, HERE / "killed_run.py", faces, tmp_path, "24"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert sum(int(line.split()[1]) for line in done.stdout.splitlines()) == 30 + 9 + 9 + 6


@pytest.mark.slow
def test_the_command_is_killed_and_terminated_and_still_ends_the_same(faces, tmp_path, environment):
    script = [sys.executable, ROOT / "scripts/train.py", "--dataset", "folder/faces", "--data-dir", faces]
    settings = ["--epochs", "3", "--batch-size", "16", "--image-size", "32", "--checkpoint-steps", "1"]

    def start(name, *more):
        command = [*script, *settings, "--output", tmp_path / name, *more]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def newest():
        return max((int(entry.name) for entry in (tmp_path / "parts").glob("checkpoints/[0-9]*")), default=0)

    def wait_for(step):
        while process.poll() is None and newest() < step:
            time.sleep(0.01)

    process = start("whole")
    _, said = process.communicate()
    assert process.returncode == 0, said
    process = start("parts")
    wait_for(2)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    reached = newest()
    process = start("parts", "--resume")
    wait_for(reached + 1)
    process.send_signal(signal.SIGTERM)
    out, said = process.communicate()
    assert process.returncode == 0, said
    assert "; the same command with --resume continues from there" in out + said
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    process = start("parts", "--resume")
    _, said = process.communicate()
    assert process.returncode == 0, said
    files = [tmp_path / name / "weights.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
