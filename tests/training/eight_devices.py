"""Trains on one and on eight simulated devices in one process and prints what came of it as JSON."""

import json
import os
import re
import sys
from typing import Any

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import numpy as np

from faceflax import models
from faceflax.data.augment import Augmentation
from faceflax.data.synthetic import render_faces
from faceflax.training import Trainer, cosine, make_targets
from faceflax.training.devices import Devices

STEPS, BATCH = 50, 64
BYTES = {"f32": 4, "s32": 4, "u32": 4, "f16": 2, "bf16": 2, "u8": 1, "s8": 1, "pred": 1, "f64": 8, "s64": 8, "u64": 8}


def exchanged(variables: dict[str, Any]) -> int:
    """Bytes that a step adds up over the devices: gradients and BatchNorm's moments."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    channels = sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"])) // 2
    return 4 * (parameters + 2 * channels)


def collectives(program: str) -> dict[str, int]:
    """Bytes of what each kind of collective of a compiled program gives, by the kind."""
    found: dict[str, int] = {}
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    for shapes, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", program):
        for name, dimensions in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
            if name in BYTES:
                size = int(np.prod([int(n) for n in dimensions.split(",") if n] or [1]))
                found[kind] = found.get(kind, 0) + BYTES[name] * size
    return found


def main() -> None:
    """Prints the losses of each step, and of the divided program its custom calls and collectives."""
    faces = render_faces(192, seed=3, image_size=32)
    model = models.create("mini_xception", 7)
    start = models.init(model, jax.random.key(1), 32)
    batches = np.random.default_rng(0).integers(192, size=(STEPS, BATCH))
    targets = make_targets(faces.emotions, 7, smoothing=0.1)
    told = {}
    for count in (1, 8):
        trainer = Trainer(
            model,
            key=jax.random.key(7),
            average=0.9,
            augment=Augmentation(erase=0.2),
            devices=Devices(jax.devices()[:count]),
        )
        images, wanted = trainer.devices.everywhere((faces.images, targets))
        state = trainer.start(start)
        before = np.array(jax.tree.leaves(state.params)[0])
        losses = []
        rates = cosine(STEPS, 3e-6, warmup=5)
        for i in range(STEPS):
            state, loss, _ = trainer.steps(state, images, wanted, batches[i : i + 1], rates[i : i + 1])
            losses.append(loss)
        variables = jax.device_get(trainer.variables(state, images))
        told[str(count)] = {
            "losses": losses,
            "moved": float(np.abs(np.array(jax.tree.leaves(state.params)[0]) - before).max()),
            "mean": float(np.mean(variables["batch_stats"]["stem1_bn"]["mean"])),
            "places": len(jax.tree.leaves(state.params)[0].sharding.device_set),
        }
    program = trainer.lowered(state, images, wanted, BATCH).compile().as_text()
    told["kernels"] = len(re.findall("faceflax_", program))
    told["collectives"] = collectives(program)
    told["formula"] = exchanged(variables)
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
