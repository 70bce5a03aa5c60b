import importlib
import subprocess
import sys

import pytest

from faceflax.lazy import attach

PACKAGES = ["faceflax.faces", "faceflax.media", "faceflax.live", "faceflax.batch"]


@pytest.mark.parametrize("package", PACKAGES)
def test_each_public_name_is_there(package):
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'no_such_name'"):
        _ = module.no_such_name


def test_importing_a_package_imports_nothing_heavy():
    script = f"import sys, {', '.join(PACKAGES)}; print({{'jax', 'cv2', 'numpy', 'matplotlib'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_name_is_looked_up_once(monkeypatch):
    get, names = attach("faceflax.faces", {"tracking": ["Tracker"]})
    module = importlib.import_module("faceflax.faces")
    monkeypatch.delitem(vars(module), "Tracker", raising=False)
    assert get("Tracker") is vars(module)["Tracker"]
    assert "Tracker" in names()
