"""The pages that users read: links, length, and examples that agree with each other and run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib import cbook

import faceflax

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "interpret/README.md"])
EXTERNAL = re.compile(r"[a-z]+:", re.IGNORECASE)


def without_code(page: Path) -> str:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "`code`", text)


def links(page: Path) -> list[str]:
    return re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", without_code(page))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_to_a_file_of_the_project_and_to_a_heading_in_it(page):
    for link in links(page):
        if EXTERNAL.match(link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(ROOT), f"{link} leads out of the project"
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{link}: there is no such heading"


def test_the_readme_is_short_enough_for_a_newcomer():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_readme_leads_to_every_page():
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    pages = {page for page in (ROOT / "docs").glob("*.md") if page.name != "package.md"}
    assert pages <= linked


def test_the_page_for_a_package_index_has_nothing_that_breaks_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = ROOT / project["readme"]
    assert "![" not in page.read_text(encoding="utf-8")
    assert all(link.startswith("https://") for link in links(page))


@pytest.mark.parametrize("language", ["sh", "python"])
def test_the_page_for_a_package_index_has_the_readmes_examples(language):
    theirs = blocks(ROOT / "docs/package.md", language)
    assert theirs
    readme = "".join(blocks(ROOT / "README.md", language))
    for block in theirs:
        assert block in readme


def test_the_readmes_python_runs(tmp_path):
    shutil.copy(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False), tmp_path / "people.jpg")
    program = "\n".join(blocks(ROOT / "README.md", "python"))
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert any(emotion in line for emotion in faceflax.EMOTIONS)


GUIDE = ROOT / "docs/explain_your_own_model.md"
FRAMEWORKS = {"Equinox": "equinox", "Haiku": "haiku", "Keras 3": "keras"}


def sections(page: Path) -> dict[str, str]:
    """The Python of each section; the first is what stands before all headings but the title."""
    parts = re.split(r"^## (.*)\n", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    texts = dict(zip(["", *parts[1::2]], parts[::2], strict=True))
    return {title: "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)) for title, text in texts.items()}


@pytest.fixture(scope="module")
def of_guide():
    """The names that the guide has defined so far: sections build on those before them."""
    return {}


@pytest.mark.parametrize("title", sections(GUIDE))
def test_the_guide_to_ones_own_model_runs(title, of_guide):
    if title in FRAMEWORKS:
        pytest.importorskip(FRAMEWORKS[title], reason=f"{title} is not installed")
    if title == "Keras 3" and sys.modules["keras"].backend.backend() != "jax":
        pytest.skip("Keras runs on another backend than JAX: set KERAS_BACKEND=jax")
    with jax.numpy_rank_promotion("allow"):  # as JAX is where a reader follows it, and Keras needs it
        exec(compile(sections(GUIDE)[title], f"{GUIDE.name}: {title}", "exec"), of_guide)
    assert np.isfinite(of_guide.get("maps", 0)).all()


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {faceflax.__version__}\n" in citation
    assert f"## [{faceflax.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
