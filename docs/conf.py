"""How Sphinx builds the site; ``experiments/tools/site.py`` assembles what it builds."""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from typing import Any

import faceflax

project = "faceflax"
author = "The faceflax developers"
copyright = author
version = release = faceflax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
html_theme = "sphinx_book_theme"
html_title = "faceflax"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "use_download_button": True,
    "show_navbar_depth": 1,
    "collapse_navbar": True,  # each page's own branch alone: a quarter of the build went into drawing all on each
    "home_page_in_toc": False,
    "logo": {"text": "faceflax"},
    "footer_content_items": [],
}
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
nb_execution_raise_on_error = True
nb_execution_timeout = 1800  # of a cell: a busy machine trains slowly
nb_merge_streams = True
templates_path: list[str] = []
exclude_patterns: list[str] = []
suppress_warnings = ["ref.python"]  # annotations name types without their package, and two packages have a Detector
mathjax_path = "mathjax-is-not-used.js"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True


@functools.cache
def module_of(name: str) -> Any:
    """Returns a module by its name, or None; looked for once, as looking for what does not exist takes long."""
    try:
        return importlib.import_module(name)
    except (ImportError, ValueError):
        return None


@functools.cache
def find(target: str) -> Any:
    """Returns what a dotted name names, or None; a field of a class without a default is its class's annotation."""
    first, *parts = target.split(".")
    value: Any = module_of(first)
    for part in parts:
        with warnings.catch_warnings(action="ignore"):  # NumPy's, of names that it will have one day
            inner = getattr(value, part, None)
        if inner is None:
            inner = getattr(value, "__annotations__", {}).get(part)
        if inner is None and hasattr(value, "__path__"):
            inner = module_of(f"{value.__name__}.{part}")
        if inner is None:
            return None
        value = inner
    return value


@functools.cache
def meant(target: str, module: str) -> Any:
    """Returns what a docstring of a module's page means: it may stand in any of the package's own modules."""
    own = [each for each in sorted(sys.modules) if each.partition(".")[0] in ("faceflax", "interpret")]
    prefixes = [module, *(each for each in own if each.startswith(f"{module}.")), *own, "numpy", "typing"]
    names = [target, *(f"{prefix}.{target}" for prefix in prefixes if prefix)]
    return next((value for value in map(find, names) if value is not None), None)


def home(value: Any) -> tuple[Any, Any]:
    """Returns where something is defined."""
    return getattr(value, "__module__", None), getattr(value, "__qualname__", None)


def resolve(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Links a name by what it names: docstrings name things by the module that they are in, the pages by the package.

    What exists and has no page (another library's types, a private module) is shown without a link, and so are the
    names in annotations, which type checkers check. What does not exist is left to Sphinx, which warns.
    """
    target = node["reftarget"].lstrip("~.")
    if node.get("refdomain") != "py":
        return None
    if not target.replace(".", "").isidentifier():  # a piece of a type, such as Literal['float32'
        return contnode
    value = meant(target, node.get("py:module") or "")
    domain = env.get_domain("py")
    last = target.rpartition(".")[2]
    for name in [each for each in domain.objects if each.rpartition(".")[2] == last] if home(value)[1] else []:
        if home(find(name)) == home(value):
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode)
    return contnode if value is not None or node.get("reftype") == "class" else None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", resolve)
