"""What an installation without training's packages can still import, and how light it is."""

import subprocess
import sys
from pathlib import Path

import pytest

import faceflax.data
import faceflax.evaluation
import faceflax.training

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("tensorflow_datasets", "sklearn", "scipy", "optax", "orbax", "jinja2", "matplotlib")


@pytest.mark.parametrize(
    ("work", "absent"),
    [
        ("import faceflax.data, faceflax.evaluation, faceflax.training", (*HEAVY, "jax")),
        ("from faceflax.training.config import TrainConfig; TrainConfig()", (*HEAVY, "jax")),
        ("from faceflax.data import render_faces; render_faces(2, 0, 32)", HEAVY),
        ("from faceflax.data.synthetic import render_faces; render_faces(2, 0, 32)", HEAVY),
        ("from faceflax.evaluation import Share, Calibration, Evaluation, predict_logits; Share(1, 2)", HEAVY[:4]),
    ],
)
def test_light_parts_import_nothing_heavy(work, absent):
    code = f"import sys\n{work}\nprint([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("package", [faceflax.data, faceflax.evaluation, faceflax.training])
def test_every_public_name_is_there(package):
    assert dir(package) == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018
