"""Evaluates weights on a split: ``faceflax evaluate --weights mini_xception-fer2013 --dataset fer2013``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from faceflax import files
from faceflax.cli.metavars import Weights
from faceflax.cli.reporting import ReportOptions, counted
from faceflax.errors import FaceflaxError, said

if TYPE_CHECKING:
    import numpy as np

    from faceflax.data import Examples
    from faceflax.evaluation.detected import FoundFaces
    from faceflax.evaluation.shares import Share
    from faceflax.pretrained import WeightsInfo

_MOST_BYTES = 2**28  # of a list of ids
FIGURES = (".png", ".pdf", ".svg")
ROLES = {
    "train": "the weights were fitted to it, so these numbers say nothing about other faces",
    "validation": "the weights' epoch and temperature were chosen on it, so these numbers are a little too good",
    "test": "training fits nothing to it and chooses nothing on it",
}

WAYS = {False: "single crop", True: "flip averaged"}
"""What an accuracy is called, by whether the mirror image is averaged in."""


@dataclass(frozen=True)
class Options:
    """Print accuracy on a split, by class and group, with 95% intervals, and calibration; draw the confusion matrix.

    --report writes all of it, with figures, as one web page.
    """

    weights: Weights
    """Shipped name (faceflax.list_weights()) or path of a .safetensors file."""
    dataset: str
    """Dataset, prepared with faceflax prepare-data; synthetic needs no preparation."""
    split: str = "test"
    """train, validation or test; for fer2013 also PublicTest (validation) and PrivateTest (test)."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    flip: bool = False
    """Average the logits of each image and of its mirror image; accuracy is always printed for both ways."""
    detector: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE")] = None
    """Also find and cut out each face as the analyzers do, and print accuracy there: by faceflax (our network), haar
    (OpenCV's cascade), or the .onnx file of OpenCV's YuNet."""
    robustness: bool = False
    """Also corrupt the pictures of the faces that the detector finds (faceflax if not given), and print accuracy there:
    small, blurred, pale, noisy, compressed, turned, dark or covered faces; and how often mirroring changes a label."""
    corruptions: tuple[str, ...] = ()
    """The corruptions to measure with --robustness, by name; all of them if not given."""
    without: Path | None = None
    """Also print accuracy without these rows: a JSON list of ids, as experiments/near_duplicates.py writes it."""
    report: Path | None = None
    """Folder for index.html, one page with all numbers and figures in it, and metrics.json."""
    output: Path = Path("out/confusion.png")
    """Figure of the confusion matrix to write."""
    said: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


def main(options: Options) -> None:
    """Loads weights and split, evaluates, prints and draws."""
    if options.output.suffix not in FIGURES:
        raise FaceflaxError("output", options.output, "is not an image file", f"end it in {' or '.join(FIGURES)}")
    files.writable_file("output", options.output)
    if options.report:
        for name in ("index.html", "metrics.json"):
            files.writable_file("report", options.report / name)
    removed = _read_ids(options.without) if options.without else frozenset()
    began = time.monotonic()

    from scipy.special import softmax

    from faceflax import data, evaluation, pretrained
    from faceflax.evaluation import report
    from faceflax.evaluation.corruptions import chosen
    from faceflax.evaluation.detected import SIDE, find_faces
    from faceflax.evaluation.robustness import measure
    from faceflax.faces import make_detector

    corruptions = chosen(options.corruptions)
    if options.corruptions and not options.robustness:
        problem = "is of no use without --robustness"
        raise FaceflaxError("corruptions", options.corruptions[0], problem, "add it, or leave them out")
    finder = options.detector or ("faceflax" if options.robustness else None)
    detector = make_detector(finder) if finder else None

    loaded = pretrained.load(options.weights)
    (model, variables), info = loaded, loaded.info
    examples = data.load(options.dataset, options.split, image_size=info.image_size, data_dir=options.data_dir)
    if examples.names != info.labels:
        classes, others = ", ".join(examples.names), ", ".join(info.labels)
        problem = f"has the classes {classes}, but the weights {options.weights!r} have {others}"
        raise FaceflaxError("dataset", options.dataset, problem, "choose a dataset with the weights' classes")

    def predict(images: np.ndarray, flip: bool) -> np.ndarray:
        return evaluation.predict_logits(model, variables, images, flip=flip)

    views = {flip: predict(examples.images, flip) for flip in (False, True)}
    right = {flip: logits.argmax(-1) == examples.labels for flip, logits in views.items()}
    accuracy = {WAYS[flip]: evaluation.Share.of(right[flip]) for flip in views}
    if removed:
        keep = _keep(options, examples, removed)
        rest = f"without {(~keep).sum():,} rows"
        accuracy |= {f"{WAYS[flip]}, {rest}": evaluation.Share.of(right[flip][keep]) for flip in views}
    if detector:
        images = data.load(options.dataset, options.split, image_size=SIDE, data_dir=options.data_dir).images
        faces = find_faces(images, detector)
        see = partial(predict, flip=options.flip)
        accuracy |= _through_detector(info, examples.labels, faces, right[options.flip], see)

    logits = views[options.flip]
    result = evaluation.evaluate(logits, examples.labels, info.labels)
    members = {examples.label: (examples.names, examples.labels), **examples.attributes}
    if len(examples.names) == 2:  # errors add up where groups meet; of more classes the cells would be small
        members |= {f"{kind} and {examples.label}": _cells(examples, kind) for kind in examples.attributes}
    groups = {kind: evaluation.group_shares(right[options.flip], *of) for kind, of in members.items()}
    robustness = None
    if options.robustness and detector:
        robustness = measure(
            see,
            faces,
            examples.labels,
            members,
            detector,
            margin=info.crop_margin,
            size=info.image_size,
            temperature=info.temperature,
            corruptions=corruptions,
        )
    calibration = {
        name: evaluation.calibrate(logits, examples.labels, temperature)
        for name, temperature in (("softmax", 1.0), (f"with temperature {info.temperature:.3f}", info.temperature))
    }

    what = f"{options.weights} on {options.dataset} {options.split}{' with flip averaging' if options.flip else ''}"
    remarks = list(_remarks(options, info, examples))
    lines = [f"{what}: accuracy {result.accuracy:.2%} of {counted(len(logits), 'image')}", "", *remarks, ""]
    lines += [_lines("share [95% interval]", accuracy), "", str(result.table())]
    for kind, shares in groups.items():
        name, gap = evaluation.worst(shares)
        lines += ["", _lines(f"{kind} [95% interval]", shares)]
        lines.append(f"worst: {name}, {100 * gap:.1f} percentage points below all images together")
    lines.append("")
    lines += [f"expected calibration error, {name}: {bins.error:.2%}" for name, bins in calibration.items()]
    if robustness:
        lines += ["", str(robustness)]
    title = f"{what}\naccuracy {result.accuracy:.2%}, n = {len(logits):,}"
    with files.replacing(options.output) as temporary:
        report.confusion_figure(result, title).savefig(temporary, dpi=150, bbox_inches="tight")
    facts = {
        "weights": options.weights,
        "sha256": info.sha256,
        "dataset": options.dataset,
        "split": options.split,
        "images": len(logits),
        "skipped": examples.skipped,
        "flip": options.flip,
        "temperature": info.temperature,
        "detector": finder,
    }
    mistakes = report.most_confident_mistakes(softmax(logits / info.temperature, axis=1), examples)
    found = report.Report(what, remarks, accuracy, result, groups, calibration, mistakes, facts, robustness)
    written = [options.output]
    if options.report:
        written += [report.write(options.report, found), options.report / "metrics.json"]
    seconds = time.monotonic() - began
    lines += ["", f"{counted(len(logits), 'image')}; {seconds:.1f} s"]
    options.said.say("\n".join(lines), report.metrics(found) | {"seconds": round(seconds, 3)}, written)


def _read_ids(file: Path) -> frozenset[str]:
    remedy = "name a JSON list of ids"
    whole = files.read("without", file, _MOST_BYTES, remedy=remedy)
    try:
        content = json.loads(whole)
    except (ValueError, RecursionError) as error:
        raise FaceflaxError("without", file, f"cannot read {{}} ({said(error)})", remedy) from None
    if not isinstance(content, list) or not all(type(item) in (int, str) for item in content):
        raise FaceflaxError("without", file, "is not a JSON list of row numbers or names", "name such a file")
    return frozenset(map(str, content))


def _keep(options: Options, examples: Examples, removed: frozenset[str]) -> np.ndarray:
    """Which examples remain; a list that names none or all of them is for another dataset, and is said so."""
    import numpy as np

    keep = np.array([identity not in removed for identity in examples.ids])
    if keep.all() or not keep.any():
        named = "none" if keep.all() else "all"
        problem = f"names {named} of the rows of {options.dataset} {options.split}, such as {examples.ids[0]!r}"
        raise FaceflaxError("without", options.without, problem, "name a list that was made for this dataset")
    return keep


def _cells(examples: Examples, kind: str) -> tuple[tuple[str, ...], np.ndarray]:
    """The groups of an attribute divided by the label."""
    groups, members = examples.attributes[kind]
    names = tuple(f"{group}, {name}" for group in groups for name in examples.names)
    return names, members * len(examples.names) + examples.labels


def _through_detector(
    info: WeightsInfo,
    labels: np.ndarray,
    faces: FoundFaces,
    right: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
) -> dict[str, Share]:
    """Accuracy where the detector finds and cuts out the faces, the one of highest score in each image."""
    from faceflax.evaluation.shares import Share

    shares = {"detector: face found": Share(len(faces.index), faces.count)}
    if faces.views:
        right_there = predict(faces.cut(info.crop_margin, info.image_size)).argmax(-1) == labels[faces.index]
        shares["detector: cut-out of the faces found"] = Share.of(right_there)
        shares["the same faces as the dataset has them"] = Share.of(right[faces.index])
        shares["detector: a face not found counted as wrong"] = Share(int(right_there.sum()), faces.count)
    return shares


def _remarks(options: Options, info: WeightsInfo, examples: Examples) -> Iterator[str]:
    """What a reader has to know of the numbers."""
    yield (
        "The labels are what annotators perceived in an image; they say nothing certain about what a person feels or "
        "is. Do not use predictions to judge people."
    )
    if info.dataset == options.dataset:
        yield f"This is the {examples.split} split: {ROLES[examples.split]}."
    else:
        yield f"The weights were trained on {info.dataset}, not on {options.dataset}."
    yield (
        "Intervals are 95% percentile bootstrap intervals over the images; they do not cover errors in the labels or "
        "what another training run would give."
    )
    if examples.skipped:
        yield f"{examples.skipped:,} damaged rows of the split were left out when it was prepared (--skip-corrupt)."
    if options.without:
        yield f"Where it says so, the split's rows that {options.without.name} lists are left out."
    if options.detector or options.robustness:
        yield (
            "Through the detector: each image is resized to 192x192 pixels in the middle of a 384x384 frame that "
            f"repeats its border pixels; of the faces that {options.detector or 'faceflax'} finds there, the one of "
            "the highest score is cut out as the analyzers do it."
        )
    if options.robustness:
        yield (
            "Corrupted: strengths are in pixels of a face of 64 pixels. The detector looks again where the face was; "
            "where it does not find it again, the place it had is taken. The mean corruption accuracy (mCA) is of the "
            "corruptions marked with a star."
        )


def _lines(title: str, shares: dict[str, Share]) -> str:
    width = max(map(len, (title, *shares)))
    return "\n".join(
        [title, *(f"{name:<{width}}  {share}  {share.count:6,d} images" for name, share in shares.items())]
    )
