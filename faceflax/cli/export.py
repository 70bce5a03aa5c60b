"""Writes weights for other runtimes, or gives trained ones a name to ship under.

``faceflax export mini_xception-fer2013 --format onnx`` writes a file that ONNX Runtime runs. ``faceflax export
runs/RUN/weights.safetensors NAME`` fits the temperature on the validation split, and the probability from which on a
label is sure; measures validation and test accuracy; and writes the pair ``NAME.safetensors`` and ``NAME.json`` that
``faceflax.load(NAME)`` reads. Of a network that finds faces, the recall on the validation split takes the place of the
accuracies.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from faceflax.cli.reporting import ReportOptions, counted
from faceflax.errors import FaceflaxError, renaming
from faceflax.files import writable_file, write

if TYPE_CHECKING:
    import numpy as np

    from faceflax.pretrained import WeightsInfo

ENOUGH = {True: 0.8, False: 0.95}
"""The share of sure labels that is right, of more than two classes and of two."""
CALIBRATION = 512
"""Faces of the validation split on which the ranges of int8 are measured."""

_ROUNDS, _CALLS = 30, 20


@dataclass(frozen=True)
class Options:
    """Write weights for other runtimes (--format), or measure trained weights and write them under a NAME.

    ONNX is for ONNX Runtime and what reads its files, StableHLO for jax.export and what compiles it, TFLite for
    phones, safetensors for those who build the network themselves. docs/export.md says how to run each.
    """

    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME|FILE")]
    """Shipped weights, or a .safetensors file that a training run wrote."""
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NEW_NAME]", help_behavior_hint="")] = None
    """Measure the weights on their dataset and write them under this name, ARCH-DATASET, to load them by."""
    format: Literal["onnx", "stablehlo", "tflite", "safetensors"] | None = None
    """Without a new name: what to write; if not given, what --output ends in says so."""
    output: Path | None = None
    """The file; the weights' name in the current folder if not given."""
    normalize: bool = False
    """The network takes pixels as they are, uint8 from 0 to 255; otherwise float32 in [-1, 1]."""
    int8: bool = False
    """ONNX in 8 bits, with ranges from 512 faces of the validation split, and its accuracy and speed beside float32's;
    needs the extra "train" and the weights' dataset, prepared."""
    detector: Annotated[str | None, tyro.conf.arg(metavar="NAME|FILE")] = None
    """With a new name: fit on the validation faces as this detector finds them (faceflax, haar or a YuNet file), as
    they are and corrupted, so that probabilities are right for pictures such as people have; on the dataset's images if
    not given."""
    half: bool = False
    """Round the parameters of safetensors to float16, for half the file, before they are measured."""
    output_dir: Path = Path("faceflax/pretrained/weights")
    """Folder of the named weights."""
    data_dir: Path | None = None
    """Where prepared datasets are; $TFDS_DATA_DIR or ~/tensorflow_datasets if not given."""
    said: Annotated[ReportOptions, tyro.conf.arg(name="")] = field(default_factory=ReportOptions)


def main(options: Options) -> None:
    """Does one of the two."""
    began = time.monotonic()
    if options.name is None:
        lines, numbers, written = _write(options)
    else:
        for name in ("format", "output", "normalize", "int8"):
            if getattr(options, name):
                remedy = "leave one of them out"
                raise FaceflaxError(name, None, f"is for a file of another runtime, not for {options.name!r}", remedy)
        lines, numbers, written = _name(options, options.name)
    seconds = time.monotonic() - began
    size = sum(file.stat().st_size for file in written)
    lines = [*lines, f"{counted(len(written), 'file')}, {size / 1000:,.0f} kB; {seconds:.1f} s"]
    options.said.say("\n".join(lines), numbers | {"bytes": size, "seconds": round(seconds, 3)}, written)


Done = tuple[Sequence[str], dict[str, Any], Sequence[Path]]
"""What was done in words and in numbers, and the files."""


def _write(options: Options) -> Done:
    from faceflax import exporting, pretrained

    if options.detector is not None:
        raise FaceflaxError("detector", options.detector, "is for a new name", "give one, or leave it out")
    if options.format is None and options.output is None:
        remedy = "give onnx, stablehlo, tflite or safetensors, or a new name for trained weights"
        raise FaceflaxError("format", None, "is not given", remedy)
    info = pretrained.weights_info(options.weights)
    output = options.output or Path(f"{info.name}{exporting.FORMATS[options.format or 'onnx']}")
    if options.int8 and output.suffix != ".onnx":
        raise FaceflaxError("int8", None, "is for ONNX", "add --format onnx, or leave it out")
    if options.int8 and info.arch == "face_detector":
        problem = "is for networks that label faces; {} finds them"
        raise FaceflaxError("int8", options.weights, problem, "leave it out")
    with renaming(file="output"):
        if options.int8:
            return _quantised(options, info, writable_file("output", output))
        written = exporting.export(
            options.weights, output, format=options.format, normalize=options.normalize, half=options.half
        )
    return [], {"weights": options.weights}, written


def _quantised(options: Options, info: WeightsInfo, file: Path) -> Done:
    """Writes the network in int8 and says what that costs and gains."""
    if options.half:
        raise FaceflaxError("half", None, "is for safetensors, not for int8", "leave it out")

    import numpy as np
    import onnxruntime

    from faceflax import data, exporting
    from faceflax.evaluation import Share
    from faceflax.preprocessing import normalize

    model = exporting.onnx_model(options.weights, normalize=options.normalize)

    def faces(split: str) -> tuple[np.ndarray, np.ndarray]:
        examples = data.load(info.dataset, split, image_size=info.image_size, data_dir=options.data_dir)
        images = examples.images if options.normalize else normalize(examples.images)
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), examples.labels

    small = exporting.quantise(model, faces("validation")[0][:CALIBRATION])
    content = {"float32": model.SerializeToString(deterministic=True), "int8": small.SerializeToString()}
    alone = onnxruntime.SessionOptions()
    alone.intra_op_num_threads = 1  # a face is too little to share among threads
    sessions = {
        precision: onnxruntime.InferenceSession(each, alone, providers=["CPUExecutionProvider"])
        for precision, each in content.items()
    }
    images, labels = faces("test")
    times = _times(sessions, images[:1])
    lines, numbers = [], {}
    for precision, session in sessions.items():
        starts = range(0, len(images), 64)
        answers = [session.run(["logits"], {"images": images[i : i + 64]})[0].argmax(1) for i in starts]
        right = Share.of(np.concatenate(answers) == labels)
        lines.append(
            f"{precision:<8} {len(content[precision]) / 1000:>6,.0f} kB   {info.dataset} test {right}   "
            f"one face {1000 * times[precision]:.2f} ms"
        )
        numbers[precision] = {
            "bytes": len(content[precision]),
            "test_accuracy": right.value,
            "face_seconds": times[precision],
        }
    write(file, content["int8"])
    return lines, {"weights": options.weights} | numbers, [file]


def _times(sessions: dict[str, Any], face: np.ndarray) -> dict[str, float]:
    """Seconds a face in ONNX Runtime: the median of rounds in which the sessions take turns."""
    import statistics

    rounds: dict[str, list[float]] = {precision: [] for precision in sessions}
    for _ in range(_ROUNDS):
        for precision, session in sessions.items():
            began = time.perf_counter()
            for _ in range(_CALLS):
                session.run(["logits"], {"images": face})
            rounds[precision].append((time.perf_counter() - began) / _CALLS)
    return {precision: statistics.median(each) for precision, each in rounds.items()}


def _name(options: Options, name: str) -> Done:
    """Fits the temperature, measures, saves."""
    import jax
    import jax.numpy as jnp

    from faceflax import data, models, pretrained
    from faceflax.evaluation.detector import mean_recall

    file = writable_file("output_dir", options.output_dir / f"{name}.safetensors")
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
    lines = [f"{file}  sha256 {info.sha256}"]
    lines.append(
        "  ".join([*(f"{split} {value:.2%}" for split, value in accuracy.items()), f"temperature {temperature:.3f}"])
    )
    if sure:
        said = "sure from {confidence:.1%} on: {coverage:.1%} of the labels, {accuracy:.1%} of them right"
        lines.append(said.format(**sure))
    numbers = {
        "weights": name,
        "sha256": info.sha256,
        "accuracy": accuracy,
        "temperature": temperature,
        "sure": sure,
    }
    return lines, numbers, [file, file.with_suffix(".json")]


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
