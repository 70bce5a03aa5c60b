"""Networks by name. Their modules, and with them Flax, are imported when one is built."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

from faceflax.errors import FaceflaxError, unknown
from faceflax.models.architectures import DETECTORS

if TYPE_CHECKING:
    import flax.linen as nn

_NETWORKS: dict[str, str | type[nn.Module]] = {
    "mini_xception": "faceflax.models.mini_xception:MiniXception",
    "sequential_cnn": "faceflax.models.sequential_cnn:SequentialCNN",
    "vgg": "faceflax.models.vgg:VGG",
    "face_detector": "faceflax.models.face_detector:FaceDetector",
    "mini_xception_antialiased": "faceflax.models.mini_xception:MiniXceptionAntialiased",
}


def list_models() -> list[str]:
    """Returns the names that :func:`create` takes: the package's own, then those that :func:`register` has added.

    Example:
        >>> list_models()[:4]
        ['mini_xception', 'sequential_cnn', 'vgg', 'face_detector']
    """
    return list(_NETWORKS)


def list_classifiers() -> list[str]:
    """Returns the names of the networks that label faces: all but those that find them.

    Example:
        >>> "vgg" in list_classifiers(), "face_detector" in list_classifiers()
        (True, False)
    """
    return [name for name in _NETWORKS if name not in DETECTORS]


def create(name: str, num_classes: int, **fields: Any) -> nn.Module:
    """Builds a network by name; its parameters come from :func:`faceflax.models.init` or ``faceflax.load``.

    Args:
        name: one of :func:`list_models`.
        num_classes: how many logits, at least 1.
        **fields: other fields of the network, such as ``activation``.

    Raises:
        FaceflaxError: unknown name, or fewer than one class.

    Example:
        >>> create("mini_xception", 7).num_classes
        7
    """
    if name not in _NETWORKS:
        raise unknown("name", name, list_models())
    if num_classes < 1:
        raise FaceflaxError("num_classes", num_classes, "is not a number of classes", "give 1 or more")
    network = _NETWORKS[name]
    return (pkgutil.resolve_name(network) if isinstance(network, str) else network)(num_classes=num_classes, **fields)


def register(name: str, network: str | type[nn.Module]) -> None:
    """Gives a network a name, by which it can be built, trained, saved and loaded in this process.

    Args:
        name: a new name.
        network: a class of the contract of :mod:`faceflax.models` whose fields other than ``num_classes`` have
            defaults, or where it is, as ``"package.module:Class"``, to be imported when the network is first built.

    Raises:
        FaceflaxError: the name belongs to another network.

    Example:
        >>> from faceflax.models.mini_xception import MiniXception
        >>> class Deeper(MiniXception): ...
        >>> register("deeper", Deeper)
        >>> type(create("deeper", 7)).__name__
        'Deeper'
    """
    if name in _NETWORKS and _place(_NETWORKS[name]) != _place(network):
        raise FaceflaxError("name", name, f"{{}} is the name of {_place(_NETWORKS[name])}", "choose another one")
    _NETWORKS[name] = network


def _place(network: str | type[nn.Module]) -> str:
    return network if isinstance(network, str) else f"{network.__module__}:{network.__qualname__}"
