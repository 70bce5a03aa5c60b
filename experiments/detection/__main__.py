"""How well faces are found in the validation photographs, beside Haar and YuNet: one page and its numbers.

Commands::

    faceflax prepare-data faces --source faces.zip
    python -m experiments.detection --yunet yunet_2026may.onnx

The photographs are those of the dataset's validation split, at most 640 pixels a side, which no detector was trained on
except perhaps YuNet, whose training set (WIDER FACE) is where most of them come from. A face counts from 20 pixels on;
a box is right if it overlaps a face by 0.35 or more (intersection over union), and each face may have one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceflax import files
from faceflax.cli import run
from faceflax.errors import FaceflaxError

if TYPE_CHECKING:
    from experiments.detection.measure import Detect, Results

LEAST_SCORE = 0.02
"""Boxes of lower scores are not looked at."""


@dataclass(frozen=True)
class Options:
    """Measure how many faces detectors find in the validation photographs, and how many boxes are none."""

    dataset: str = "faces"
    """Dataset of boxes: faces or wider."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    weights: str = "face_detector-faces"
    """The detector's weights: a shipped name or a .safetensors file."""
    yunet: Path | None = None
    """YuNet's model file, to compare with."""
    output: Path = Path("out/detection")
    """Folder for report.html, results.json and the contact sheets."""
    limit: int | None = None
    """So many pictures of each kind only."""
    rounds: int = 7
    """Rounds of timing; 0 leaves it out."""


def main(options: Options) -> None:
    """Measures, prints the table and writes the page."""
    if options.limit is not None and options.limit < 1:
        raise FaceflaxError("limit", options.limit, "is not a number of pictures", "give 1 or more")
    folder = files.writable_folder("output", options.output)

    from experiments.detection import pictures
    from experiments.detection.conditions import conditions
    from experiments.detection.measure import measure, seconds
    from faceflax import data
    from faceflax.opencv import cv2

    found = data.load_scenes(options.dataset, "validation", data_dir=options.data_dir)
    validation = {name: scenes[: options.limit] for name, scenes in sorted(found.items())}
    changed = list(conditions(validation["portrait"])) if "portrait" in validation else []
    detectors = _detectors(options)
    results: dict[str, Results] = {}
    sheets: dict[str, dict[str, Any]] = {}
    like: dict[str, float] = {}  # Haar's false boxes, which is first
    for name, (detect, min_score, _) in detectors.items():
        results[name], matches = measure(name, detect, min_score, validation, changed, like)
        like = like or {group: row["false boxes"] for group, row in results[name].groups.items()}
        sheets[name] = {
            group: pictures.missed(validation[group], each.matches, min_score)
            for group, each in matches.items()
            if group != "noface"
        }
    times = {}
    if options.rounds:
        frames = [_frame(scene.image) for scene in validation["wider"][:12]]
        times = seconds({name: plain for name, (_, _, plain) in detectors.items()}, frames, options.rounds)
    own = detectors["faceflax"][2]
    for group, scenes in validation.items():
        cv2.imwrite(str(folder / f"{group}.png"), pictures.sheet(scenes[:60], own))
    numbers = {name: asdict(each) for name, each in results.items()}
    files.write(folder / "results.json", json.dumps({"detectors": numbers, "seconds": times}, indent=2) + "\n")
    files.write(folder / "report.html", _page(options, results, times, sheets))
    print("\n".join(_lines(results, times)))
    print(f"\n{folder / 'report.html'}")


def _detectors(options: Options) -> dict[str, tuple[Detect, float, Detect]]:
    """Each detector with all its scores, its own threshold, and as it is used."""
    from faceflax.faces import HaarDetector, NetworkDetector, YuNetDetector
    from faceflax.faces.analyzer import PRESETS

    ways: dict[str, tuple[Detect, float, Detect]] = {}
    haar = HaarDetector(min_size=20)
    ways["haar"] = HaarDetector(min_score=0, min_size=20, min_confidence=-1e9), haar.min_score, haar
    for name, preset in (("faceflax", PRESETS["fast"]), ("faceflax, accurate", PRESETS["accurate"])):
        make = partial(NetworkDetector, options.weights, detail=preset.detail, mirrored=preset.mirrored)
        used, all_scores = make(), make(min_score=LEAST_SCORE)
        ways[name] = all_scores, used.min_score, used
    if options.yunet is not None:
        yunet = YuNetDetector(options.yunet)
        ways["yunet"] = YuNetDetector(options.yunet, min_score=LEAST_SCORE), yunet.min_score, yunet
    return ways


def _frame(image: Any) -> Any:
    """A picture as a frame of 640x360 pixels."""
    from faceflax.opencv import cv2

    return cv2.resize(image, (640, 360), interpolation=cv2.INTER_AREA)


def _lines(results: Mapping[str, Results], times: Mapping[str, Sequence[float]]) -> list[str]:
    head, rows = _main_table(results, times)
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _main_table(
    results: Mapping[str, Results], times: Mapping[str, Sequence[float]]
) -> tuple[list[str], list[list[str]]]:
    import numpy as np

    head = ["", *results]
    rows = []
    for group, measured in results["faceflax"].groups.items():
        for key in measured:
            if key == "faces":
                continue
            cells = [each.groups[group].get(key, np.nan) for each in results.values()]
            if not np.isnan(cells).all():
                percent = "recall" in key
                shown = ["-" if np.isnan(v) else f"{v:.1%}" if percent else f"{v:.3f}" for v in cells]
                rows.append([f"{group}: {key}", *shown])
    rows.append(["noface: pictures with a box", *(f"{each.alarms:.1%}" for each in results.values())])
    if times:
        rows.append(["640x360, milliseconds", *(f"{1e3 * float(np.median(times[name])):.2f}" for name in results)])
        own = np.array(times["faceflax"])
        ratios = [float(np.median(own / np.array(times[name]))) for name in results]
        rows.append(["640x360, faceflax's share of the time", *(f"{ratio:.3f}" for ratio in ratios)])
    return head, rows


def _page(
    options: Options,
    results: Mapping[str, Results],
    times: Mapping[str, Sequence[float]],
    sheets: Mapping[str, Mapping[str, Any]],
) -> str:
    import numpy as np
    from matplotlib.figure import Figure

    from experiments.detection.measure import ALLOWED
    from faceflax import html
    from faceflax.opencv import cv2

    faces = next(iter(results.values())).groups
    counted = ", ".join(f"{row['faces']:.0f} of {group}" for group, row in faces.items())
    body = html.render(
        "<p>{{ text }}</p>",
        text=f"The validation photographs of {options.dataset}. Faces of 20 pixels and more: {counted}. Recall at n is "
        "that where n false boxes an image are allowed on pictures of this kind, or as many as Haar has at its own "
        "threshold; recall and false boxes alone are at each detector's own threshold. The preset accurate searches "
        "1.4 times finer.",
    )
    body += html.table(*_main_table(results, times))
    body += html.render("<h2>{{ title }}</h2>", title="By condition")
    body += html.render(
        "<p>{{ text }}</p>",
        text="At the scores with 0, 0.1 and 1 false boxes an image in all photographs of people and pictures without "
        "a face. Size is of the photographs' faces; the other conditions are of the portraits, tilted both ways, "
        "covered from the chin up, or darkened with the sensor's noise added.",
    )
    for kind in ("size", *next(iter(results.values())).conditions):
        figure = Figure(figsize=(10, 2.8), layout="constrained")
        for axes, allowed, column in zip(figure.subplots(1, len(ALLOWED), sharey=True), ALLOWED, range(3), strict=True):
            for name, each in results.items():
                values = each.sizes if kind == "size" else each.conditions[kind]
                axes.plot(list(values), [value[column] for value in values.values()], marker="o", label=name)
            axes.set(title=f"{allowed:g} false boxes an image", ylim=(-0.03, 1.03), xlabel=kind)
            axes.tick_params(axis="x", labelsize=7)
            axes.grid(alpha=0.3)
        figure.axes[0].set_ylabel("recall")
        figure.axes[0].legend(fontsize=8)
        body += html.figure(figure, f"Recall by {kind} of each detector")
        shares = {n: each.sizes if kind == "size" else each.conditions[kind] for n, each in results.items()}
        names = list(next(iter(shares.values())))
        rows = [
            [f"{name} at {allowed:g}", *("-" if np.isnan(v[key][i]) else f"{v[key][i]:.1%}" for key in names)]
            for name, v in shares.items()
            for i, allowed in enumerate(ALLOWED)
        ]
        body += html.table([kind, *names], rows)
    for name, groups in sheets.items():
        for group, image in groups.items():
            body += html.render("<h2>{{ title }}</h2>", title=f"{group}: the largest faces that {name} misses")
            if image is None:
                body += html.render("<p>{{ text }}</p>", text="None.")
            else:
                encoded = cv2.imencode(".jpg", image)[1].tobytes()
                body += html.image(encoded, "jpeg", f"Faces of {group} that {name} misses, the largest first")
    return html.page("Faces found", str(body))


if __name__ == "__main__":
    run(main, Options)
