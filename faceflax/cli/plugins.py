"""What the other packages of this distribution bring to the commands: commands of their own, and an explainer.

faceflax imports none of them. They are entry points of the installed distribution, in the groups ``faceflax.commands``
(a module with ``Options`` and ``main``) and ``faceflax.explainers`` (a function from a network and its variables to an
:class:`Explainer`). Entry points of other distributions are not read.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from faceflax.errors import FaceflaxError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32, Int

    from faceflax.app import Workbench

GROUPS = ("faceflax.commands", "faceflax.explainers")

MARK = "__faceflax__"
"""A name that the packages of this distribution define, by which they are known from others of the same name."""


class Explainer(Protocol):
    """What the commands ask of an attribution method: a compiled network that explains its own answers."""

    def warm_up(self, image_size: int) -> None:
        """Compiles what calls with images of ``image_size`` pixels a side need."""

    def __call__(
        self,
        faces: Float32[np.ndarray, "batch size size channels"],
        target: int | Int[np.ndarray, " batch"] | None = None,
    ) -> tuple[Float32[np.ndarray, "batch classes"], Float32[np.ndarray, "batch size size channels"]]:
        """Computes logits and signed maps.

        Args:
            faces: scaled as the network takes them.
            target: the class that is explained, one for all faces or one for each; the predicted one if not given.

        Returns:
            Logits ``[batch, classes]``, and maps of the shape of ``faces``: positive where a brighter pixel raises the
            target's logit.
        """


def explainer(model: Any, variables: Any) -> Explainer:
    """Makes the explainer that this distribution brings, guided backpropagation.

    Args:
        model: as from :func:`faceflax.load`.
        variables: likewise.

    Raises:
        FaceflaxError: faceflax is not installed, or another package has taken the place of ``interpret``.
    """
    found = entry_points("faceflax.explainers")
    if not found:
        raise not_installed()
    return load(found["guided_backprop"])(model, variables)


def workbench(weights: str, task: str | None = None) -> Workbench:
    """Makes what the browser app explains faces with.

    Args:
        weights: of the network that comes first.
        task: weights for a third task, which come second.

    Raises:
        FaceflaxError: as :func:`explainer` does, or the weights cannot be explained.
    """
    found = entry_points("faceflax.explainers")
    if "workbench" not in found:
        raise not_installed()
    made: Workbench = load(found["workbench"])(weights, task)
    return made


def entry_points(group: str) -> dict[str, EntryPoint]:
    """Returns the entry points of faceflax's own distribution by name; none where it is not installed."""
    # More than one where a clone holds what an earlier installation left, which may have none.
    for distribution in importlib.metadata.distributions(name="faceflax"):
        found = {point.name: point for point in distribution.entry_points if point.group == group}
        if found:
            return found
    return {}


def not_installed() -> FaceflaxError:
    """What is wrong where this distribution's entry points cannot be found."""
    return FaceflaxError(
        "faceflax",
        None,
        "is not installed, its files are merely here, and so the package interpret cannot be found through it",
        "pip install -e . in the clone",
    )


def check_package(package: str) -> None:
    """Makes sure that a package is this distribution's, if it is one from which the commands take something.

    Raises:
        FaceflaxError: another distribution's package of the same name is in its place.
    """
    brought = {point.module.partition(".")[0] for group in GROUPS for point in entry_points(group).values()}
    problem = shadowed(package) if package in brought else None
    if problem is not None:
        raise problem


def load(point: EntryPoint) -> Any:
    """Imports what an entry point names.

    Raises:
        FaceflaxError: another distribution's package of the same name is in its place.
    """
    check_package(point.module.partition(".")[0])
    return point.load()


def shadowed(package: str) -> FaceflaxError | None:
    """Returns what is wrong where a package of this distribution is not what Python would import by its name.

    The package is looked for, not imported.

    Args:
        package: its name, such as ``interpret``.
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        return FaceflaxError(package, None, "is missing from this installation of faceflax", REINSTALL)
    if spec.origin is not None and MARK in Path(spec.origin).read_text(encoding="utf-8", errors="replace"):
        return None
    remedy = f"pip uninstall interpret interpret-core, then {REINSTALL}"
    if spec.origin is None:
        place = ", ".join(spec.submodule_search_locations or ())
        return FaceflaxError(package, place, "{} has lost its __init__.py, as when InterpretML is uninstalled", remedy)
    problem = "{} is not faceflax's; InterpretML has the same import name and was installed over it"
    return FaceflaxError(package, spec.origin, problem, remedy)


REINSTALL = "pip install --force-reinstall --no-deps faceflax"
