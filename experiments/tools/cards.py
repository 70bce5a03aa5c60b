"""Writes the model card of shipped weights from what ``scripts/evaluate.py`` measured, so that no number is typed.

Commands, for weights of FER-2013 or FER+ (for FairFace leave ``--without`` out)::

    python scripts/evaluate.py --weights NAME --dataset fer2013 --split validation --report out/validation
    python scripts/evaluate.py --weights NAME --dataset fer2013 --split test --detector faceflax --robustness \\
        --without experiments/near_duplicates_fer2013.json --report out/test
    python -m experiments.tools.cards NAME --validation out/validation/metrics.json --test out/test/metrics.json
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from faceflax import files
from faceflax.cli import run
from faceflax.errors import FaceflaxError, unknown

if TYPE_CHECKING:
    from faceflax.pretrained import WeightsInfo
    from faceflax.training.config import TrainConfig

FITTED = {
    "fer2013": "FER-2013 (Goodfellow et al., 2013), split Training, 28,709 faces; for research, see its publisher's "
    "terms",
    "ferplus": "FER+ (Barsoum et al., 2016), labels under MIT: the 24,938 faces of FER-2013's split Training on whose "
    "perceived emotion, of these seven, more than half of ten annotators agree; images for research, see FER-2013's "
    "publisher's terms",
    "fairface": "FairFace (Kärkkäinen and Joo, 2021), CC BY 4.0: 36,048 of a subset of 40,000 of its 86,744 training "
    "faces, at 96x96 grey",
}
CHOSEN = {
    "fer2013": "PublicTest, 3,589 faces",
    "ferplus": "FER+'s PublicTest, 3,186 faces",
    "fairface": "the other 3,952 of the subset, held out by a hash of the file name",
}
MEASURED = {
    "fer2013": "PrivateTest, 3,589 faces",
    "ferplus": "FER+'s PrivateTest, 3,136 faces. 16 more were voted contempt, which is not one of its classes: with "
    "them counted as wrong, multiply by 0.995",
    "fairface": "5,000 faces of FairFace's 10,954 published validation faces",
}
REMARKS = {
    "fer2013": "The dataset's labels are noisy: people agree with them on about 65% of its images (Goodfellow et al., "
    "2013).",
    "ferplus": "The labels are what most of ten annotators saw; faces on which they disagreed are left out, which "
    "makes the rest easier than FER-2013.",
    "fairface": "Two classes are what the dataset has; many faces are hard to classify, children's above all.",
}
NOT_FOR = {
    "emotion": "The labels are what annotators *perceived* in web images found by emotion words. A face does not show "
    "reliably what a person feels. Do not use it to judge, select, monitor or rate people. In the European Union, "
    "inferring emotions at work and in education is prohibited except for medical or safety reasons (AI Act, Article "
    "5). Accuracy by age, gender or skin colour was not measured for these weights.",
    "gender": "The labels are what annotators *perceived*; they are not a person's gender, and two classes do not "
    "describe everyone. Do not use it to decide anything about a person. Its errors are not shared evenly: see the "
    "groups above.",
}
ARCHITECTURES = {
    "mini_xception": "mini-Xception",
    "mini_xception_antialiased": "mini-Xception with antialiased pooling, whose labels change less when a face moves",
    "sequential_cnn": "The sequential fully-convolutional network",
    "vgg": "A plain network of ten 3x3 convolutions, the teacher of the two small ones and too slow for the live loop",
}


@dataclass(frozen=True)
class Options:
    """Write a model card beside shipped weights."""

    name: Annotated[str, tyro.conf.Positional]
    """Shipped weights."""
    validation: Path
    """metrics.json of the validation split."""
    test: Path
    """metrics.json of the test split."""
    made_by: str | None = None
    """The experiment that made them, which says what they were distilled from; experiments/recipes/ARCH_DATASET.py if
    not given."""


def main(options: Options) -> None:
    """Reads the measurements, checks that they are of these weights, and writes the card."""
    import jax

    from faceflax import list_weights, pretrained

    if options.name not in list_weights():
        raise unknown("name", options.name, list_weights())
    info = pretrained.weights_info(options.name)
    if info.dataset not in FITTED:
        problem = f"was fitted to {info.dataset}"
        raise FaceflaxError("name", options.name, problem, f"name weights of {', '.join(FITTED)}")
    numbers = {
        split: _read(split, file, info) for split, file in (("validation", options.validation), ("test", options.test))
    }
    size = sum(leaf.size for leaf in jax.tree.leaves(pretrained.load(options.name)[1]))
    made_by = options.made_by or f"experiments/recipes/{info.arch}_{info.dataset}.py"
    recipe = _recipe(made_by)
    file = folder() / f"{options.name}.md"
    stored = "float16" if file.with_suffix(".safetensors").stat().st_size < 3 * size else "float32"
    lines = card(info, f"{size:,} parameters, {stored}", numbers["validation"], numbers["test"], made_by, recipe)
    files.write(file, "".join(f"{line}\n" for line in lines))
    print(file)


def folder() -> Path:
    """Where the cards are: beside the shipped weights."""
    from faceflax import pretrained

    return Path(pretrained.__file__).parent / "weights"


def _read(split: str, file: Path, info: WeightsInfo) -> dict[str, Any]:
    try:
        numbers = json.loads(file.read_bytes())
        of = {key: numbers[key] for key in ("sha256", "dataset", "flip")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "name the metrics.json of an evaluation's report"
        raise FaceflaxError(split, file, f"cannot read {{}} ({error!r})", remedy) from None
    expected = {"sha256": info.sha256, "dataset": info.dataset, "flip": False}
    if of != expected:
        raise FaceflaxError(split, file, f"is of {of}, not of {expected}", "evaluate these weights again")
    return numbers


def _recipe(made_by: str) -> TrainConfig:
    """The configuration of an experiment's last stage."""
    try:
        return importlib.import_module(f"experiments.recipes.{Path(made_by).stem}").CONFIG
    except (ImportError, AttributeError) as error:
        problem = f"is no experiment with a CONFIG ({error})"
        raise FaceflaxError("made_by", made_by, problem, "name a file like experiments/recipes/NAME.py") from None


def card(
    info: WeightsInfo,
    size: str,
    validation: Mapping[str, Any],
    test: Mapping[str, Any],
    made_by: str,
    recipe: TrainConfig,
) -> Iterator[str]:
    """Yields the card's lines, as Markdown.

    Args:
        info: the weights' record.
        size: how many parameters they are, and of which type.
        validation: what ``faceflax.evaluation.report.metrics`` says of the validation split.
        test: the same of the test split.
        made_by: the experiment's file.
        recipe: the configuration of its last stage.
    """
    emotion = len(info.labels) > 2
    what = "emotion, one of seven" if emotion else "gender, woman or man as annotators saw it"
    yield f"# {info.name}\n"
    yield (
        f"Perceived {what}, from a grey face of {info.image_size}x{info.image_size} pixels. "
        f"{ARCHITECTURES.get(info.arch, info.arch)}, {size}.\n"
    )
    yield "| | |"
    yield "|---|---|"
    yield f"| fitted to | {FITTED[info.dataset]} |"
    if recipe.teachers:
        names = ", ".join(_teacher(name) for name in recipe.teachers)
        yield f"| distilled from | {names}, whose predictions are {recipe.teacher_weight:.0%} of each target |"
    yield f"| chosen on | {CHOSEN[info.dataset]}: the epoch, the temperature and the recipe |"
    yield f"| measured once on | {MEASURED[info.dataset]} |"
    grown = f"the upright square of a detected face, grown by {info.crop_margin:.1%} of its side on each side"
    yield f"| crop | {grown} (`experiments/crop_margin.py`) |"
    yield f"| made by | `{made_by}` |\n"
    yield "| accuracy, 95% interval | validation | test |"
    yield "|---|---|---|"
    plain = [name for name in test["accuracy"] if not _of_detector(name)]
    for name in plain:
        of_validation = _share(validation["accuracy"][name]) if name in validation["accuracy"] else ""
        yield f"| {name} | {of_validation} | {_share(test['accuracy'][name])} |"
    removed = any("without" in name for name in plain)
    yield f"\nReproduce, with {info.dataset} prepared:"
    without = " --without experiments/near_duplicates_fer2013.json" if removed else ""
    command = f"python scripts/evaluate.py --weights {info.name} --dataset {info.dataset} --split test"
    detector = test.get("detector") or "haar"
    robust = " --robustness" if "robustness" in test else ""
    yield f"`{command} --detector {detector}{robust}{without}`\n"
    if removed:
        yield "The rows left out have a near-duplicate in Training, found by `experiments/near_duplicates.py`.\n"
    yield REMARKS[info.dataset] + " By class:\n"
    yield "| test | precision | recall | F1 | images |"
    yield "|---|---|---|---|---|"
    columns = (test[key] for key in ("classes", "precision", "recall", "f1", "support"))
    for name, precision, recall, f1, count in zip(*columns, strict=True):
        yield f"| {name} | {precision:.1%} | {recall:.1%} | {f1:.1%} | {count:,} |"
    for kind, groups in list(test["groups"].items())[1:]:
        all_right, count = (sum(g[key] for g in groups.values()) for key in ("right", "count"))
        worst = min(groups, key=lambda name, groups=groups: groups[name]["share"])  # type: ignore[misc]
        gap = all_right / count - groups[worst]["share"]
        yield f"\n| {kind} | accuracy, 95% interval | images |"
        yield "|---|---|---|"
        for name, share in groups.items():
            yield f"| {name} | {_share(share)} | {share['count']:,} |"
        yield f"\nWorst: {worst}, {100 * gap:.1f} percentage points below all faces together."
    found = {name: share for name, share in test["accuracy"].items() if _of_detector(name)}
    if found:
        yield f"\n| through the detector (`--detector {detector}`), test | 95% interval |"
        yield "|---|---|"
        for name, share in found.items():
            yield f"| {name.removeprefix('detector: ')} | {_share(share)} |"
    if "robustness" in test:
        yield from _robustness(test["robustness"])
    before, after = test["expected_calibration_error"].values()
    seen = ", of faces as the detector finds them, as they are and corrupted" if recipe.detector else ""
    yield (
        f"\nProbabilities are `softmax(logits / {info.temperature:.3f})`, the temperature fitted on the validation "
        f"split{seen}; it takes the expected calibration error on the test split's own crops from {before:.2%} to "
        f"{after:.2%}.\n"
    )
    if info.sure:
        yield (
            f"The network is sure of a label from a probability of {info.sure['confidence']:.0%} on, and unsure below: "
            f"{info.sure['coverage']:.1%} of the labels of the validation split{seen} are sure, and "
            f"{info.sure['accuracy']:.1%} of these are right.\n"
        )
    yield "## What it is not for\n"
    yield NOT_FOR["emotion" if emotion else "gender"]


def _robustness(found: Mapping[str, Any]) -> Iterator[str]:
    """Tables of what corruptions do to the faces that the detector finds."""
    yield "\n| faces that the detector finds, test | right, 95% interval | label changes |"
    yield "|---|---|---|"
    yield f"| as they are | {_share(found['clean'])} | |"
    for name, row in found["corruptions"].items():
        star = "*" * row["common"]
        yield f"| {name}{star} | {_share(row['right'])} | {row['label_changes']['share']:.1%} |"
    for name, share in found["label_changes"].items():
        yield f"| {name} | | {share['share']:.1%} |"
    errors = found["expected_calibration_error"]
    yield (
        f"\nMean corruption accuracy (of those with a star): {found['mean_corruption_accuracy']:.2%}. Expected "
        f"calibration error on these faces as they are {errors['clean']:.2%}, corrupted {errors['corrupted']:.2%}."
    )
    for kind, groups in found["groups"].items():
        yield f"\n| {kind} | as they are, 95% interval | corrupted, 95% interval |"
        yield "|---|---|---|"
        for name, pair in groups.items():
            yield f"| {name} | {_share(pair['clean'])} | {_share(pair['corrupted'])} |"


def _teacher(name: str) -> str:
    """A shipped teacher by its name, another by its run's folder."""
    file = Path(name)
    return f"`{name}`" if file.suffix != ".safetensors" else f"`{file.parent.name}`, which the same experiment makes"


def _of_detector(name: str) -> bool:
    return name.startswith("detector: ") or name.startswith("the same faces")


def _share(share: Mapping[str, Any]) -> str:
    low, high = share["interval"]
    return f"{share['share']:.2%} [{100 * low:.2f}, {100 * high:.2f}]"


if __name__ == "__main__":
    run(main, Options)
