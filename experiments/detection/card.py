"""Writes the model card of a shipped detector from what ``python -m experiments.detection`` measured.

Command: ``python -m experiments.detection.card out/detection/results.json``
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from faceflax import files
from faceflax.cli import run
from faceflax.errors import FaceflaxError


@dataclass(frozen=True)
class Options:
    """Write the model card beside shipped weights."""

    results: Annotated[Path, tyro.conf.Positional]
    """results.json of experiments.detection."""
    name: str = "face_detector-faces"
    """Shipped weights."""


def main(options: Options) -> None:
    """Writes the card and says where."""
    import faceflax

    try:
        results = json.loads(options.results.read_text())["detectors"]
        own = results["faceflax"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "make it with python -m experiments.detection"
        raise FaceflaxError("results", options.results, f"{{}} holds no measurement ({error})", remedy) from None
    info = faceflax.weights_info(options.name)
    file = Path(faceflax.__file__).parent / "pretrained" / "weights" / f"{options.name}.md"
    files.write(file, "\n".join(_lines(info, own, results)) + "\n")
    print(file)


def _lines(info: Any, own: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[str]:
    groups = own["groups"]
    counted = ", ".join(f"{groups[name]['faces']:,.0f} of {name}" for name in groups)
    yield f"# {info.name}"
    yield ""
    yield (
        "Where faces are in a photograph: boxes, scores and five landmarks (eyes, nose, corners of the mouth). A "
        "single-shot network of separable convolutions, 155,405 parameters, colour images, float16."
    )
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield (
        "| fitted to | five sources: photographs of people (a part of WIDER FACE, Yang et al., 2016), people with "
        "masks, portraits and close faces with landmarks, and pictures without a face; 11,769 pictures; research use |"
    )
    yield (
        "| distilled from | OpenCV's YuNet (Wu, Peng and Yu, 2023; MIT License): what it sees in upright crops of "
        "photographs of people; its weights are no part of these |"
    )
    yield f"| chosen on | the validation split, 1,107 pictures ({counted} faces of 20 pixels and more): the epoch |"
    yield "| measured on | the same split: the dataset has no test split, so expect somewhat less elsewhere |"
    yield "| boxes | as WIDER FACE's: upright, from the forehead to the chin and from ear to ear |"
    yield (
        "| score | share of the boxes of such a score and size that are faces, fitted to training photographs, where "
        "pictures without a face count more than they do there |"
    )
    yield "| made by | `experiments/recipes/face_detector_faces.py` |"
    yield ""
    yield (
        f"Mean over the kinds of pictures of the recall at one false box in ten images: "
        f"{info.accuracy['validation']:.2%}."
    )
    yield ""
    yield "Reproduce, with faces prepared: `python -m experiments.detection --yunet yunet_2026may.onnx`"
    yield ""
    yield f"| validation | {' | '.join(results)} |"
    yield f"|---|{'---|' * len(results)}"
    for group in groups:
        for key in ("recall at 0", "recall at 0.1", "recall at 1", "recall at Haar's", "landmark error"):
            cells = [results[name]["groups"][group].get(key, float("nan")) for name in results]
            if all(value != value for value in cells):  # NaN
                continue
            shown = ["-" if v != v else f"{v:.1%}" if "recall" in key else f"{v:.3f}" for v in cells]
            unit = " of the eyes' distance" if key == "landmark error" else " false boxes an image"
            yield f"| {group}: {key}{unit} | {' | '.join(shown)} |"
    alarms = [f"{each['alarms']:.1%}" for each in results.values()]
    yield f"| noface: pictures with a box | {' | '.join(alarms)} |"
    yield ""
    yield (
        "YuNet was trained on all of WIDER FACE, perhaps on these photographs too, and it has taught this network. It "
        "and Haar are as OpenCV has them."
    )
    yield ""
    for kind, values in {"size": own["sizes"], **own["conditions"]}.items():
        yield f"| recall by {kind} | {' | '.join(values)} |"
        yield f"|---|{'---|' * len(values)}"
        for column, allowed in enumerate((0, 0.1, 1)):
            cells = [f"{value[column]:.1%}" for value in values.values()]
            yield f"| at {allowed:g} false boxes an image | {' | '.join(cells)} |"
        yield ""
    yield (
        "Not for: deciding anything about a person. A detector that misses some groups of people more than others "
        "passes that on to all that follows; this was not measured, as the dataset does not say who is in it."
    )


if __name__ == "__main__":
    run(main, Options)
