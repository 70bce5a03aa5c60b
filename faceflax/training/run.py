"""What the training loop asks of a kind of training, and what all kinds share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from jaxtyping import Array

from faceflax.errors import FaceflaxError
from faceflax.pretrained import Variables
from faceflax.training.config import TrainConfig
from faceflax.training.logs import Epoch
from faceflax.training.step import TrainState


@dataclass(frozen=True)
class Begun:
    """What an epoch under way has come to.

    Attributes:
        steps: how many of its steps were made.
        sums: of their metrics.
    """

    steps: int = 0
    sums: Mapping[str, Array | float] = field(default_factory=dict)

    def add(self, metrics: Mapping[str, Array]) -> Begun:
        """One step more."""
        if not self.sums:
            return Begun(1, metrics)
        return Begun(self.steps + 1, {name: self.sums[name] + value for name, value in metrics.items()})

    def means(self) -> dict[str, float]:
        """The means over the steps; waits for the device."""
        return {name: float(value) / self.steps for name, value in self.sums.items()}


Tick = Callable[[TrainState, Begun], None]
"""Called after each step, before the state is donated to the next; it may raise to stop."""


def no_tick(state: TrainState, begun: Begun) -> None:
    """Does nothing."""


class Run(Protocol):
    """A network, its data and one way of training it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        ...

    @property
    def steps(self) -> int:
        """The steps of an epoch."""
        ...

    @property
    def fingerprint(self) -> dict[str, str]:
        """Digests of what the run is made from, by the setting that names it."""
        ...

    def initial_state(self, given: Variables | None) -> TrainState:
        """The state before the first step: fresh variables, or those of ``given`` where the shapes agree."""
        ...

    def epoch(self, state: TrainState, number: int, begun: Begun = ..., tick: Tick = ...) -> tuple[TrainState, Epoch]:
        """Trains the epoch of this number, from 1, from where it was left, then validates."""
        ...

    def variables(self, state: TrainState) -> dict[str, Any]:
        """What is validated."""
        ...

    def finished(self, variables: dict[str, Any], accuracy: float) -> tuple[dict[str, Any], float]:
        """What is saved of the best epoch's variables, and its validation accuracy, once training is over."""
        ...


def check_finite(loss: float, epoch: int, config: TrainConfig) -> None:
    """Stops a run before what is not finite is saved.

    Raises:
        FaceflaxError: the loss of ``epoch`` is not finite.
    """
    if math.isfinite(loss):
        return
    steps = sorted(int(place.name) for place in config.folder.glob("checkpoints/[0-9]*") if place.name.isdecimal())
    others = [name for name in ("init_weights", "teachers") if getattr(config, name)]
    without = f" or without {' and '.join(others)}, which may give no numbers" if others else ""
    remedy = f"start again with a lower one{without} (there is no checkpoint yet)"
    if steps:
        remedy = f"resume with a lower one, from the checkpoint of step {steps[-1]}"
    if steps and epoch > 1:
        remedy += f", or with epochs={epoch - 1} to write the best epoch's weights"
    problem = f"with {{}} the loss became {loss} in epoch {epoch}"
    raise FaceflaxError("learning_rate", config.learning_rate, problem, remedy)
