"""What the training loop asks of a kind of training, and what all kinds share."""

from __future__ import annotations

import math
from typing import Any, Protocol

from faceflax.errors import FaceflaxError
from faceflax.pretrained import Variables
from faceflax.training.config import TrainConfig
from faceflax.training.logs import Epoch
from faceflax.training.step import TrainState


class Run(Protocol):
    """A network, its data and one way of training it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        ...

    def initial_state(self, given: Variables | None) -> TrainState:
        """The state before the first step: fresh variables, or those of ``given`` where the shapes agree."""
        ...

    def epoch(self, state: TrainState, number: int) -> tuple[TrainState, Epoch]:
        """Trains the epoch of this number, from 1, then validates."""
        ...

    def variables(self, state: TrainState) -> dict[str, Any]:
        """What is validated and saved."""
        ...


def check_finite(loss: float, epoch: int, config: TrainConfig) -> None:
    """Stops a run before what is not finite is saved.

    Raises:
        FaceflaxError: the loss of ``epoch`` is not finite.
    """
    if math.isfinite(loss):
        return
    last = epoch - 1
    checkpoint = config.folder / "checkpoints" / str(last)
    kept = (
        f"the checkpoint {str(checkpoint)!r} is good: resume with epochs={last} to write the best epoch's weights"
        if last
        else "there is no checkpoint yet"
    )
    raise FaceflaxError(
        "learning_rate",
        config.learning_rate,
        f"with {{}} the loss became {loss} in epoch {epoch}",
        f"start again with a lower one ({kept})",
    )
