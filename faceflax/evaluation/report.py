"""An evaluation as one web page with its images inside, and as numbers for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

from faceflax import files, html
from faceflax.data.loading import Examples
from faceflax.evaluation.calibration import Calibration
from faceflax.evaluation.corruptions import CORRUPTIONS, SIDE, scaled
from faceflax.evaluation.detected import View
from faceflax.evaluation.metrics import Evaluation
from faceflax.evaluation.robustness import Robustness
from faceflax.evaluation.shares import Share, worst
from faceflax.faces.network import NetworkDetector
from faceflax.media.demo import photograph
from faceflax.opencv import cv2

BLUE, GREY = "#2166ac", "#888888"


@dataclass(frozen=True)
class Mistake:
    """An image given a wrong label.

    Attributes:
        identity: where in the dataset's files it is.
        image: as the network saw it.
        label: its class.
        predicted: the class it was given.
        probability: of that class, in [0, 1].
    """

    identity: str
    image: UInt8[np.ndarray, "size size 1"]
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Report:
    """What a page shows.

    Attributes:
        title: what was evaluated on what.
        remarks: what a reader has to know of the numbers, a paragraph each.
        accuracy: the headline numbers: what each is of, and the share.
        evaluation: precision, recall and confusion per class.
        groups: for each thing that divides the images (the classes first), the accuracy of each group.
        calibration: by the confidence of the predictions, for each way of computing probabilities.
        mistakes: the most confident ones, the highest probability first.
        facts: what else the numbers for programs should hold, such as the weights' name.
        robustness: of corrupted pictures, where it was measured.
    """

    title: str
    remarks: Sequence[str]
    accuracy: Mapping[str, Share]
    evaluation: Evaluation
    groups: Mapping[str, Mapping[str, Share]]
    calibration: Mapping[str, Calibration]
    mistakes: Sequence[Mistake]
    facts: Mapping[str, Any]
    robustness: Robustness | None = None


def most_confident_mistakes(
    probabilities: Float[np.ndarray, "n classes"], examples: Examples, count: int = 24
) -> list[Mistake]:
    """Returns the ``count`` examples whose wrong label got the highest probability, the highest first."""
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != examples.labels)
    label, taken_for = ([examples.names[i] for i in indices] for indices in (examples.labels, predicted))
    return [
        Mistake(examples.ids[i], examples.images[i], label[i], taken_for[i], float(confidence[i]))
        for i in wrong[np.argsort(-confidence[wrong], kind="stable")[:count]]
    ]


def write(folder: Path, report: Report) -> Path:
    """Writes ``index.html``, which needs no other file, and ``metrics.json`` into a folder that exists.

    Returns:
        The page.
    """
    file = folder / "index.html"
    files.write(folder / "metrics.json", json.dumps(metrics(report), indent=2) + "\n")
    files.write(file, page(report))
    return file


def metrics(report: Report) -> dict[str, Any]:
    """Returns the numbers of a report as plain dictionaries, lists and numbers; shares are in [0, 1]."""
    found = report.evaluation
    return {
        **report.facts,
        "accuracy": {name: _numbers(share) for name, share in report.accuracy.items()},
        "classes": list(found.names),
        "precision": found.precision.tolist(),
        "recall": found.recall.tolist(),
        "f1": found.f1.tolist(),
        "support": found.support.tolist(),
        "confusion": found.confusion.tolist(),
        "groups": {
            kind: {name: _numbers(share) for name, share in groups.items()} for kind, groups in report.groups.items()
        },
        "expected_calibration_error": {name: bins.error for name, bins in report.calibration.items()},
        **({} if report.robustness is None else {"robustness": _robustness(report.robustness)}),
    }


def _robustness(found: Robustness) -> dict[str, Any]:
    clean, corrupted = found.calibration_error
    return {
        "found": _numbers(found.found),
        "clean": _numbers(found.clean),
        "mean_corruption_accuracy": found.mean,
        "score": found.score,
        "corruptions": {
            row.corruption.name: {
                "common": row.corruption.common,
                "right": _numbers(row.right),
                "found_again": _numbers(row.again),
                "label_changes": _numbers(row.change),
            }
            for row in found.rows
        },
        "label_changes": {name: _numbers(share) for name, share in found.changes.items()},
        "expected_calibration_error": {"clean": clean, "corrupted": corrupted},
        "groups": {
            kind: {
                name: {"clean": _numbers(plain), "corrupted": _numbers(hurt)} for name, (plain, hurt) in groups.items()
            }
            for kind, groups in found.groups.items()
        },
    }


def _numbers(share: Share) -> dict[str, Any]:
    return {"share": share.value, "interval": share.interval, "right": share.right, "count": share.count}


BODY = """{% for remark in report.remarks %}<p>{{ remark }}</p>
{% endfor %}<h2>Accuracy</h2>
{{ table(("", "share", "95% interval", "images"), share_rows(report.accuracy)) }}
<h2>Confusion</h2>
{{ figure(confusion_figure(found, ""), "Confusion matrix: share of each label's images by predicted class") -}}
<p>The most frequent confusions:</p>
{{- table(("label, predicted", "images", "of the label's"), confusions(found)) }}
{% for kind, groups in report.groups.items() %}{% set name, gap = worst(groups) -%}
<h2>Accuracy by perceived {{ kind }}</h2>
{{ figure(groups_figure(groups), "Accuracy by perceived %s, with 95%% intervals" % kind) -}}
<p>Worst: {{ name }}, {{ "%.1f" % (100 * gap) }} percentage points below all images together.</p>
{{- table((kind, "accuracy", "95% interval", "images"), share_rows(groups)) }}
{% endfor %}<h2>Precision and recall</h2>
{{ table(("", "precision", "recall", "F1", "images"), class_rows(found)) }}
<h2>Calibration</h2>
<p>Of the predictions made with 80% probability, 80% should be right: then the bars meet the diagonal. \
The expected calibration error is the mean distance from it.</p>
{{- figure(reliability_figure(report.calibration), "Accuracy against predicted probability, with the diagonal") }}
{{- table(("probabilities", "expected calibration error"), calibration_rows(report.calibration)) }}
{% if report.robustness %}<h2>Robustness</h2>
<p>Faces that the detector finds, of which something happens to the picture: the mean corruption accuracy (mCA, of the \
corruptions with a star) is {{ "%.1f%%" % (100 * report.robustness.mean) }}.</p>
{{- figure(corruptions_figure(), "A face, and what each corruption makes of it") }}
{{- table(("", "what it is", "right", "95% interval", "found again", "label changes"), \
corruption_rows(report.robustness)) }}
{{ table(("", "label changes", "95% interval", "images"), share_rows(report.robustness.changes)) }}
{% for kind, groups in report.robustness.groups.items() -%}
{{ table((kind, "clean", "95% interval", "corrupted", "95% interval"), hurt_rows(groups)) }}
{% endfor %}{% endif %}<h2>Most confident mistakes</h2>
{% if report.mistakes %}<p>The images whose wrong label got the highest probability. Some are the network's mistakes, \
some the annotators'.</p>
<div class="faces small">
{%- for m in report.mistakes -%}
<figure>{{ mistake_image(m) }}<figcaption>{{ m.predicted }} {{ "%.0f" % (100 * m.probability) }}%<br>label: \
{{ m.label }}<br>{{ m.identity }}</figcaption></figure>
{%- endfor %}</div>
{% else %}<p>There are none.</p>
{% endif %}"""


def page(report: Report) -> str:
    """Returns the whole page as HTML; images are in it as data URIs."""
    body = html.render(
        BODY,
        report=report,
        found=report.evaluation,
        table=html.table,
        figure=html.figure,
        worst=worst,
        share_rows=_share_rows,
        class_rows=_class_rows,
        calibration_rows=_calibration_rows,
        confusions=_confusions,
        confusion_figure=confusion_figure,
        groups_figure=groups_figure,
        reliability_figure=reliability_figure,
        mistake_image=_mistake_image,
        corruptions_figure=corruptions_figure,
        corruption_rows=_corruption_rows,
        hurt_rows=_hurt_rows,
    )
    return html.page(report.title, body)


def _share_rows(shares: Mapping[str, Share]) -> Iterable[tuple[str, ...]]:
    for name, share in shares.items():
        low, high = share.interval
        yield name, f"{share.value:.2%}", f"{low:.2%} to {high:.2%}", f"{share.count:,}"


def _class_rows(found: Evaluation) -> Iterable[tuple[str, ...]]:
    columns = (found.precision, found.recall, found.f1, found.support)
    for name, p, r, f, n in zip(found.names, *columns, strict=True):
        yield name, f"{p:.1%}", f"{r:.1%}", f"{f:.1%}", f"{n:,}"


def _calibration_rows(calibration: Mapping[str, Calibration]) -> Iterable[tuple[str, str]]:
    for name, bins in calibration.items():
        yield name, f"{bins.error:.2%}"


def _confusions(found: Evaluation, count: int = 6) -> Iterable[tuple[str, ...]]:
    shares = found.confusion * (1 - np.eye(len(found.names)))
    images = np.rint(shares * found.support[:, None]).astype(int)
    for index in np.argsort(-images, axis=None, kind="stable")[:count]:
        label, predicted = np.unravel_index(index, images.shape)
        if images[label, predicted]:
            name = f"{found.names[label]}, {found.names[predicted]}"
            yield name, f"{images[label, predicted]:,}", f"{shares[label, predicted]:.0%}"


def _corruption_rows(found: Robustness) -> Iterable[tuple[str, ...]]:
    yield "none", "", *_value_and_interval(found.clean), "", ""
    for row in found.rows:
        name = row.corruption.name + "*" * row.corruption.common
        others = f"{row.again.value:.1%}", f"{row.change.value:.1%}"
        yield name, row.corruption.says, *_value_and_interval(row.right), *others


def _hurt_rows(groups: Mapping[str, tuple[Share, Share]]) -> Iterable[tuple[str, ...]]:
    for name, (clean, hurt) in groups.items():
        yield name, *_value_and_interval(clean), *_value_and_interval(hurt)


def _value_and_interval(share: Share) -> tuple[str, str]:
    low, high = share.interval
    return f"{share.value:.1%}", f"{low:.1%} to {high:.1%}"


def _mistake_image(mistake: Mistake) -> str:
    alt = f"{mistake.identity}, labelled {mistake.label}, predicted {mistake.predicted}"
    return html.image(cv2.imencode(".png", mistake.image)[1].tobytes(), "png", alt)


def confusion_figure(evaluation: Evaluation, title: str) -> Figure:
    """Draws the confusion matrix, in percent of the images of each label (row); save it with ``figure.savefig``."""
    names, shares = evaluation.names, evaluation.confusion
    side = 1.8 + 0.62 * len(names)
    figure = Figure(figsize=(max(side, 4.2) + 0.6, max(side, 4.2)), layout="compressed")
    axes = figure.subplots()
    shown = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(shares.shape):
        colour = "white" if shares[row, column] > 0.65 else "black"
        axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    counted = [f"{name} ({n:,})" for name, n in zip(names, evaluation.support, strict=True)]
    axes.set_yticks(range(len(names)), counted, parse_math=False)
    axes.set(xlabel="predicted", ylabel="label (images)")
    figure.suptitle(title, fontsize="medium", parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(
        shown, ax=axes, shrink=0.8, format="{x:.0f}%", label="share of the label's images"
    ).outline.set_visible(False)
    return figure


def corruptions_figure() -> Figure:
    """Draws what each corruption makes of a face: the photograph that Matplotlib ships."""
    frame = photograph()
    view = scaled(View(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), NetworkDetector()(frame)[0]), SIDE)
    shown = {"none": view} | {each.name: each(view, np.random.default_rng(1)) for each in CORRUPTIONS}
    figure = Figure(figsize=(9, 3.6 * -(-len(shown) // 7) / 2), layout="constrained")
    panels = list(figure.subplots(-(-len(shown) // 7), 7, squeeze=False).flat)
    for panel in panels:
        panel.set_axis_off()
    for panel, (name, each) in zip(panels, shown.items(), strict=False):
        panel.imshow(each.cut(0.2, 96), cmap="gray", vmin=0, vmax=255)
        panel.set_title(name, fontsize="small", parse_math=False)
    return figure


def reliability_figure(calibration: Mapping[str, Calibration]) -> Figure:
    """Draws accuracy against predicted probability, a panel for each way of computing probabilities.

    A bar is as wide as its bin; below the panels is the share of the predictions in each bin.
    """
    figure = Figure(figsize=(4.2 * len(calibration), 4.6), layout="constrained")
    panels = figure.subplots(
        2, len(calibration), sharex=True, sharey="row", squeeze=False, gridspec_kw={"height_ratios": [4, 1]}
    )
    for (name, bins), (upper, lower) in zip(calibration.items(), panels.T, strict=True):
        width = 1 / len(bins.count)
        left = np.arange(len(bins.count)) * width
        upper.bar(left, bins.accuracy, width, align="edge", color=BLUE, edgecolor="white")
        upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        upper.set_title(f"{name}\nexpected calibration error {bins.error:.1%}", fontsize="medium", parse_math=False)
        lower.bar(left, bins.count / bins.count.sum(), width, align="edge", color=GREY, edgecolor="white")
        lower.set(xlabel="probability of the predicted class", xlim=(0, 1))
    panels[0, 0].set(ylabel="share right", ylim=(0, 1))
    panels[1, 0].set(ylabel="images")
    for axes in panels.flat:
        axes.yaxis.set_major_formatter("{x:.0%}" if axes in panels[0] else "{x:.1f}")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def groups_figure(groups: Mapping[str, Share]) -> Figure:
    """Draws a bar with its 95% interval for each group, and a line at the share of all groups together."""
    names, shares = list(groups), list(groups.values())
    values = np.array([share.value for share in shares])
    intervals = np.array([share.interval for share in shares])
    figure = Figure(figsize=(7, 0.9 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots()
    errors = np.abs(intervals.T - values)
    axes.barh(names, values, color=BLUE, xerr=errors, error_kw={"ecolor": "black", "capsize": 3})
    axes.axvline(sum(s.right for s in shares) / sum(s.count for s in shares), color=GREY, linestyle="--", linewidth=1)
    axes.set(xlim=(0, 1), xlabel="accuracy (dashed: all images; whiskers: 95% interval)")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure
