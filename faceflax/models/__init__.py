"""The networks, by name.

Contract of those that label faces: ``logits, features = model.apply(variables, images, train=False)`` with float32
images ``[batch, height, width, channels]`` in [-1, 1]; ``features`` maps layer names to activations; the field
``activation`` is every nonlinearity of the network. Images may have any size from :data:`MIN_IMAGE_SIZE` up, unless the
network has an ``image_size``, which is then the only one. Those that find faces (:data:`DETECTORS`) return a row of
outputs for each place of an image instead of logits.

Importing this package imports neither JAX nor Flax; the first call that needs them does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from faceflax.models.architectures import DETECTORS, MIN_IMAGE_SIZE
from faceflax.models.registry import create, list_classifiers, list_models, register

if TYPE_CHECKING:
    from faceflax.models.variables import init, layer_names, usual_channels, usual_image_size

__all__ = [
    "DETECTORS",
    "MIN_IMAGE_SIZE",
    "create",
    "init",
    "layer_names",
    "list_classifiers",
    "list_models",
    "register",
    "usual_channels",
    "usual_image_size",
]


def __getattr__(name: str) -> Any:
    if name in ("init", "layer_names", "usual_channels", "usual_image_size"):
        return getattr(import_module("faceflax.models.variables"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
