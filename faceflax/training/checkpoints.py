"""Orbax checkpoints of a run: the latest epoch, to resume from, and the best one, to ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from faceflax.training.step import TrainState

SCORE = "validation_accuracy"


class Checkpoints:
    """The checkpoints in ``folder``, one per epoch, of which the latest and the best-scoring are kept.

    Args:
        folder: where they are; made if missing.

    Example:
        >>> import tempfile
        >>> with Checkpoints(Path(tempfile.mkdtemp())) as checkpoints:
        ...     checkpoints.latest_epoch() is None
        True
    """

    def __init__(self, folder: Path) -> None:
        policies = [
            checkpoint_managers.LatestN(1),
            checkpoint_managers.BestN(get_metric_fn=lambda metrics: metrics[SCORE], n=1),
        ]
        options = ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics[SCORE],
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            enable_async_checkpointing=False,  # a run stopped right after an epoch has that epoch on disk
        )
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def latest_epoch(self) -> int | None:
        """The number of finished epochs in the latest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def save(self, epoch: int, state: TrainState, history: list[dict[str, float]]) -> None:
        """Saves ``state`` after ``epoch`` epochs with the metrics of each of them."""
        self._manager.save(
            epoch,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), history=ocp.args.JsonSave(history)),
            metrics={SCORE: history[-1][SCORE]},
        )

    def restore(self, epoch: int, like: TrainState) -> tuple[TrainState, list[dict[str, float]]]:
        """Returns the state and history saved after ``epoch`` epochs; ``like`` gives structure, shapes and types."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored: Any = self._manager.restore(
            epoch, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), history=ocp.args.JsonRestore())
        )
        return restored["state"], restored["history"]

    def best_epoch(self) -> int | None:
        """The number of finished epochs in the checkpoint of the highest validation accuracy."""
        return self._manager.best_step()
