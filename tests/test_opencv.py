"""A broken OpenCV becomes one clear error. The broken ones are small packages put before the real one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faceflax.errors import FaceflaxError
from faceflax.opencv import load_cascade

ROOT = Path(__file__).resolve().parents[2]


def error_with(tmp_path, cv2_source, statement):
    (tmp_path / "cv2.py").write_text(cv2_source)
    program = (
        f"from faceflax.errors import FaceflaxError\ntry:\n    {statement}\nexcept FaceflaxError as e:\n    print(e)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    return done.stdout


@pytest.mark.parametrize("library", ["libGL.so.1", "libgthread-2.0.so.0"])
def test_missing_system_library_is_named_with_package_and_headless_wheel(tmp_path, library):
    source = f"raise ImportError('{library}: cannot open shared object file: No such file or directory')"
    message = error_with(tmp_path, source, "import faceflax.faces.haar")
    for part in (library, "libgl1 libglib2.0-0", 'pip install "opencv-python-headless>=4.11,<5"'):
        assert part in message


def test_no_opencv_at_all(tmp_path):
    message = error_with(
        tmp_path, "raise ModuleNotFoundError(\"No module named 'cv2'\")", "import faceflax.media.sources"
    )
    assert "No module named 'cv2'" in message
    assert "opencv-python-headless" in message


def test_opencv_5_without_cascades(tmp_path):
    statement = "from faceflax.opencv import load_cascade; load_cascade('haarcascade_frontalface_default')"
    message = error_with(tmp_path, "__version__ = '5.0.0'", statement)
    assert "5.0.0" in message
    assert 'pip install "opencv-python>=4.11,<5"' in message


def test_unknown_cascade():
    with pytest.raises(FaceflaxError, match="haarcascade_toes"):
        load_cascade("haarcascade_toes")
