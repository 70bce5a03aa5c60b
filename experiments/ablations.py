"""What helps a network on FER-2013, and what does not: one change at a time to the same short recipe.

Command, about ten minutes a row on two cores, each row kept as soon as it is done and not made again::

    python -m experiments.ablations --ferplus fer2013new.csv
    python -m experiments.ablations --only base "random erasing"
    python -m experiments.ablations --table-only

Every row is fitted on Training and measured on PublicTest, at its best epoch there; PrivateTest is not looked at. The
rows ``order 1`` and ``order 2`` are the recipe itself with other random numbers: differences no larger than theirs to
``base`` mean nothing. Ten epochs are few, and favour what learns fast over what keeps a long training from overfitting.
The results are kept in ``experiments/ablations.json``.

The rows in :data:`RECORDED` were measured at commit cac2caa with options that were removed after it, because no shipped
weights use them. They stay in the table as results of that commit and cannot be made again with this one.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import experiments.architectures  # noqa: F401 (registers the rows' networks)
from faceflax import files
from faceflax.cli import run
from faceflax.data.augment import Augmentation
from faceflax.errors import FaceflaxError, unknown
from faceflax.training.config import TrainConfig

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool

BASE = TrainConfig(epochs=10, average=0.999, stop_patience=1000)
"""The recipe that each row changes."""

ABLATIONS: dict[str, dict[str, Any]] = {
    "base": {},
    "order 1": {"seed": 1},
    "order 2": {"seed": 2},
    "no average of weights": {"average": 0.0},
    "twice the epochs": {"epochs": 20},
    "batches of 32": {"batch_size": 32, "learning_rate": 3e-3},
    "learning rate halved": {"learning_rate": 2e-3},
    "no label smoothing": {"label_smoothing": 0.0},
    "label smoothing 0.2": {"label_smoothing": 0.2},
    "mixup": {"mixup": 0.2},
    "random erasing": {"erase": 0.25},
    "no geometry but the mirror": {"shift": 0.0, "rotation": 0.0, "zoom": 0.0},
    "contrast and brightness": {"contrast": 0.3, "brightness": 0.1},
    "56 pixels": {"image_size": 56},
    "64 pixels": {"image_size": 64},
    "80 pixels": {"image_size": 80},
    "squeeze and excitation": {"arch": "mini_xception_se"},
    "antialiased": {"arch": "mini_xception_antialiased"},
    "weights of the gender network": {"init_weights": "mini_xception-fairface"},
    "FER+ votes, half": {"soft_labels": "ferplus", "soft_weight": 0.5},
    "distilled from base": {"soft_labels": "base", "soft_weight": 0.5},
    "distilled from vgg-fer2013": {"teachers": ("vgg-fer2013",), "teacher_weight": 0.5},
}
"""Each row's changes, of a run's settings or of its augmentation; ``soft_labels`` names what they are made from."""

RECORDED = ("cutmix", "stronger geometry", "focal loss", "classes balanced")
"""Rows whose options (cutmix, shear, focal, class_balance) this version no longer has."""
COMMIT = "cac2caa"
"""The commit that had them, and made their rows."""


@dataclass(frozen=True)
class Options:
    """Measure one change of a short training recipe at a time, on the validation split."""

    only: tuple[str, ...] = ()
    """Rows to make, as the table names them; all if not given."""
    ferplus: Path | None = None
    """FER+'s votes, fer2013new.csv, for the row that needs them."""
    arch: str = "mini_xception"
    """Network."""
    dataset: str = "fer2013"
    """A prepared dataset."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    epochs: int = BASE.epochs
    """Passes over the training split; "twice the epochs" takes twice as many."""
    runs: Path = Path("runs/ablations")
    """Folder of the training runs."""
    results: Path = Path("experiments/ablations.json")
    """Where the numbers are kept."""
    table_only: bool = False
    """Print the table of what there is; train nothing."""


def main(options: Options) -> None:
    """Makes the rows that are missing, keeps each, and prints the table."""
    for name in options.only:
        if name in RECORDED:
            problem = f"was measured at commit {COMMIT} with options that this version does not have"
            raise FaceflaxError("only", name, problem, "choose another row, or check that commit out")
        if name not in ABLATIONS:
            raise unknown("only", name, list(ABLATIONS))
    wanted = options.only or tuple(ABLATIONS)
    files.writable_file("results", options.results)
    recipe = {"arch": options.arch, "dataset": options.dataset, "epochs": options.epochs}
    kept = read(options.results, recipe)
    if not options.table_only:
        for name in wanted if "base" in kept else ("base", *(name for name in wanted if name != "base")):
            if name in kept:
                continue
            if ABLATIONS[name].get("soft_labels") == "ferplus" and options.ferplus is None:
                print(f"{name}: left out; it needs --ferplus")
                continue
            if not ABLATIONS[name].get("arch", options.arch).startswith(options.arch):
                print(f"{name}: left out; it is no variant of {options.arch}")
                continue
            kept[name] = measure(name, options, kept)
            _write(options.results, recipe, kept)
    print(*table(kept), sep="\n")


def read(file: Path, recipe: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows that are kept in a file; none if there is no file.

    Raises:
        FaceflaxError: the file is of another recipe, or none of this experiment's.
    """
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_bytes())
        before, rows = content["recipe"], content["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FaceflaxError("results", file, f"is not such a file ({error!r})", "name another") from None
    if before != recipe:
        raise FaceflaxError("results", file, f"is of {before}, not of {dict(recipe)}", "name another file")
    return rows


def _write(file: Path, recipe: Mapping[str, Any], rows: Mapping[str, Any]) -> None:
    order = [*ABLATIONS, *(name for name in rows if name not in ABLATIONS)]
    ordered = {name: rows[name] for name in order if name in rows}
    files.write(file, json.dumps({"recipe": recipe, "rows": ordered}, indent=1) + "\n")


def measure(name: str, options: Options, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Trains one row and compares it with ``base`` on each validation image, which are kept as bits."""
    import numpy as np

    from faceflax.evaluation import Share
    from faceflax.training import train

    folder = options.runs / _slug(name)
    config = dataclasses.replace(BASE, arch=options.arch, dataset=options.dataset, data_dir=options.data_dir)
    changes = ABLATIONS[name] | {"epochs": options.epochs * (2 if "epochs" in ABLATIONS[name] else 1)}
    if "soft_labels" in changes:
        changes["soft_labels"] = _soft_labels(changes["soft_labels"], options)
    config = changed(config, changes | {"output": folder})
    print(f"{name}:", flush=True)
    start = time.perf_counter()
    train(dataclasses.replace(config, resume=(folder / "config.json").exists()))
    seconds = time.perf_counter() - start
    right = _right(folder, options)
    share = Share.of(right)
    row = {
        "changes": ABLATIONS[name],
        "right": share.right,
        "images": share.count,
        "seconds": round(seconds),
        "sha256": _info(folder).sha256,
        "which": np.packbits(right).tobytes().hex(),
    }
    if name != "base":
        base = np.unpackbits(np.frombuffer(bytes.fromhex(kept["base"]["which"]), np.uint8), count=len(right))
        difference = right.astype(int) - base.astype(int)
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        row |= {"gain": float(difference.mean()), "gain_error": float(error)}
    return row


def changed(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """Returns a configuration with changes of its fields and of its augmentation's.

    Example:
        >>> changed(BASE, {"epochs": 20, "erase": 0.25}).augmentation.erase
        0.25
    """
    of_images = {field.name for field in dataclasses.fields(Augmentation)} & changes.keys()
    augmentation = dataclasses.replace(config.augmentation, **{name: changes[name] for name in of_images})
    rest = {name: value for name, value in changes.items() if name not in of_images}
    return dataclasses.replace(config, augmentation=augmentation, **rest)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _info(folder: Path) -> Any:
    from faceflax import pretrained

    return pretrained.weights_info(folder / "weights.safetensors")


def _right(folder: Path, options: Options) -> Bool[np.ndarray, " n"]:
    """Which validation images a run's weights classify right."""
    from faceflax import data, pretrained
    from faceflax.evaluation import predict_logits

    file = folder / "weights.safetensors"
    model, variables = pretrained.load(file)
    size = pretrained.weights_info(file).image_size
    examples = data.load(options.dataset, "validation", image_size=size, data_dir=options.data_dir)
    return predict_logits(model, variables, examples.images).argmax(-1) == examples.labels


def _soft_labels(source: str, options: Options) -> Path:
    from experiments.tools import soft_labels

    file = options.runs / f"{source}.npy"
    options.runs.mkdir(parents=True, exist_ok=True)
    teacher = str(options.runs / _slug("base") / "weights.safetensors")
    of = {"ferplus": options.ferplus} if source == "ferplus" else {"teachers": (teacher,)}
    soft_labels.main(soft_labels.Options(output=file, dataset=options.dataset, data_dir=options.data_dir, **of))
    return file


def table(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yields the lines of the Markdown table: accuracy, gain over ``base`` with its 95% interval, the verdict.

    Example:
        >>> print(*table({"base": {"right": 3, "images": 4, "seconds": 60}}), sep="\\n")
        | | PublicTest | against base, 95% interval | minutes | |
        | --- | --- | --- | --- | --- |
        | base | 75.00% | | 1 | |
    """
    yield "| | PublicTest | against base, 95% interval | minutes | |"
    yield "| --- | --- | --- | --- | --- |"
    for name, row in rows.items():
        gain = verdict = ""
        if "gain" in row:
            low, high = (100 * (row["gain"] + side * 1.96 * row["gain_error"]) for side in (-1, 1))
            gain = f"{100 * row['gain']:+.2f} [{low:+.2f}, {high:+.2f}] "
            verdict = "helps " if low > 0 else "harms " if high < 0 else "inconclusive "
        name += f", at commit {row['commit']}" if "commit" in row else ""
        yield (f"| {name} | {row['right'] / row['images']:.2%} | {gain}| {row['seconds'] / 60:.0f} | {verdict}|")


if __name__ == "__main__":
    run(main, Options)
