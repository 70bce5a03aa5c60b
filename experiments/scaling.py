"""Data parallel training on simulated devices: are the losses one device's, what is exchanged, what could it reach?

Command: ``python -m experiments.scaling``; ``--learning-rate 4e-3`` shows what rounding becomes at the usual rate.

Every device has the same number of images a step, so the batch grows with their number (weak scaling). The devices are
simulated, XLA's ``--xla_force_host_platform_device_count``: they share this machine's cores, and so show what is
computed and exchanged, not how fast. A network of two layers of each kind stands for the larger ones, which compile ten
times longer. Then a roofline estimate for a network of the library, with figures of accelerators that are options.

The results are in docs/scaling.md.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from faceflax import models
from faceflax.cli import run
from faceflax.data.augment import Augmentation
from faceflax.errors import FaceflaxError
from faceflax.models.blocks import BatchNorm, Conv, Images, SeparableConv, max_pool
from faceflax.training import Trainer, cosine
from faceflax.training.devices import Devices

IMAGE_SIZE = 32
"""Pixels a side."""
CLASSES = 7
BYTES = {"f32": 4, "s32": 4, "u32": 4, "f16": 2, "bf16": 2, "u8": 1, "s8": 1, "pred": 1, "f64": 8, "s64": 8, "u64": 8}
"""Of a number, by the name that XLA has for its type."""


class Small(nn.Module):
    """A convolution, a separable one, BatchNorm and pooling, as the networks are made of them."""

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> tuple[jax.Array, dict[str, Images]]:
        """Maps ``[batch, size, size, channels]`` to logits ``[batch, 7]``."""
        x = BatchNorm(name="stem_bn", use_running_average=not train)(Conv(8, 3, name="stem"), images, nn.relu)
        x = BatchNorm(name="bn", use_running_average=not train)(SeparableConv(16, name="conv"), x, nn.relu)
        return nn.Conv(CLASSES, (3, 3))(max_pool(x)).mean((1, 2)), {}


@dataclass(frozen=True)
class Options:
    """Train on 1 to N simulated devices and on one, and say how the losses differ and what is exchanged."""

    devices: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of devices."""
    images: int = 16
    """Images of a step on each device."""
    steps: int = 50
    """Steps."""
    learning_rate: float = 3e-6
    """Adam's peak learning rate, after five steps of warm-up."""
    arch: str = "mini_xception"
    """The network of the estimate."""
    side: int = 48
    """Pixels a side of its images."""
    seed: int = 0
    """Of the images, the network and the order."""
    accelerators: tuple[int, ...] = (1, 8, 64)
    """Numbers of accelerators to estimate for."""
    at_once: int = 256
    """Images of a step on each accelerator."""
    flops: float = 67e12
    """An accelerator's operations a second (NVIDIA H200 SXM: 67 TFLOPS in float32)."""
    memory: float = 4.8e12
    """An accelerator's memory bandwidth, bytes a second (H200: 4.8 TB/s)."""
    near: float = 450e9
    """Bytes a second from one accelerator to the others of its machine, one way (H200: half of 900 GB/s)."""
    far: float = 50e9
    """Bytes a second from one accelerator to other machines (DGX H200: 400 Gb/s for each)."""
    machine: int = 8
    """Accelerators in a machine."""
    latency: float = 20e-6
    """Seconds that an all-reduce takes however small it is; assumed."""


@dataclass(frozen=True)
class Exchange:
    """What the collectives of a compiled program give.

    Attributes:
        bytes: by the kind of collective.
        count: how many all-reduces there are; each waits for the slowest device.
    """

    bytes: dict[str, int]
    count: int


def exchanged(variables: dict[str, Any]) -> int:
    """Bytes that a step adds up over the devices, by the network's size alone.

    These are the gradients, one number a parameter; of each channel that BatchNorm normalises its mean and variance,
    and in the backward pass the mean's gradient; the loss and the share right.

    Example:
        >>> import numpy as np
        >>> exchanged({"params": {"kernel": np.zeros((3, 4))}, "batch_stats": {"mean": np.zeros(4), "var": np.ones(4)}})
        104
    """
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    channels = sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"])) // 2
    return 4 * (parameters + 3 * channels + 2)


def collectives(program: str) -> Exchange:
    """Counts the collectives in a compiled program's text.

    Example:
        >>> collectives("  %a = (f32[2,3]{1,0}, f32[]) all-reduce(%b, %c), to_apply=%add")
        Exchange(bytes={'all-reduce': 28}, count=1)
    """
    found: dict[str, int] = {}
    count = 0
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    for shapes, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", program):
        count += kind == "all-reduce"
        for name, dimensions in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            if name in BYTES:
                size = BYTES[name]
                for side in filter(None, dimensions.split(",")):
                    size *= int(side)
                found[kind] = found.get(kind, 0) + size
    return Exchange(found, count)


@dataclass(frozen=True)
class Curve:
    """A training on some devices.

    Attributes:
        losses: of each step.
        state: after the last one.
        trainer: what made them.
        data: the images and targets on the devices.
    """

    losses: np.ndarray
    state: Any
    trainer: Any
    data: tuple[jax.Array, jax.Array]


def trainer_of(model: nn.Module, count: int) -> Trainer:
    """What trains ``model`` on the first ``count`` devices."""
    augment = Augmentation(erase=0.2)
    return Trainer(model, key=jax.random.key(7), average=0.9, augment=augment, devices=Devices(jax.devices()[:count]))


def train(
    model: nn.Module,
    variables: dict[str, Any],
    count: int,
    images: np.ndarray,
    targets: np.ndarray,
    batches: np.ndarray,
    learning_rate: float,
) -> Curve:
    """Makes a step for each row of ``batches``, each divided among the first ``count`` devices.

    Args:
        model: the network.
        variables: what to start from.
        count: of devices.
        images: uint8 ``[n, size, size, channels]``.
        targets: their distributions.
        batches: ``[steps, batch]``.
        learning_rate: the peak, after five steps of warm-up.
    """
    trainer = trainer_of(model, count)
    data: tuple[jax.Array, jax.Array] = trainer.devices.everywhere((images, targets))
    state = trainer.start(variables)
    rates = cosine(len(batches), learning_rate, warmup=5)
    losses = []
    for i in range(len(batches)):
        state, loss, _ = trainer.steps(state, *data, batches[i : i + 1], rates[i : i + 1])
        losses.append(loss)
    return Curve(np.array(losses), state, trainer, data)


def random_set(seed: int, count: int = 192) -> tuple[np.ndarray, np.ndarray]:
    """Images of noise and their targets, at random."""
    random = np.random.default_rng(seed)
    images = random.integers(256, size=(count, IMAGE_SIZE, IMAGE_SIZE, 1), dtype=np.uint8)
    return images, np.eye(CLASSES, dtype=np.float32)[random.integers(CLASSES, size=count)]


def estimate(options: Options, flops: float, traffic: float, added: int, collectives: int, count: int) -> float:
    """Returns the seconds that a step needs on ``count`` accelerators at the least.

    Nothing overlaps: operations or memory traffic, whichever takes longer, then the all-reduces, which send each byte
    ``2 (n - 1) / n`` times, over the slowest connection that there is, and wait once each.

    Args:
        options: the accelerators' figures.
        flops: operations an image.
        traffic: bytes to and from memory an image.
        added: bytes that are added up over the accelerators.
        collectives: in how many all-reduces.
        count: of accelerators.
    """
    alone = options.at_once * max(flops / options.flops, traffic / options.memory)
    if count == 1:
        return alone
    bandwidth = options.near if count <= options.machine else options.far
    return alone + 2 * (count - 1) / count * added / bandwidth + collectives * options.latency


def main(options: Options) -> None:
    """Prints the two tables."""
    if min(options.devices, default=0) < 1 or max(options.devices) < 2:
        problem = "are not numbers of which one is above 1"
        raise FaceflaxError("devices", " ".join(map(str, options.devices)), problem, "give such as 1 8")
    for name in ("images", "steps", "at_once", "machine"):
        if getattr(options, name) < 1:
            raise FaceflaxError(name, getattr(options, name), "is too small", "give 1 or more")
    if options.arch not in models.list_models() or options.arch in models.DETECTORS:
        raise FaceflaxError("arch", options.arch, "is not a network that labels faces", "give such as mini_xception")
    flags = os.environ.get("XLA_FLAGS", "")  # read when JAX looks for devices
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={max(options.devices)}"
    jax.config.update("jax_platforms", "cpu")
    data = random_set(options.seed)
    model = Small()
    start = models.init(model, jax.random.key(options.seed), IMAGE_SIZE)
    print(f"{options.images} images a device, {options.steps} steps to a learning rate of {options.learning_rate:g}")
    print("devices  batch  largest difference  all-reduces  their bytes  by the network's size")
    for count in options.devices:
        size = options.images * count
        batches = np.random.default_rng(options.seed).integers(len(data[0]), size=(options.steps, size))
        if count == 1:
            print(f"{count:7}  {size:5}  {'(one device)':>18}")
            continue
        one, divided = (train(model, start, n, *data, batches, options.learning_rate) for n in (1, count))
        away = float(np.abs(divided.losses / one.losses - 1).max())
        program = divided.trainer.lowered(divided.state, *divided.data, size).compile().as_text()
        found = collectives(program)
        added = sum(found.bytes.values())
        print(f"{count:7}  {size:5}  {away:18.1e}  {found.count:11}  {added:11,}  {exchanged(start):21,}", flush=True)
    _estimates(options)


def _estimates(options: Options) -> None:
    """Prints the roofline of a network, from the operations of its step as XLA counts them before it compiles."""
    model = models.create(options.arch, CLASSES)
    variables = models.init(model, jax.random.key(0), options.side)
    trainer = trainer_of(model, 2)  # two, so that the layers are XLA's own, and are counted
    batch = 64
    images = np.zeros((batch, options.side, options.side, 1), np.uint8)
    targets = np.zeros((batch, CLASSES), np.float32)
    data: tuple[jax.Array, jax.Array] = trainer.devices.everywhere((images, targets))
    cost = trainer.lowered(trainer.start(variables), *data, batch).cost_analysis()
    flops, traffic = (float(cost[name]) / batch for name in ("flops", "bytes accessed"))
    added = exchanged(variables)
    layers = sum("mean" in jax.tree_util.keystr(path) for path, _ in _leaves(variables["batch_stats"]))
    count = 3 * layers + 1
    print(f"\n{options.arch} at {options.side} pixels: {flops / 1e6:.1f} million operations an image, unfused")
    print(f"{traffic / 1e6:.1f} MB of memory traffic; {added:,} bytes exchanged in about {count} all-reduces")
    print("accelerators  batch  ms a step  exchange  images/s  of n times one")
    alone = estimate(options, flops, traffic, added, count, 1)
    for number in options.accelerators:
        seconds = estimate(options, flops, traffic, added, count, number)
        size, kept = number * options.at_once, alone / seconds
        print(f"{number:12}  {size:5}  {1e3 * seconds:9.2f}  {1 - kept:8.0%}  {size / seconds:8,.0f}  {kept:14.0%}")


def _leaves(tree: Any) -> list[Any]:
    return jax.tree_util.tree_leaves_with_path(tree)


if __name__ == "__main__":
    run(main, Options)
