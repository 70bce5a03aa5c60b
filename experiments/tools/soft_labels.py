"""Target distributions for the training images of a dataset, from annotators' votes, from teacher networks, or both.

Commands::

    python -m experiments.tools.soft_labels --output votes.npy --ferplus fer2013new.csv
    python -m experiments.tools.soft_labels --output teachers.npy --teachers a/weights.safetensors b/weights.safetensors
    python scripts/train.py --dataset fer2013 --soft-labels votes.npy --soft-weight 0.5

The file holds float32 ``[images, classes]``, a row for each training image in the order in which the dataset is read.
Only the training split is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from faceflax import files
from faceflax.cli import run
from faceflax.errors import FaceflaxError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from faceflax.data import Examples


@dataclass(frozen=True)
class Options:
    """Write soft labels for a dataset's training images, from FER+ votes, teachers' probabilities, or both."""

    output: Path
    """The .npy file to write."""
    dataset: str = "fer2013"
    """A prepared dataset."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    ferplus: Path | None = None
    """FER+'s votes on FER-2013, fer2013new.csv (https://github.com/microsoft/FERPlus)."""
    teachers: tuple[str, ...] = ()
    """Weights (shipped names or .safetensors) whose probabilities are averaged, each with flip averaging."""
    temperature: float = 1.0
    """Divides the teachers' calibrated logits: above 1 softens."""
    votes_weight: float = 0.25
    """Share of the votes where teachers are given as well."""


def main(options: Options) -> None:
    """Reads the training split, makes its soft labels, and says how often they agree with the hard ones."""
    if options.output.suffix != ".npy":
        raise FaceflaxError("output", options.output, "is not an .npy file", "name it so")
    if options.ferplus is None and not options.teachers:
        raise FaceflaxError("teachers", None, "neither ferplus nor teachers is given", "give one of the two, or both")
    if not 0 <= options.votes_weight <= 1:
        raise FaceflaxError("votes_weight", options.votes_weight, "is not usable", "give a number in [0, 1]")
    if not 0 < options.temperature < float("inf"):
        raise FaceflaxError("temperature", options.temperature, "is not usable", "give a number above 0")
    files.writable_file("output", options.output)

    import numpy as np

    from faceflax import data

    if options.teachers:
        soft, examples = from_teachers(options.teachers, options.dataset, options.data_dir, options.temperature)
    else:
        examples = data.load(options.dataset, "train", image_size=48, data_dir=options.data_dir)
    if options.ferplus is not None:
        votes = from_votes(options.ferplus, examples)
        share = options.votes_weight
        soft = (1 - share) * soft + share * votes if options.teachers else votes
    with files.replacing(options.output) as temporary:
        np.save(temporary, soft.astype(np.float32))
    agree = (soft.argmax(1) == examples.labels).mean()
    print(
        f"{options.output}: {len(soft):,} rows of {', '.join(examples.names)}; {agree:.1%} agree with the hard label, "
        f"on which {soft[np.arange(len(soft)), examples.labels].mean():.1%} of the weight lies"
    )


def from_votes(file: Path, examples: Examples) -> Float[np.ndarray, "n classes"]:
    """The shares of FER+'s votes for the seven emotions, single votes left out as its authors do.

    An image without votes for any of the seven (no face, contempt, unknown) keeps its hard label.

    Barsoum, Zhang, Canton Ferrer and Zhang, "Training Deep Networks for Facial Expression Recognition with
    Crowd-Sourced Label Distribution", ICMI 2016.

    Args:
        file: FER+'s CSV.
        examples: the training split of FER-2013 or FER+, prepared from FER-2013's CSV.

    Raises:
        FaceflaxError: a file that is not FER+'s, a damaged line of it, examples that are not rows of FER-2013's CSV, or
            votes that cannot be of the same images (:func:`faceflax.data.ferplus.match`).
    """
    import numpy as np

    from faceflax.data import ferplus
    from faceflax.labels import EMOTIONS

    if examples.names != EMOTIONS or not all(i.isdigit() for i in examples.ids):
        problem = "with FER+'s votes, {} must have the rows of fer2013.csv"
        raise FaceflaxError("dataset", examples.label, problem, "prepare fer2013 from that file")
    votes = ferplus.read_votes("ferplus", file)
    for line in votes:
        if line.damaged:
            raise line.fault("ferplus")
    rows = [int(i) for i in examples.ids]
    matched = ferplus.match("ferplus", votes, dict(zip(rows, examples.labels.tolist(), strict=True)))
    shares = np.eye(len(EMOTIONS))[examples.labels]
    for i, row in enumerate(rows):
        if row in matched:
            counts = matched[row].counts[: len(EMOTIONS)]
            if counts.any():
                shares[i] = counts / counts.sum()
    return shares


def from_teachers(
    teachers: Sequence[str], dataset: str, data_dir: Path | None, temperature: float
) -> tuple[Float[np.ndarray, "n classes"], Examples]:
    """The mean of the teachers' probabilities on the training images.

    Args:
        teachers: weights files or names; each sees the images at its own size.
        dataset: the dataset.
        data_dir: where it is prepared.
        temperature: divides each teacher's flip-averaged logits, beside its own calibration.

    Returns:
        The probabilities and the training split.

    Raises:
        FaceflaxError: weights that cannot be loaded or have other classes than the dataset.
    """
    import numpy as np
    from scipy.special import softmax

    from faceflax import data, pretrained
    from faceflax.evaluation import predict_logits

    splits: dict[int, Examples] = {}
    probabilities = []
    for name in teachers:
        try:
            loaded = pretrained.load(name)
        except FaceflaxError as error:
            raise error.renamed("teachers") from None
        (model, variables), info = loaded, loaded.info
        if info.image_size not in splits:
            splits[info.image_size] = data.load(dataset, "train", image_size=info.image_size, data_dir=data_dir)
        examples = splits[info.image_size]
        if examples.names != info.labels:
            problem = f"has the classes {', '.join(info.labels)}, {dataset} has {', '.join(examples.names)}"
            raise FaceflaxError("teachers", name, problem, "name weights with the dataset's classes")
        logits = predict_logits(model, variables, examples.images, flip=True)
        probabilities.append(softmax(logits.astype(np.float64) / (temperature * info.temperature), axis=1))
    return np.mean(probabilities, axis=0), examples


if __name__ == "__main__":
    run(main, Options)
