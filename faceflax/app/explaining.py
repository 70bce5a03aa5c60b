"""What the page asks of an attribution toolkit; the caller gives one, as faceflax imports none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # only annotations need it
    import numpy as np
    from jaxtyping import UInt8


@dataclass(frozen=True)
class Explained:
    """Maps of one face.

    Attributes:
        title: what is explained, in words.
        pictures: the face and its maps, RGB ``[side, side, 3]``, each with its name.
        notes: for each method, how it misleads.
        columns: the head of a table with a row for each map; empty without metrics.
        rows: its cells.
    """

    title: str
    pictures: Sequence[tuple[UInt8[np.ndarray, "side side 3"], str]]
    notes: Sequence[tuple[str, str]]
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


class Workbench(Protocol):
    """Attribution methods for weights by their names. Any number of threads may use it."""

    @property
    def methods(self) -> Sequence[str]:
        """The names of the methods that networks for faces have."""

    @property
    def weights(self) -> Sequence[str]:
        """The names of the weights that can be explained."""

    def layers(self, weights: str) -> Sequence[str]:
        """Returns the names of a network's layers."""

    def targets(self, weights: str) -> Sequence[str]:
        """Returns what can be explained: ``predicted``, ``highest activation``, and each class."""

    def cut(self, weights: str) -> tuple[float, int]:
        """Returns the margin and the size of the network's crops."""

    def quick(self, crops: UInt8[np.ndarray, "n size size"], *, weights: str) -> UInt8[np.ndarray, "n size size 3"]:
        """Returns, fast, a map of what the network perceives in each face, RGB; crops are cut as :meth:`cut` says."""

    def explain(
        self,
        crop: UInt8[np.ndarray, "size size"],
        *,
        weights: str,
        methods: Sequence[str],
        layer: str,
        target: str,
        metrics: bool = False,
    ) -> Explained:
        """Explains one face.

        Args:
            crop: cut as :meth:`cut` says.
            weights: of :attr:`weights`.
            methods: of :attr:`methods`, shown side by side; after them come the floors that see no network.
            layer: of :meth:`layers`.
            target: of :meth:`targets`.
            metrics: also compute the metrics.

        Raises:
            FaceflaxError: an unknown name, or a method that this network cannot have.
        """
