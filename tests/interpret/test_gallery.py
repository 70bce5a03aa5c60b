"""The figures of ``interpret/README.md``."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from faceflax.errors import FaceflaxError
from interpret import gallery
from interpret.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]


def test_figures_of_named_methods(tmp_path, capsys):
    gallery.main(gallery.Options(methods=("grad_cam",), output=tmp_path / "new"))
    assert capsys.readouterr().out == f"figures: 1 in {tmp_path / 'new'}\n"
    (file,) = (tmp_path / "new").iterdir()
    assert file.name == "grad_cam.png"
    assert cv2.imread(str(file)).std() > 10


def test_unknown_method(tmp_path):
    with pytest.raises(FaceflaxError, match=r"methods: unknown 'shap'; choose one of: gradient, .*, activation_max"):
        gallery.main(gallery.Options(methods=("shap",), output=tmp_path))


def test_every_method_has_its_figure_in_the_readme():
    text = (ROOT / "interpret/README.md").read_text()
    for name in (*METHODS, gallery.MAXIMISED):
        assert f"](../docs/interpret/{name}.png)" in text
        assert (ROOT / f"docs/interpret/{name}.png").is_file()
