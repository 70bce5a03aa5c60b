"""The epoch loop that every training in the project goes through: steps over planned batches, and what it leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8
from tqdm import tqdm

from faceflax.data.augment import Augmentation
from faceflax.errors import FaceflaxError
from faceflax.training import symmetry
from faceflax.training.config import Precision
from faceflax.training.devices import Devices
from faceflax.training.run import Begun, Tick, no_tick
from faceflax.training.step import TrainState, adam, create_state, make_statistics, make_train_step
from faceflax.training.targets import cross_entropy

STEPS_TOGETHER = 32
"""Steps whose batches are on the device together: a compiled step takes trainings of any length, and nothing waits for
the device but once in so many steps."""

Show = Callable[[int, float, float], None]
"""Called after some steps with their count so far, and the mean loss and the mean share right of all of them."""


def unmixed(key: Array, images: Array, targets: Array) -> tuple[Array, Array]:
    """Mixes nothing."""
    return images, targets


class Trainer:
    """One way of training one network, compiled once for all its trainings.

    Adam with decoupled weight decay on cross-entropy, unless another loss is given. The plan, which images are in which
    batch at which learning rate, is the caller's; randomness depends on ``key`` and the number of the step alone.

    Args:
        model: the network.
        key: source of augmentation's, mixing's and dropout's randomness.
        augment: ``(key, images) -> images``.
        mix: ``(key, images, targets) -> (images, targets)``.
        loss: ``(logits, targets) -> scalar``.
        weight_decay: of the kernels.
        average: decay of the moving average of the parameters, in [0, 1); 0 is off.
        consistency: weight of the disagreement between two views of each image; 0 is one view.
        symmetric: the weights are kept such that mirrored images get the same answers (:mod:`~.symmetry`).
        precision: of the forward and backward pass.
        devices: what each batch is divided among; the first device if not given.

    Example:
        >>> from faceflax import models
        >>> from faceflax.data import render_faces
        >>> from faceflax.training.targets import make_targets
        >>> faces, model = render_faces(28, seed=0, image_size=32), models.create("mini_xception", 2)
        >>> batches = np.random.default_rng(0).permutation(28).reshape(2, 14)
        >>> variables = Trainer(model, key=jax.random.key(1)).fit(
        ...     models.init(model, jax.random.key(0), 32), faces.images, make_targets(faces.genders, 2), batches,
        ...     cosine(2, 1e-3))
        >>> sorted(variables)
        ['batch_stats', 'params']
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        key: Array,
        augment: Callable[[Array, Array], Array] = Augmentation(),  # noqa: B008  # frozen
        mix: Callable[[Array, Array, Array], tuple[Array, Array]] = unmixed,
        loss: Callable[[Array, Array], Array] = cross_entropy,
        weight_decay: float = 1e-2,
        average: float = 0.0,
        consistency: float = 0.0,
        symmetric: bool = False,
        precision: Precision = "float32",
        devices: Devices | None = None,
    ) -> None:
        self.devices = devices or Devices()
        several = self.devices.count > 1
        self._average = average
        self._tie: Callable[[Any], Any] = symmetry.symmetric if symmetric else lambda tree: tree
        self._optimizer = adam(weight_decay)
        self._step: Any = make_train_step(
            model,
            self._optimizer,
            augment=augment,
            mix=mix,
            loss=loss,
            key=key,
            average=average,
            consistency=consistency,
            tie=self._tie,
            precision=precision,
            whole=self.devices.replicated if several else None,
            divided=self.devices.divided if several else None,
        )
        self._statistics = make_statistics(model)

    def start(self, variables: dict[str, Any]) -> TrainState:
        """The state before the first step; ``variables`` stay the caller's."""
        # Copies: a step donates its state, and a network that was given is still needed.
        tied = {name: self._tie(tree) for name, tree in ({"batch_stats": {}} | variables).items()}
        state = create_state(jax.tree.map(jnp.array, tied), self._optimizer)
        return state if self.devices.count == 1 else self.devices.everywhere(state)

    def steps(
        self,
        state: TrainState,
        images: UInt8[Array, "n size size channels"],
        targets: Float[Array, "n classes"],
        batches: Int[np.ndarray, "steps batch"],
        learning_rates: Float[np.ndarray, " steps"],
        show: Show = lambda steps, loss, correct: None,
        *,
        begun: Begun = Begun(),  # noqa: B008  # frozen
        tick: Tick = no_tick,
    ) -> tuple[TrainState, float, float]:
        """Makes one step for each row of ``batches``, from the step on that ``state`` has reached.

        Args:
            state: donated; use the returned one.
            images: all that the batches index, on the device.
            targets: their distributions.
            batches: the images of each step.
            learning_rates: of each step.
            show: called once in :data:`STEPS_TOGETHER` steps and after the last; it may raise to stop.
            begun: what the steps before these, which count with them, have come to.
            tick: called after each step.

        Returns:
            The state, the mean loss of the steps and the mean share of their images that were right.
        """
        start = int(state.step)

        def inputs() -> Iterator[tuple[Array, Array, Array]]:
            for i in range(len(batches)):
                if _first_of_some(start, i):
                    rows = self.devices.batches(_some(np.asarray(batches, np.int32), start, i))
                yield images, targets, rows

        return self.steps_over(state, inputs(), learning_rates, show, begun=begun, tick=tick)

    def steps_over(
        self,
        state: TrainState,
        inputs: Iterable[tuple[Array, Array, Array | None]],
        learning_rates: Float[np.ndarray, " steps"],
        show: Show = lambda steps, loss, correct: None,
        *,
        begun: Begun = Begun(),  # noqa: B008  # frozen
        tick: Tick = no_tick,
    ) -> tuple[TrainState, float, float]:
        """Makes one step for each of ``inputs``, which are what a step takes after its state, on the devices.

        The other arguments and what is returned are those of :meth:`steps`.
        """
        start, count = int(state.step), len(learning_rates)
        rates = np.asarray(learning_rates, np.float32)
        loss = correct = math.nan
        if begun.steps:
            loss, correct = (begun.means()[name] for name in ("loss", "correct"))
        for i, given in zip(range(count), inputs, strict=False):
            if _first_of_some(start, i):
                rates_now = self.devices.everywhere(_some(rates, start, i))
            with self.devices.forms():
                state, metrics = self._step(state, *given, rates_now)
            begun = begun.add(metrics)
            tick(state, begun)
            if i + 1 == count or _first_of_some(start, i + 1):
                means = begun.means()
                loss, correct = means["loss"], means["correct"]
                show(begun.steps, loss, correct)
        return state, loss, correct

    def lowered(self, state: TrainState, images: Array, targets: Array, batch_size: int) -> Any:
        """The step before it is compiled, as JAX has it: what its program is, and what it costs."""
        chunk = (
            self.devices.batches(np.zeros((STEPS_TOGETHER, batch_size), np.int32)),
            self.devices.everywhere(np.zeros(STEPS_TOGETHER, np.float32)),
        )
        with self.devices.forms():
            return self._step.lower(state, images, targets, *chunk)

    def variables(self, state: TrainState, images: UInt8[Array, "n size size channels"]) -> dict[str, Any]:
        """The averaged parameters, with BatchNorm's statistics measured anew from ``images``."""
        variables = {"params": state.average, "batch_stats": state.batch_stats}
        with self.devices.forms():
            if not state.batch_stats:
                return variables
            return variables | {"batch_stats": self._tie(self._statistics(variables, images))}

    def fit(
        self,
        variables: dict[str, Any],
        images: UInt8[np.ndarray, "n size size channels"],
        targets: Float[np.ndarray, "n classes"],
        batches: Int[np.ndarray, "steps batch"],
        learning_rates: Float[np.ndarray, " steps"],
        *,
        statistics: Int[np.ndarray, " rows"] | None = None,
        label: str = "training",
    ) -> dict[str, Any]:
        """Trains from the first to the last step; nothing is chosen on the way.

        Args:
            variables: what to start from.
            images: all that the batches index.
            targets: their distributions.
            batches: the images of each step.
            learning_rates: of each step.
            statistics: the images from which BatchNorm's statistics are measured at the end; all by default.
            label: what the progress bar says.

        Returns:
            The network's variables.

        Raises:
            FaceflaxError: the loss is not finite.
        """
        device_images, device_targets = self.devices.everywhere((np.asarray(images), np.asarray(targets)))
        with tqdm(total=batches.size, desc=label, unit=" images", leave=False) as bar:

            def show(steps: int, loss: float, correct: float) -> None:
                if not math.isfinite(loss):
                    rate = float(np.max(learning_rates))
                    problem = f"is too high for {label}: the loss became {loss}"
                    raise FaceflaxError("learning_rates", rate, problem, "give lower ones")
                bar.update(steps * batches.shape[1] - bar.n)
                bar.set_postfix(loss=f"{loss:.3f}")

            state = self.start(variables)
            state, _, _ = self.steps(state, device_images, device_targets, batches, learning_rates, show)
        sample = device_images if statistics is None else device_images[jnp.asarray(statistics)]
        return self.variables(state, sample)


def _first_of_some(start: int, i: int) -> bool:
    """Whether the step ``i`` after ``start`` needs other rows than the one before: see :func:`_some`."""
    return i == 0 or (start + i) % STEPS_TOGETHER == 0


def _some(values: Shaped[np.ndarray, "steps *row"], start: int, i: int) -> Shaped[np.ndarray, "together *row"]:
    """The rows of :data:`STEPS_TOGETHER` steps, from that of step ``start + i`` on, each where its number points to."""
    place = (start + i) % STEPS_TOGETHER
    part = values[i : i + STEPS_TOGETHER - place]
    after = STEPS_TOGETHER - place - len(part)
    return np.pad(part, ((place, after), *((0, 0) for _ in values.shape[1:])))


def cosine(
    steps: int, peak: float, *, warmup: float = 0.0, first: int = 0, count: int | None = None
) -> Float[np.ndarray, " count"]:
    """Learning rates: a linear warm-up to ``peak``, then a cosine to zero.

    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.

    Args:
        steps: of the whole training.
        peak: the highest rate.
        warmup: steps of the warm-up.
        first: the step that the first returned rate is of.
        count: how many rates to return; up to the last step by default.

    Example:
        >>> print(cosine(4, 1.0), cosine(4, 1.0, warmup=2).round(2))
        [1.         0.85355339 0.5        0.14644661] [0.33 0.67 1.   0.5 ]
    """
    step = first + np.arange(steps - first if count is None else count)
    progress = (step - warmup) / max(steps - warmup, 1)
    return peak * np.where(step < warmup, (step + 1) / (warmup + 1), 0.5 * (1 + np.cos(np.pi * progress.clip(0, 1))))


def take_matching(fresh: Any, given: Any, afresh: Collection[str] = ()) -> Any:
    """``given``'s arrays where both trees have them in the same shape, ``fresh``'s elsewhere.

    Args:
        fresh: variables of the network.
        given: another network's.
        afresh: layers that keep ``fresh``'s in any case, by name.

    Example:
        >>> fresh, given = {"a": np.zeros(2), "b": np.zeros(2)}, {"a": np.ones(2), "b": np.ones(3)}
        >>> take_matching(fresh, given)
        {'a': array([1., 1.]), 'b': array([0., 0.])}
    """
    if not isinstance(fresh, dict):
        return given if getattr(given, "shape", None) == fresh.shape else fresh
    return {
        name: value if name in afresh else take_matching(value, given.get(name, {}), afresh)
        for name, value in fresh.items()
    }
