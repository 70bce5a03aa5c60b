"""Gives trained weights a name to ship under: ``faceflax export runs/RUN/weights.safetensors NAME``.

Fits the temperature on the validation split, and the probability from which on a label is sure; measures validation and
test accuracy; and writes the pair ``NAME.safetensors`` and ``NAME.json`` that ``faceflax.load(NAME)`` reads. Of a
network that finds faces, the recall on the validation split takes the place of the accuracies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from faceflax.files import writable_file

if TYPE_CHECKING:
    from faceflax.pretrained import WeightsInfo

ENOUGH = {True: 0.8, False: 0.95}
"""The share of sure labels that is right, of more than two classes and of two."""


@dataclass(frozen=True)
class Options:
    """Measure trained weights on their dataset and write them under a name."""

    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.safetensors")]
    """A .safetensors file that a training run wrote."""
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """The name to load them by, ARCH-DATASET."""
    detector: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE")] = None
    """Fit on the validation faces as this detector finds them (faceflax, haar or a YuNet file), as they are and
    corrupted: probabilities are then right for pictures such as people have. On the dataset's images if not given."""
    half: bool = False
    """Round the parameters to float16, for half the file, before they are measured."""
    output_dir: Path = Path("faceflax/pretrained/weights")
    """Folder of the named weights."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""


def main(options: Options) -> None:
    """Fits the temperature, measures, saves."""
    import jax
    import jax.numpy as jnp

    from faceflax import data, models, pretrained
    from faceflax.evaluation.detector import mean_recall

    file = writable_file("output_dir", options.output_dir / f"{options.name}.safetensors")
    loaded = pretrained.load(options.weights)
    (model, variables), info = loaded, loaded.info
    if options.half:
        variables = jax.tree.map(lambda values: values.astype(jnp.float16).astype(jnp.float32), variables)
    if info.arch in models.DETECTORS:
        scenes = data.load_scenes(info.dataset, "validation", data_dir=options.data_dir)
        accuracy, temperature, sure = {"validation": mean_recall(variables, scenes)[0]}, 1.0, None
    else:
        accuracy, temperature, sure = _labelling(options, model, variables, info)
    info = pretrained.save(
        file,
        variables,
        arch=info.arch,
        dataset=info.dataset,
        labels=info.labels,
        image_size=info.image_size,
        crop_margin=data.crop_margin(info.dataset),
        temperature=temperature,
        accuracy=accuracy,
        sure=sure,
        half=options.half,
    )
    print(f"{file}  sha256 {info.sha256}")
    print("  ".join(f"{split} {value:.2%}" for split, value in accuracy.items()), f" temperature {temperature:.3f}")
    if sure:
        print(
            "sure from {confidence:.1%} on: {coverage:.1%} of the labels, {accuracy:.1%} of them right".format(**sure)
        )


def _labelling(
    options: Options, model: Any, variables: Any, info: WeightsInfo
) -> tuple[dict[str, float], float, dict[str, float]]:
    """The accuracy on each split, the temperature that fits the validation split best, and from when on it is sure."""
    import numpy as np

    from faceflax import data, evaluation
    from faceflax.training.detected import validation_crops

    logits, labels = {}, {}
    for split in ("validation", "test"):
        examples = data.load(info.dataset, split, image_size=info.image_size, data_dir=options.data_dir)
        logits[split] = evaluation.predict_logits(model, variables, examples.images)
        labels[split] = examples.labels
    accuracy = {split: float((logits[split].argmax(-1) == labels[split]).mean()) for split in logits}
    shown, wanted, counts = logits["validation"], labels["validation"], np.ones(len(labels["validation"]))
    if options.detector:
        clean, hurt = validation_crops(options.detector, info.dataset, info.image_size, options.data_dir)
        shown = np.concatenate([evaluation.predict_logits(model, variables, x) for x in (clean.images, *hurt)])
        wanted = np.tile(wanted[clean.index], 1 + len(hurt))
        counts = np.ones(len(wanted))
        counts[: len(clean.index)] = len(hurt)  # as much as all corruptions together, as in Robustness.score
    temperature = evaluation.fit_temperature(shown, wanted, counts)
    enough = ENOUGH[len(info.labels) > 2]
    return accuracy, temperature, evaluation.sure_from(shown, wanted, temperature, enough, counts)
