"""Guided backprop of both networks side by side (figure 8.7), and whether mini-Xception's maps are easier to read.

Command: ``python -m experiments.paper --only interpretability`` (about 3 minutes).

"Interpretable" is taken apart into what can be measured on the maps of the highest neuron of the last convolution:
how sparse they are (Gini index), whether they point at eyes and mouth, and how much they change when the network's
layers become random. The eyes and the mouth are two boxes at fixed places, since the faces are cut alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from experiments.paper import intervals
from experiments.paper.record import Picture, Result, Table, above
from experiments.paper.study import Faces, Network, Study
from faceflax.preprocessing import normalize, resize
from interpret import guided_backprop, metrics, sanity
from interpret.figures import Panel, attribution_grid

TITLE = "4. Guided backprop: are mini-Xception's features easier to interpret?"
CLAIM = "guided backprop shows that mini-Xception learned more interpretable features than the sequential network."
NEEDS = (("mini_xception", "emotion"), ("sequential_cnn", "emotion"))
REGIONS = (((0.25, 0.52), (0.12, 0.88)), ((0.65, 0.92), (0.25, 0.75)))
"""Rows and columns of the box around the eyes and of that around the mouth, as shares of the side."""
MEASURES = {
    "sparseness (Gini index)": "mini_xception's maps are sparser",
    "pointing game": "mini_xception's maps point more often at eyes or mouth",
    "energy inside": "more of mini_xception's maps lies on eyes and mouth",
    "randomisation distance": "mini_xception's maps change more when its layers become random",
}


@dataclass(frozen=True)
class Config:
    """How many faces, of each label, are shown and measured."""

    shown: int = 3
    measured: int = 50
    batch: int = 35


FULL = Config()
QUICK = Config(shown=1, measured=1, batch=7)


def run(study: Study, config: Config) -> Result:
    """Explains faces of every label with both networks."""
    archs = ("mini_xception", "sequential_cnn")
    networks = [study.network(arch, "emotion") for arch in archs]
    faces = study.faces("emotion", "test", networks[0].weights.image_size)
    chosen = [np.flatnonzero(faces.labels == label)[: config.measured] for label in range(len(faces.names))]
    rows = np.concatenate([indices[: config.shown] for indices in chosen])
    counts = [min(config.shown, len(indices)) for indices in chosen]
    starts = np.concatenate([[0], np.cumsum(counts)])
    grid = {name: np.arange(starts[i], starts[i + 1]) for i, name in enumerate(faces.names) if counts[i]}
    panels = []
    for network in networks:
        images = _input(faces, rows, network)
        maps = np.asarray(guided_backprop(network.model, network.variables, images))[..., 0]
        panels.append(Panel(network.weights.arch.replace("_", " "), maps))
    figure = attribution_grid(
        grid,
        faces.images[rows, :, :, 0],
        panels,
        title="Guided backprop of the highest neuron of the last convolution",
        caption=f"{faces.source}, the first {config.shown} of each label",
    )
    everything = np.concatenate(chosen)
    measured = [_measure(network, faces, everything, config.batch) for network in networks]
    tables, verdicts = [], []
    for name, statement in MEASURES.items():
        one, other = (found[name] for found in measured)
        difference = intervals.mean(f"{name}, mini_xception less sequential_cnn", one - other, "", "faces")
        verdicts.append(above(statement, difference, 0))
        means = [str(intervals.mean("", values, "", "faces")) for values in (one, other)]
        tables.append((name, *means, str(difference)))
    inside = _regions(networks[0].weights.image_size).mean()
    return Result(
        verdicts=tuple(verdicts),
        tables=(
            Table(
                f"Maps of {len(everything)} faces of {faces.source} (the boxes are {inside:.0%} of the image)",
                ("measure", *archs, "difference"),
                tuple(tables),
            ),
        ),
        pictures=(Picture.of(figure, "Faces of every label with guided-backprop maps of both networks"),),
        remarks=(
            "Sparse is not true, and a map that points at the eyes need not be why the network decided: see "
            "interpret/README.md. Randomisation distance is 1 less the mean rank correlation with the trained "
            "network's maps while layers become random from the output on: a map that stays explains nothing.",
        ),
    )


def _input(faces: Faces, rows: np.ndarray, network: Network) -> jax.Array:
    size = network.weights.image_size
    return jnp.asarray(normalize(np.stack([resize(image[:, :, 0], size) for image in faces.images[rows]])[..., None]))


def _regions(size: int) -> Bool[np.ndarray, "size size"]:
    """The pixels in either box."""
    centre = (np.arange(size) + 0.5) / size
    mask = np.zeros((size, size), bool)
    for (top, bottom), (left, right) in REGIONS:
        mask |= ((centre > top) & (centre < bottom))[:, None] & ((centre > left) & (centre < right))[None]
    return mask


def _measure(network: Network, faces: Faces, rows: np.ndarray, batch: int) -> dict[str, np.ndarray]:
    """Every measure of every face's map."""
    model, variables = network.model, network.variables
    random = sanity.shuffled(variables, key=jax.random.key(0))
    mask = _regions(network.weights.image_size)
    found: dict[str, list[np.ndarray]] = {name: [] for name in MEASURES}
    for start in range(0, len(rows), batch):
        images = _input(faces, rows[start : start + batch], network)
        maps = guided_backprop(model, variables, images)
        matters = metrics.importance(maps, signed=False)
        masks = jnp.broadcast_to(jnp.asarray(mask), matters.shape)
        after = sanity.cascading_randomization(guided_backprop, model, variables, random, images, None)
        values = (
            metrics.gini(maps),
            metrics.pointing_game(matters, masks),
            metrics.energy_inside(matters, masks),
            1 - np.mean([similarity.rank_correlation for similarity in after.values()], 0),
        )
        for name, value in zip(MEASURES, values, strict=True):
            found[name].append(np.asarray(value))
    return {name: np.concatenate(values) for name, values in found.items()}
