"""Builds the documentation site: ``make docs``, or ``python -m experiments.tools.site --output out/site``.

Its pages are those in ``docs/``, the repository's other pages (the README is the first one), and three kinds that are
generated, so that nothing is written twice: a page for each attribution method, of its docstring and of what
``interpret/README.md`` says about it; one for each package, of its ``__all__`` and docstrings; and the model cards.
Notebooks are executed. Sphinx treats warnings as errors, and a link that leads nowhere is one.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from faceflax.cli import run
from faceflax.errors import FaceflaxError
from faceflax.files import writable_folder

ROOT = Path(__file__).resolve().parents[2]

CONTENTS: dict[str, tuple[str, ...]] = {
    "Start": ("start", "install", "commands", "faq", "limits"),
    "Faces": ("live", "tables", "app", "cluster", "notebooks/analyse_a_video"),
    "Explanations": (
        "interpret",
        "methods/index",
        "explain_your_own_model",
        "saliency",
        "interpret/matrix",
        "interpret/shapes",
        "notebooks/explain_a_model",
    ),
    "Training": ("train_your_own", "data", "training", "scaling", "notebooks/train_your_own_classes"),
    "Networks": ("models", "export", "browser"),
    "Measured": ("results", "study", "speed", "engine"),
    "Reference": ("api/index", "architecture", "CONTRIBUTING", "SECURITY", "CHANGELOG"),
}
"""The order of the pages, by caption."""

PACKAGES = (
    "faceflax",
    *(
        f"faceflax.{name}"
        for name in (
            "faces",
            "live",
            "batch",
            "media",
            "models",
            "pretrained",
            "inference",
            "exporting",
            "native",
            "data",
            "training",
            "evaluation",
            "app",
            "cli",
        )
    ),
    "interpret",
    "interpret.metrics",
    "interpret.sanity",
)
"""What the API reference has a page for."""

HIDDEN = {"docs/package.md"}  # a package index shows it
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Options:
    """Build the documentation site."""

    output: Path = Path("out/site")
    """Folder for the pages; index.html is the first."""
    notebooks: bool = True
    """Execute the notebooks, which takes most of the time; otherwise they are shown without results."""


def main(options: Options) -> None:
    """Builds the site and says where it is."""
    from sphinx.cmd.build import build_main

    output = writable_folder("output", options.output)
    # The notebooks call the command faceflax, which is beside this Python, be its folder on the path or not.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with tempfile.TemporaryDirectory(prefix="faceflax-site-") as scratch:
        sources = Path(scratch) / "sources"
        assemble(sources)
        words = ["-W", "--keep-going", "-n", "-q", "-c", str(ROOT / "docs"), "-d", str(Path(scratch) / "doctrees")]
        words += ["-D", f"nb_execution_mode={'force' if options.notebooks else 'off'}"]
        if build_main([*words, "-b", "html", str(sources), str(output)]):
            raise FaceflaxError("docs", None, "have the errors and warnings above", "mend them")
    print(f"site: {output / 'index.html'}")


def assemble(folder: Path) -> None:
    """Writes the sources of all pages into a folder.

    Raises:
        FaceflaxError: an attribution method is not described in ``interpret/README.md``.
    """
    pages = dict(_pages())
    for name, source in pages.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".md":
            target.write_text(relinked(source.read_text(encoding="utf-8"), source, name, pages), encoding="utf-8")
        else:
            shutil.copyfile(source, target)
    for name, text in [*method_pages(), *api_pages()]:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    for name, trees in {
        "index.md": [_toctree(names, caption) for caption, names in CONTENTS.items()],
        "models.md": [_toctree(["cards/*"])],
    }.items():
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write("\n".join(["", *trees]))


def _pages() -> Iterator[tuple[str, Path]]:
    """Yields each page or picture of the site with the file of the repository that it is made of."""
    for file in sorted((ROOT / "docs").rglob("*")):
        name = file.relative_to(ROOT).as_posix()
        if file.suffix in {".md", ".png", ".webp", ".ipynb"} and name not in HIDDEN and "node_modules" not in name:
            yield name.removeprefix("docs/"), file
    yield "index.md", ROOT / "README.md"
    yield "interpret.md", ROOT / "interpret/README.md"
    for name in ("CONTRIBUTING", "SECURITY", "CHANGELOG"):
        yield f"{name}.md", ROOT / f"{name}.md"
    for card in sorted((ROOT / "faceflax/pretrained/weights").glob("*.md")):
        yield f"cards/{card.name}", card


def relinked(text: str, source: Path, name: str, pages: Mapping[str, Path]) -> str:
    """Returns a page whose links lead to the site's pages; to other files of the repository there is their name alone.

    Args:
        text: the page.
        source: the file that it comes from.
        name: where it is in the site.
        pages: the site's pages, and the files that they come from.

    Example:
        >>> pages = {"index.md": ROOT / "README.md", "live.md": ROOT / "docs/live.md"}
        >>> relinked("[a](docs/live.md#keys) [b](LICENSE)", ROOT / "README.md", "index.md", pages)
        '[a](live.md#keys) b'
    """
    places = {file: page for page, file in pages.items()}

    def moved(match: re.Match[str]) -> str:
        picture, shown, link = match.groups()
        if re.match(r"[a-z]+:|#", link):
            return match[0]
        file, mark, anchor = link.partition("#")
        shown = LINK.sub(moved, shown)
        place = places.get((source.parent / file).resolve())
        if place is None:
            return shown
        return f"{picture}[{shown}]({os.path.relpath(place, Path(name).parent)}{mark}{anchor})"

    kept = FENCE.findall(text)
    parts = [LINK.sub(moved, part) for part in FENCE.split(text)]
    return "".join(part for pair in zip(parts, [*kept, ""], strict=True) for part in pair)


def described(name: str) -> str:
    """Returns what ``interpret/README.md`` says about a method: what it is good for and how it misleads.

    Raises:
        FaceflaxError: nothing.

    Example:
        >>> described("hsic").startswith("Good for: any kind of dependence")
        True
    """
    paragraphs = (ROOT / "interpret/README.md").read_text(encoding="utf-8").split("\n\n")
    for each in paragraphs:
        head = re.match(rf"(\*\*)?`{name}(\([^`]*\))?`(\*\*)?[.:,]?(\*\*)?", each)
        if head is not None:
            said = " ".join(each[head.end() :].split())
            if "Misleads:" not in said:  # a composite of relevance propagation: what is said of them all holds for it
                said = f"{said} {re.sub('.*?(?=Good for:)', '', described('lrp_composite'))}"
            return said[0].upper() + said[1:]
    raise FaceflaxError("methods", name, "{} is not in interpret/README.md", "describe it there")


def method_pages() -> Iterator[tuple[str, str]]:
    """Yields the name and the text of the page of each attribution method, and of the list of them."""
    from interpret.methods import ATTENTION, CAMS, METHODS, UNSIGNED

    rows = []
    for name, method in METHODS.items():
        wrapped = getattr(method, "__wrapped__", None)
        shown = "three pictures" if name in ATTENTION else "three faces"
        page = [f"# {name}", "", f"![{name} of {shown}](../interpret/{name}.png)", ""]
        page += [re.sub(r" ?(Good for|Misleads):", r"\n\n**\1:**", described(name)).strip(), ""]
        page += ["## Formula and paper", "", "```{eval-rst}", _lead(name, method), "```", ""]
        call = f"interpret.METHODS[{name!r}](model, variables, images, target)"
        layer = ', layer="block3"' if name in CAMS else ""
        page += ["## Use", "", "```python", call.replace(")", f"{layer})") if layer else call, "```", ""]
        kind = "zero or positive" if name in UNSIGNED else "signed"
        page += [f"Maps are {kind}, of the images' shape. From the command line: `faceflax saliency --method {name}`."]
        if hasattr(import_module("interpret"), name) and wrapped is not None:
            page += ["", "Arguments: {py:func}`interpret." + name + "`."]
        rows.append(f"| [{name}]({name}.md) | {kind} | {_first(described(name))} |")
        yield f"methods/{name}.md", "\n".join(page) + "\n"
    head = (
        "# Choosing a method",
        "",
        "A page each, with what it draws, formula, paper and how it misleads. Start with two that work",
        "in different ways, such as `integrated_gradients` and `occlusion`; believe what both show, and compare with",
        "the floors that see no network ([metrics](../interpret.md#metrics)).",
        "",
        "| method | maps | good for |",
        "| --- | --- | --- |",
    )
    yield "methods/index.md", "\n".join([*head, *rows, "", _toctree(METHODS)])


def _first(text: str) -> str:
    """What a method is good for, in a table's cell."""
    found = re.search(r"Good for: (.*?)(?=\s*Misleads:|\Z)", text, re.DOTALL)
    return found[1].strip() if found is not None else ""


def _lead(name: str, method: Callable[..., Any]) -> str:
    """A docstring up to its sections, with the names of the module that it stands in spelled out."""
    text = inspect.getdoc(method) or ""
    if not text or text.startswith("partial("):
        raise FaceflaxError("methods", name, "{} has no docstring", "write one")
    lead = re.split(r"\n\n(?:Args|Returns|Raises|Example):", text)[0]
    return f".. currentmodule:: interpret\n\n{lead}"


def api_pages() -> Iterator[tuple[str, str]]:
    """Yields the name and the text of the page of each public package, and of the list of them."""
    homes: dict[int, str] = {}
    for package in PACKAGES:
        module = import_module(package)
        lead = (inspect.getdoc(module) or "").replace("\n", "\n    ")
        page = [f"# {package}", "", "```{eval-rst}", f".. module:: {package}", "", lead.replace("\n    ", "\n"), ""]
        for name in sorted(public_names(package), key=str.lower):
            value = getattr(module, name)
            home = homes.setdefault(id(value), f"{package}.{name}") if callable(value) else f"{package}.{name}"
            same = [f".. py:data:: {name}", "", f"   The same as :obj:`{home}`."]
            page += [*(_directive(package, name, value) if home == f"{package}.{name}" else same), ""]
        yield f"api/{package}.md", "\n".join([*page, "```", ""])
    head = (
        "# API reference",
        "",
        "Every public name, a page a package. Examples are run by the test suite (`make test`).",
        "",
    )
    yield "api/index.md", "\n".join([*head, _toctree(PACKAGES, hidden=False)])


def public_names(package: str) -> list[str]:
    """Returns a package's public names: its ``__all__``, or what a module without one defines.

    Example:
        >>> "FaceAnalyzer" in public_names("faceflax"), "shuffled" in public_names("interpret.sanity")
        (True, True)
    """
    module = import_module(package)
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if name != "__version__"]
    return [
        name for name, value in vars(module).items() if name[0] != "_" and getattr(value, "__module__", "") == package
    ]


def _directive(package: str, name: str, value: Any) -> list[str]:
    if inspect.isclass(value):
        return [f".. autoclass:: {name}", "   :members:"]
    if inspect.isroutine(value) or hasattr(value, "__wrapped__"):
        return [f".. autofunction:: {name}"]
    said = _comment(package, name)
    shown = repr(value)
    lines = [f".. py:data:: {name}"]
    if len(shown) <= 200 and " at 0x" not in shown and not callable(value):
        lines += [f"   :value: {shown}"]
    return [*lines, "", *(f"   {line}" for line in said.splitlines())]


def _comment(package: str, name: str) -> str:
    """The string below the assignment of a constant, in whichever module of a package it is."""
    from sphinx.pycode import ModuleAnalyzer

    for module in [package, *(each for each in sorted(sys.modules) if each.startswith(f"{package}."))]:
        try:
            found = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", name))
        except Exception:  # a compiled module has no source
            continue
        if found:
            return "\n".join(found)
    return ""


def _toctree(names: Any, caption: str = "", *, hidden: bool = True) -> str:
    options = [":glob:", *([":hidden:"] if hidden else [])]
    options += [f":caption: {caption}"] if caption else []
    return "\n".join(["```{toctree}", *options, "", *names, "```", ""])


if __name__ == "__main__":
    run(main, Options)
