"""What a command needs to know of a network of one's own: :class:`Subject`, which ``module:function`` returns."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from faceflax.errors import FaceflaxError, said, unknown

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32, UInt8

    Preprocess = Callable[
        [UInt8[np.ndarray, "n height width channels"]], Float32[np.ndarray, "n height width channels"]
    ]


@dataclass(frozen=True)
class Subject:
    """A network of one's own, and how images become its input; what the function of ``--model`` returns.

    Args:
        network: ``model, variables``, as :func:`interpret.wrap` returns them.
        image_size: height and width of the images that it takes; others are resized to it.
        channels: 3 for RGB, 1 for grey.
        labels: the name of each class, in the order of the logits; ``class 0``, ``class 1``, ... if not given.
        preprocess: from uint8 images ``[n, height, width, channels]`` to what the network takes; scales them to
            [-1, 1] if not given.
        crop_margin: for a network of faces, the margin around a face as a share of its side: faces are found and cut
            out upright; None for one that takes images as they are.

    Raises:
        FaceflaxError: an argument is not as said here.

    Example:
        A file ``mine.py``, for ``python -m interpret.saliency --model mine:network --images FOLDER --layer hidden``:

        >>> import interpret, jax.numpy as jnp
        >>> def bright(images):
        ...     hidden = jnp.maximum(images, 0)
        ...     return jnp.stack([hidden.mean((1, 2, 3)), (1 - hidden).mean((1, 2, 3))], -1), {"hidden": hidden}
        >>> def network():
        ...     return interpret.Subject(interpret.wrap(bright), image_size=(32, 48), labels=("day", "night"))
        >>> network().labels
        ('day', 'night')
    """

    network: tuple[Any, Any]
    image_size: tuple[int, int]
    channels: int = 3
    labels: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    crop_margin: float | None = None

    def __post_init__(self) -> None:
        match self.network:
            case (model, _) if callable(getattr(model, "apply", None)):
                pass
            case _:
                raise FaceflaxError(
                    "network", type(self.network).__name__, "a {} is no model and variables", "give interpret.wrap(...)"
                )
        match self.image_size:
            case (int(height), int(width)) if height > 0 and width > 0:
                pass
            case _:
                raise FaceflaxError("image_size", self.image_size, "is not height and width", "give two numbers")
        if self.channels not in (1, 3):
            raise FaceflaxError("channels", self.channels, "is neither grey nor RGB", "give 1 or 3")
        if self.crop_margin is not None and (self.crop_margin < 0 or height != width):
            raise FaceflaxError(
                "crop_margin", self.crop_margin, "faces are cut out as squares, with a margin of 0 or more"
            )


def load_subject(field: str, name: str) -> Subject:
    """Calls the function that ``module:function`` names.

    Modules are also looked for in the current folder.

    Args:
        field: what the caller calls the name.
        name: a module's dotted name, a colon, and a function in it that takes nothing.

    Raises:
        FaceflaxError: there is no such module or function, either raised an error, or it returned something else.
    """
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name.isidentifier()):
        raise FaceflaxError(field, name, "{} is not of the form module:function", "give one, such as mine:network")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _failed(field, name, "importing its module", error) from error
        raise FaceflaxError(
            field, name, f"there is no module {error.name!r} for {{}}", "give its name without .py, in its folder"
        ) from None
    except Exception as error:
        raise _failed(field, name, "importing its module", error) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown(field, name, [f"{module_name}:{key}" for key in functions])
    try:
        subject = function()
    except Exception as error:
        raise _failed(field, name, "calling it", error) from error
    if not isinstance(subject, Subject):
        kind = type(subject).__name__
        raise FaceflaxError(
            field, name, f"{{}} returned an object of type {kind}", "return interpret.Subject(network, image_size)"
        )
    return subject


def _failed(field: str, name: str, doing: str, error: Exception) -> FaceflaxError:
    return FaceflaxError(field, name, f"{{}}: {doing} raised {said(error, kind=True)}", "correct it")
