"""Imports point one way: scripts -> experiments -> interpret -> faceflax, and inside faceflax downwards."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A package may import those in rows below its own, and its own row where it is not marked alone.
FACEFLAX = (
    ("__main__",),
    ("cli",),
    ("app",),
    ("training",),
    ("evaluation",),
    ("data",),
    ("live", "batch"),
    ("media",),
    ("faces",),
    ("exporting",),
    ("inference",),
    ("pretrained",),
    ("models",),
    ("native",),
    ("preprocessing", "html", "pipeline"),
    ("opencv", "runners"),
    ("cache",),
    ("files",),
    ("labels", "errors", "lazy"),
)
HOUSE = (("scripts",), ("experiments",), ("interpret",), ("faceflax",))


def row_of(rows, name):
    return next((i for i, row in enumerate(rows) if name in row), None)


def imports(file):
    """Yields module and, where it is given, name of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            yield from ((node.module, alias.name, node.lineno) for alias in node.names)


def modules(*folders):
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def dotted(file):
    return file.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__").replace("/", ".")


def test_every_package_of_faceflax_has_a_row_and_says_in_a_line_what_it_is():
    for child in (ROOT / "faceflax").iterdir():
        name = child.name.removesuffix(".py")
        if name.startswith("_") or not (child.suffix == ".py" or (child / "__init__.py").exists()):
            continue
        assert row_of(FACEFLAX, name) is not None, f"faceflax.{name} has no row"
        text = (child / "__init__.py" if child.is_dir() else child).read_text()
        assert ast.get_docstring(ast.parse(text)), name


@pytest.mark.parametrize("file", modules("faceflax", "interpret", "experiments", "scripts"), ids=dotted)
def test_no_import_points_upwards(file):
    here = dotted(file).split(".")
    for module, name, line in imports(file):
        parts = [*module.split("."), *([name] if name else [])]
        top = row_of(HOUSE, parts[0])
        if top is None:
            continue
        where = f"{file.relative_to(ROOT)}:{line} imports {'.'.join(parts)}"
        assert top >= row_of(HOUSE, here[0]), f"{where}, which points upwards"
        if here[0] == parts[0] == "faceflax" and len(here) > 1 and len(parts) > 1:
            target = row_of(FACEFLAX, parts[1])
            if target is None:  # a public name of the package itself
                assert here[1] == "cli", f"{where}: import it from its own module"
            elif parts[1] != here[1]:
                assert target > row_of(FACEFLAX, here[1]), f"{where}, which points upwards or sideways"


@pytest.mark.parametrize("file", modules("faceflax", "interpret", "experiments", "scripts"), ids=dotted)
def test_no_private_name_is_imported_across_folders(file):
    here = dotted(file).split(".")
    package = here if file.name == "__init__.py" else here[:-1]
    for module, name, line in imports(file):
        parts = [*module.split("."), *([name] if name else [])]
        if row_of(HOUSE, parts[0]) is None:
            continue
        for depth, part in enumerate(parts):
            if part.startswith("_") and not part.startswith("__"):
                assert parts[:depth] == package[:depth], f"{file.relative_to(ROOT)}:{line} imports {'.'.join(parts)}"


def test_modules_of_faceflax_form_no_cycle():
    files = {dotted(file): file for file in modules("faceflax", "interpret", "experiments")}
    edges = {}
    for name, file in files.items():
        reached = set()
        for module, imported, _ in imports(file):
            inner = f"{module}.{imported}"
            reached.add(inner if inner in files else module)
        edges[name] = {target for target in reached if target in files and target != name}
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for target in sorted(edges[name]):
                if not name.startswith(f"{target}."):  # a package whose module is being imported
                    visit(target)
            path.pop()
            done.add(name)

    for name in sorted(files):
        visit(name)
