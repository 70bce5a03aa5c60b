"""The documentation site: built as `make docs` builds it, notebooks executed, warnings being errors."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from experiments.tools import site
from interpret.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]


def test_every_method_is_described_with_what_it_is_good_for_and_how_it_misleads():
    for name in METHODS:
        said = site.described(name)
        assert "Good for:" in said, name
        assert "Misleads:" in said, name


def test_links_lead_to_pages_of_the_site_and_other_files_are_named():
    pages = {"index.md": ROOT / "README.md", "sub/page.md": ROOT / "docs/tables.md", "a.png": ROOT / "docs/demo.png"}
    text = "![p](docs/demo.png) [t](docs/tables.md#reading-them) [l](LICENSE) [w](https://x.org)\n"
    moved = site.relinked(text, ROOT / "README.md", "index.md", pages)
    assert moved == "![p](a.png) [t](sub/page.md#reading-them) l [w](https://x.org)\n"
    fenced = "```\n[t](docs/tables.md)\n```\n"
    assert site.relinked(fenced, ROOT / "README.md", "index.md", pages) == fenced
    back = site.relinked("[top](../README.md)", ROOT / "docs/tables.md", "sub/page.md", pages)
    assert back == "[top](../index.md)"


def test_all_packages_with_public_names_are_in_the_reference():
    public = {"faceflax", "interpret"}
    for file in [*ROOT.glob("faceflax/*/__init__.py"), *ROOT.glob("interpret/*/__init__.py")]:
        public.add(".".join(file.parent.relative_to(ROOT).parts))
    assert public <= set(site.PACKAGES)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    for package in ("sphinx", "myst_nb", "sphinx_book_theme", "sphinx_copybutton"):
        pytest.importorskip(package, reason="the extra docs is not installed")
    output = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "experiments.tools.site", "--output", str(output)]
    quick = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # notebooks run little and compile much
    done = subprocess.run(command, cwd=ROOT, env=quick, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return output


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(built):
    packed = (built / "objects.inv").read_bytes().split(b"\n", 4)[4]
    there = {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}
    for package in site.PACKAGES:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            assert name == "__version__" or f"{package}.{name}" in there


@pytest.mark.slow
def test_notebooks_were_executed_and_drew(built):
    for notebook in (ROOT / "docs/notebooks").glob("*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") for cell in cells)  # results are made, not stored
        page = (built / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        assert "cell_output" in page
        assert 'alt="../_images/' in page
        assert "&lt;Figure size" not in page  # a figure's name where it should be drawn
        assert "rendering faces" not in page  # progress bars have no place there


@pytest.mark.slow
def test_pages_fetch_nothing_from_elsewhere(built):
    pages = list(built.rglob("*.html"))
    assert len(pages) > len(METHODS)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        tags = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"([^\"]*)\"", text)
        tags += re.findall(r"<link\b[^>]*\brel=\"(?:stylesheet|preload|icon)\"[^>]*\bhref=\"([^\"]*)\"", text)
        assert not [link for link in tags if re.match(r"(https?:)?//", link)], page
