"""Do attributions land where the truth is known to be? ``python -m interpret.ground_truth``.

A network learns the expressions of synthetic faces (:mod:`faceflax.data.synthetic`). Two expressions of one face
differ in known pixels alone: those rendered for either, brows, eyes, mouth and the skin's folds. The table says for
each method how often the highest point of its map lies among the pixels rendered for the face's own expression (the
pointing game), and what share of its importance does. A random map scores the mask's share of the image.

The same command trains a network on shuffled labels, and one on the true labels from another seed. A map of what was
learned should be another one for shuffled labels, and more so than from seed to seed (Adebayo et al., "Sanity Checks
for Saliency Maps", NeurIPS 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from faceflax.cli import ReportOptions, run
from faceflax.errors import FaceflaxError, unknown
from faceflax.files import writable_folder
from interpret.benchmark import FORMATS, SENSITIVITIES, Table, choose_methods, command, measure_all, write_table

if TYPE_CHECKING:
    import flax.linen as nn
    import numpy as np
    from jaxtyping import Float, Int

    from faceflax.data.synthetic import SyntheticFaces
    from interpret.attribution import Method

TRAIN_BATCH = 32
LEARNING_RATE = 4e-3
TEST_SEED = 2  # that of the synthetic dataset's test split; 0 is that of train
COLUMNS = {
    "pointing game": "higher",
    "energy inside": "higher",
    "other seed: SSIM": "higher",
    "shuffled labels: SSIM": "lower",
    "other seed: rank correlation": "higher",
    "shuffled labels: rank correlation": "lower",
}


@dataclass(frozen=True)
class Options:
    """Train a network on synthetic faces and see whether attributions find the pixels that carry the expression.

    Higher is better for the pointing game (how often the highest point of the map of the face's class lies in these
    pixels), the energy inside them (the share of the positive importance), and the likeness to the maps of a network
    trained alike from another seed; lower for the likeness to the maps of one trained on shuffled labels.
    """

    output: Path = Path("out/ground_truth")
    """Folder for table.md, table.csv, table.json and the trained networks, which are used again."""
    arch: str = "mini_xception"
    """Network; an unknown name lists all."""
    methods: tuple[str, ...] = ()
    """Attribution methods; if not given, all but those that need attention."""
    samples: int = 140
    """Faces to explain, of the test split."""
    train_faces: int = 2800
    """Faces to train on."""
    epochs: int = 8
    """Passes over them."""
    image_size: int = 48
    """Pixels a side, 32 or more."""
    seed: int = 0
    """Seed of the first network; the others have the two next."""
    said: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


def main(options: Options) -> None:
    """Checks the options, trains what is not there yet, makes the table, writes and prints it."""
    for name, low in {"samples": 2, "train_faces": TRAIN_BATCH, "epochs": 1, "image_size": 32, "seed": 0}.items():
        if getattr(options, name) < low:
            raise FaceflaxError(name, getattr(options, name), "is too small", f"give {low} or more")
    writable_folder("output", options.output)
    outputs = [options.output / f"table{suffix}" for suffix in FORMATS]
    write_table(outputs, lambda: make_table(options), options.said)


def make_table(options: Options) -> Table:
    """Trains, or loads, the three networks and computes the table.

    Raises:
        FaceflaxError: unknown methods or network.
    """
    methods = choose_methods(options.methods)

    import jax.numpy as jnp

    from faceflax import models
    from faceflax.data.synthetic import render_faces
    from faceflax.preprocessing import normalize
    from faceflax.training.memory import keep_freed_memory

    if options.arch not in models.list_classifiers():
        raise unknown("arch", options.arch, models.list_classifiers())
    keep_freed_memory()
    faces = render_faces(options.samples, TEST_SEED, options.image_size)
    model, (learned, again, shuffled), said = _networks(options, faces)
    images = jnp.asarray(normalize(faces.images))

    def measure(name: str, method: Method, batch: Int[np.ndarray, " batch"]) -> dict[str, np.ndarray]:
        return evaluate(
            method,
            model,
            learned,
            images[batch],
            jnp.asarray(faces.emotions[batch]),
            signed=name not in SENSITIVITIES,
            masks=faces.expression_masks[batch],
            again=again,
            shuffled=shuffled,
        )

    rows = measure_all(methods, len(images), measure, COLUMNS)
    caption = (
        f"{options.arch} on {len(images)} synthetic faces that it was not trained on, each for its own class; the "
        f"masks cover {faces.expression_masks.mean():.3f} of the images. {said} "
        f"Made with `{command('interpret.ground_truth', options)}`."
    )
    return Table(COLUMNS, rows, caption)


def evaluate(
    method: Method,
    model: nn.Module,
    variables: Any,
    images: Any,
    target: Any,
    *,
    signed: bool,
    masks: np.ndarray,
    again: Any,
    shuffled: Any,
) -> dict[str, Float[np.ndarray, " batch"]]:
    """Computes the table's columns for one method.

    Args:
        method: an attribution method.
        model: as the methods take it.
        variables: trained on the true labels.
        images: ``[batch, height, width, channels]``, as the model takes them.
        target: the class to explain in each.
        signed: as for :func:`interpret.benchmark.evaluate`.
        masks: the pixels that carry the expression.
        again: variables trained on the true labels from another seed.
        shuffled: variables trained on shuffled labels.
    """
    import numpy as np

    from interpret import metrics, sanity

    maps = method(model, variables, images, target)
    matters = metrics.importance(maps, signed=signed)
    likeness = {
        name: sanity.compare(maps, method(model, other, images, target))
        for name, other in (("other seed", again), ("shuffled labels", shuffled))
    }
    return {
        "pointing game": np.asarray(metrics.pointing_game(matters, masks)),
        "energy inside": np.asarray(metrics.energy_inside(matters, masks)),
        **{f"{name}: SSIM": similarity.ssim for name, similarity in likeness.items()},
        **{f"{name}: rank correlation": similarity.rank_correlation for name, similarity in likeness.items()},
    }


def trainer(
    model: nn.Module, faces: SyntheticFaces, *, epochs: int
) -> Callable[[Int[np.ndarray, " n"], int], dict[str, Any]]:
    """Builds ``fit(labels, seed) -> variables``, a short training on synthetic faces; compiled once for all its calls.

    Adam with a cosine schedule on batches of 32, mirrored and slightly moved; BatchNorm's statistics are measured at
    the end.

    Args:
        model: a Linen module with ``params`` and ``batch_stats`` and the (logits, features) contract.
        faces: the images; the labels are given to each call.
        epochs: passes over them.
    """
    import jax
    import numpy as np

    from faceflax import models
    from faceflax.data.augment import Augmentation
    from faceflax.labels import EMOTIONS
    from faceflax.training import Trainer, make_targets

    count, classes = len(faces.images), len(EMOTIONS)
    training = Trainer(model, key=jax.random.key(0), augment=Augmentation(shift=0.05, rotation=5.0, zoom=0.05))
    steps = epochs * (count // TRAIN_BATCH)
    warmup = np.minimum(1, (1 + np.arange(steps)) / (steps / epochs))
    rates = LEARNING_RATE * warmup * 0.5 * (1 + np.cos(np.pi * np.arange(steps) / steps))

    def fit(labels: Int[np.ndarray, " n"], seed: int) -> dict[str, Any]:
        generator = np.random.default_rng(seed)
        orders = [generator.permutation(count)[: count // TRAIN_BATCH * TRAIN_BATCH] for _ in range(epochs)]
        batches = np.concatenate(orders).reshape(steps, TRAIN_BATCH)
        initial = models.init(model, jax.random.key(seed), *faces.images.shape[2:])
        return training.fit(initial, faces.images, make_targets(labels, classes, smoothing=0.1), batches, rates)

    return fit


def _networks(options: Options, test: SyntheticFaces) -> tuple[nn.Module, list[dict[str, Any]], str]:
    """The network, its variables learned from true labels, from true labels again, and from shuffled ones; a remark."""
    import jax.numpy as jnp
    import numpy as np

    from faceflax import models, pretrained
    from faceflax.data.synthetic import render_faces
    from faceflax.labels import EMOTIONS
    from faceflax.training.step import in_batches, make_eval_step

    model = models.create(options.arch, len(EMOTIONS))
    size, seed = options.image_size, options.seed
    run_name = f"{options.arch}-{size}px-{options.train_faces}faces-{options.epochs}epochs"
    files = {
        name: options.output / f"{run_name}-{name}-{seed + i}.safetensors"
        for i, name in enumerate(("true", "again", "shuffled"))
    }
    if missing := [name for name, file in files.items() if not file.exists()]:
        train = render_faces(options.train_faces, 0, size)
        fit = trainer(model, train, epochs=options.epochs)
        score = make_eval_step(model)
        for i, (name, file) in enumerate(files.items()):
            if name not in missing:
                continue
            labels = train.emotions
            if name == "shuffled":
                labels = np.random.default_rng(seed).permutation(labels)
            variables = fit(labels, seed + i)
            shares = {
                "train": score(variables, in_batches(jnp.asarray(train.images), jnp.asarray(labels)))[1],
                "test": score(variables, in_batches(jnp.asarray(test.images), jnp.asarray(test.emotions)))[1],
            }
            pretrained.save(
                file,
                variables,
                arch=options.arch,
                dataset="synthetic",
                labels=EMOTIONS,
                image_size=size,
                accuracy=shares,
            )
    said = "; ".join(
        "{}: {train:.1%} of its training labels and {test:.1%} of the test faces".format(
            name, **pretrained.weights_info(file).accuracy
        )
        for name, file in files.items()
    )
    return model, [pretrained.load(file)[1] for file in files.values()], f"Labels right: {said}."


if __name__ == "__main__":
    run(main, Options)
