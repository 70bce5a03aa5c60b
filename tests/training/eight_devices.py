"""Trains on one and on eight simulated devices in one process and prints what came of it as JSON."""

import json
import os
import re
import sys

if __name__ == "__main__":  # not where pytest looks for docstrings' examples
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import numpy as np

from experiments import scaling
from faceflax import models
from faceflax.training import cosine

STEPS, BATCH = 50, 64


def fed(model, start, images, targets, batches) -> list[float]:
    """The losses where each step is given its images, and each device its part of them."""
    trainer = scaling.trainer_of(model, 8)
    devices, state, losses = trainer.devices, trainer.start(start), []
    part = devices.columns(BATCH)
    for row, rate in zip(batches, cosine(STEPS, 3e-6, warmup=5), strict=True):
        given = devices.divide(images[row][part], BATCH), devices.divide(targets[row][part], BATCH), None
        state, loss, _ = trainer.steps_over(state, [given], np.array([rate]))
        losses.append(loss)
    return losses


def main() -> None:
    """Prints the losses of each step, and of the divided program its custom calls and collectives."""
    images, targets = scaling.random_set(0)
    batches = np.random.default_rng(0).integers(len(images), size=(STEPS, BATCH))
    model = scaling.Small()
    start = models.init(model, jax.random.key(1), scaling.IMAGE_SIZE)
    before = np.array(jax.tree.leaves(start["params"])[0])
    told = {}
    for count in (1, 8):
        curve = scaling.train(model, start, count, images, targets, batches, 3e-6)
        variables = jax.device_get(curve.trainer.variables(curve.state, curve.data[0]))
        told[str(count)] = {
            "losses": curve.losses.tolist(),
            "moved": float(np.abs(np.array(jax.tree.leaves(curve.state.params)[0]) - before).max()),
            "mean": float(np.mean(variables["batch_stats"]["stem_bn"]["mean"])),
            "places": len(jax.tree.leaves(curve.state.params)[0].sharding.device_set),
        }
    program = curve.trainer.lowered(curve.state, *curve.data, BATCH).compile().as_text()
    told["fed"] = fed(model, start, images, targets, batches)
    told["kernels"] = len(re.findall("faceflax_", program))
    told["collectives"] = scaling.collectives(program).bytes
    told["formula"] = scaling.exchanged(start)
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
