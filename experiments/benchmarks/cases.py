"""What is measured: in each :class:`Case` several contenders do the same work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

OURS = "faceflax"
NARROW = "faceflax, bfloat16 products"
PLAIN = "plain Flax"
ONNX = "ONNX Runtime"
TORCH = "PyTorch"
CAPTUM = "Captum"
CAPTUM_EACH = "Captum one by one"
CAPTUM_BATCH = "Captum in one batch"
FER = "fer"
PEERS = (PLAIN, ONNX, TORCH, CAPTUM, CAPTUM_EACH, CAPTUM_BATCH, FER)
"""The contenders that are not faceflax itself, a part or another state of it."""

_CAPTUM = ("torch", "captum")
REQUIRED: dict[str, tuple[str, ...]] = {
    ONNX: ("onnxruntime", "onnx"),
    TORCH: ("torch",),
    CAPTUM: _CAPTUM,
    CAPTUM_EACH: _CAPTUM,
    CAPTUM_BATCH: _CAPTUM,
}
"""The packages of the extra ``benchmark`` that a contender needs."""

ARCHS = ("mini_xception", "sequential_cnn")

GRAPHS = (*ARCHS, "vgg")
"""Networks of which there is an ONNX file; the teacher's forward pass is compared with that alone."""


@dataclass(frozen=True)
class Call:
    """Work that is timed again and again inside a worker process.

    Attributes:
        module: relative to this package; each has a worker process of its own.
        function: called once with ``arguments``, it returns what is timed.
        arguments: JSON values.
        checked: its numbers must be those of the case's first contender.
    """

    module: str
    function: str
    arguments: Mapping[str, Any]
    checked: bool = True


@dataclass(frozen=True)
class Process:
    """A whole Python process.

    Attributes:
        arguments: of the interpreter.
        empty_cache: start with nothing compiled, instead of with what the same process left before.
        threads: how many cores it has, if not as many as the case's others.
    """

    arguments: tuple[str, ...]
    empty_cache: bool = False
    threads: int | None = None


@dataclass(frozen=True)
class Case:
    """Contenders that have their turns one after the other.

    Where the first is faceflax, the others do the same work and are compared with it.

    Attributes:
        row: which of :data:`ROWS` it belongs to.
        name: what is done.
        threads: how many cores each contender has.
        unit: ``ms`` (calls), ``s`` or ``MiB`` (processes: time, peak memory), ``frames`` (calls that return a number).
        rounds: how often every contender has its turn.
        contenders: by label.
    """

    row: str
    name: str
    threads: int
    unit: str
    rounds: int
    contenders: Mapping[str, Call | Process]


@dataclass(frozen=True)
class Setting:
    """What the cases depend on.

    Attributes:
        repeats: rounds of calls; train steps, processes and memory have fewer, since they take longer.
        threads: numbers of threads to measure with, in rising order.
        graphs: each network's ONNX file.
        own_graphs: they hold our weights.
        video: a video with one face for whole frames; the demo's if None.
        files: the folder that :mod:`experiments.benchmarks.files` has made, for the row ``files``.
    """

    repeats: int
    threads: tuple[int, ...]
    graphs: Mapping[str, Path]
    own_graphs: bool = True
    video: Path | None = None
    files: Path = Path("files")


def cases(rows: Sequence[str], setting: Setting) -> list[Case]:
    """Returns the cases of ``rows`` with the contenders that are installed."""
    absent = set(missing())
    return [
        dataclasses.replace(
            case,
            contenders={
                label: contender
                for label, contender in case.contenders.items()
                if not absent.intersection(REQUIRED.get(label, ()))
            },
        )
        for row in rows
        for case in ROWS[row](setting)
    ]


def missing() -> list[str]:
    """Returns the peers' packages that are not installed."""
    packages = dict.fromkeys(package for needed in REQUIRED.values() for package in needed)
    return [package for package in packages if find_spec(package) is None]


def _forward(setting: Setting) -> Iterator[Case]:
    for arch in GRAPHS:
        for threads in setting.threads:
            for batch in (1, 4, 8, 32):
                shape = {"arch": arch, "batch": batch}
                graph = {"file": str(setting.graphs[arch]), "batch": batch, "threads": threads}
                yield Case(
                    "forward",
                    f"{arch} forward, 64x64, batch {batch}",
                    threads,
                    "ms",
                    setting.repeats,
                    {
                        OURS: Call(".ours", "forward", shape),
                        **({PLAIN: Call(".plain", "forward", shape)} if arch in ARCHS else {}),
                        ONNX: Call(".peer_onnx", "forward", graph, checked=setting.own_graphs),
                        **({TORCH: Call(".peer_torch", "forward", shape)} if arch in ARCHS else {}),
                    },
                )


def _has_tiles() -> bool:
    """Whether the processor has AMX, without importing JAX: this process stays small."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _train(setting: Setting) -> Iterator[Case]:
    for arch in ARCHS:
        for threads in setting.threads:
            for batch in (64, 256):
                shape = {"arch": arch, "batch": batch}
                narrow = {NARROW: Call(".ours", "train", shape | {"precision": "bfloat16_products"}, checked=False)}
                # Dropout draws differ between the frameworks, and so do the losses of the network that has it.
                checked = arch == "mini_xception"
                yield Case(
                    "train",
                    f"{arch} train step, 48x48, batch {batch}",
                    threads,
                    "ms",
                    max(setting.repeats // 3, 1),
                    {
                        OURS: Call(".ours", "train", shape),
                        **(narrow if arch == "sequential_cnn" and _has_tiles() else {}),
                        PLAIN: Call(".plain", "train", shape, checked),
                        TORCH: Call(".peer_torch", "train", shape, checked),
                    },
                )


def _guided(setting: Setting) -> Iterator[Case]:
    for threads in setting.threads:
        for name, targets, captum in (
            ("one emotion", [3], {CAPTUM: "guided_batch"}),
            ("seven emotions", list(range(7)), {CAPTUM_EACH: "guided_each", CAPTUM_BATCH: "guided_batch"}),
        ):
            yield Case(
                "guided",
                f"mini_xception guided backprop, 64x64, {name}",
                threads,
                "ms",
                setting.repeats,
                {
                    OURS: Call(".ours", "guided", {"targets": targets}),
                    PLAIN: Call(".plain", "guided", {"targets": targets}),
                }
                | {label: Call(".peer_torch", function, {"targets": targets}) for label, function in captum.items()},
            )


def _attribution(setting: Setting) -> Iterator[Case]:
    from experiments.benchmarks.shared import ATTRIBUTION

    for threads in setting.threads:
        for name in ATTRIBUTION:
            yield Case(
                "attribution",
                f"ResNet-18, 224x224, {name.replace('_', ' ')}",
                threads,
                "ms",
                max(setting.repeats // 3, 1),
                {
                    OURS: Call(".ours", "attribution", {"name": name}),
                    # Captum has another rule for max pooling; the rest of DeepLIFT agrees (docs/interpret/matrix.md).
                    CAPTUM: Call(".peer_torch", "attribution", {"name": name}, checked=name != "deep_lift"),
                },
            )


_ANALYZER = """
import faceflax
from faceflax.media import demo
assert faceflax.FaceAnalyzer(preset="fast")(demo.photograph())
"""
_NETWORK = """
import faceflax, numpy
predict = faceflax.compile(*faceflax.load("mini_xception-fer2013"))
predict(numpy.zeros((1, 64, 64, 1), numpy.float32))
"""
_ONNX = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {session.get_inputs()[0].name: numpy.zeros((1, 1, 64, 64), numpy.float32)})
"""
_TORCH = """
import numpy
from experiments.benchmarks import peer_torch
peer_torch.forward("mini_xception", 1)()
"""


def _first_answers(setting: Setting) -> dict[str, Process]:
    return {
        ONNX: Process(("-c", _ONNX, str(setting.graphs["mini_xception"]))),
        TORCH: Process(("-c", _TORCH)),
    }


def _start(setting: Setting) -> Iterator[Case]:
    def case(name: str, contenders: Mapping[str, Process]) -> Case:
        return Case("start", name, setting.threads[-1], "s", max(setting.repeats // 6, 1), contenders)

    def ours(code: str) -> dict[str, Process]:
        return {OURS: Process(("-c", code)), "an empty cache": Process(("-c", code), empty_cache=True)}

    yield case("process start to the analyzer's first answer", ours(_ANALYZER))
    yield case("process start to one network's first answer", ours(_NETWORK) | _first_answers(setting))
    commands: dict[str, tuple[str, ...]] = {"python": ("-c", "pass"), "import faceflax": ("-c", "import faceflax")}
    for script in sorted((ROOT / "scripts").glob("*.py")):
        commands[f"{script.name} --help"] = (str(script), "--help")
    commands["-m interpret.saliency --help"] = ("-m", "interpret.saliency", "--help")
    yield case("process start to the import and to a command's help", {k: Process(v) for k, v in commands.items()})


def _memory(setting: Setting) -> Iterator[Case]:
    def case(name: str, contenders: Mapping[str, Process]) -> Case:
        return Case("memory", f"{name}, peak memory", setting.threads[-1], "MiB", 1, contenders)

    def ours(code: str) -> dict[str, Process]:
        return {OURS: Process(("-c", code), empty_cache=True)}

    yield case("the analyzer's first answer", ours(_ANALYZER))
    yield case("one network's first answer", ours(_NETWORK) | _first_answers(setting))
    for arch in ARCHS:
        modules = {OURS: "ours", PLAIN: "plain", TORCH: "peer_torch"}
        code = "from experiments.benchmarks import {0}; {0}.train_and_evaluate({1!r})"
        yield case(
            f"{arch} training on 28,709 images",
            {k: Process(("-c", code.format(module, arch)), empty_cache=True) for k, module in modules.items()},
        )


def _live(setting: Setting) -> Iterator[Case]:
    video = {"video": setting.video and str(setting.video)}

    def fer(function: str) -> dict[str, Call]:
        return {FER: Call(".peer_fer", function, video, checked=False)} if find_spec("fer") else {}

    for threads in setting.threads:
        yield Case(
            "live",
            "whole frame of a video, one face",
            threads,
            "ms",
            setting.repeats,
            {
                OURS: Call(".ours", "live", video),
                **fer("live"),
                "--explain": Call(".ours", "explained", video, checked=False),
                "finding": Call(".ours", "find", video, checked=False),
                "networks": Call(".ours", "read", video, checked=False),
                "drawing": Call(".ours", "draw", video, checked=False),
                "single images": Call(".ours", "analyze", video, checked=False),
            },
        )
        yield Case(
            "live",
            "the same, frames overlapping as in the live loop",
            threads,
            "ms",
            setting.repeats,
            {
                OURS: Call(".ours", "overlapping", video),
                **fer("live"),
                "--explain": Call(".ours", "overlapping_explained", video, checked=False),
            },
        )
    yield Case(
        "live",
        "frames of the video with a face found",
        setting.threads[-1],
        "frames",
        1,
        {
            OURS: Call(".ours", "found", video),
            "Haar, every frame": Call(".ours", "found_by_haar", video, checked=False),
            **fer("found"),
        },
    )


_ANALYZE = """
import sys, tempfile
from faceflax.cli.main import main
if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.argv[1:] = ["analyze", sys.argv[1], "--csv", f"{folder}/faces.csv", "--workers", sys.argv[2]]
        main()
"""


def _files(setting: Setting) -> Iterator[Case]:
    photographs, video = {"folder": str(setting.files / "few")}, {"file": str(setting.files / "video.mp4")}

    def case(name: str, threads: int, unit: str, contenders: Mapping[str, Call | Process]) -> Case:
        return Case("files", name, threads, unit, max(setting.repeats // 6, 1), contenders)

    for threads in setting.threads:
        yield case(
            "eight photographs of 12 megapixels",
            threads,
            "ms",
            {
                OURS: Call(".files", "photographs", photographs),
                "cv2.imread, FaceAnalyzer": Call(".files", "photographs_whole", photographs, checked=False),
            },
        )
        yield case(
            "a video of 640x360, 4 s",
            threads,
            "ms",
            {
                OURS: Call(".files", "video", video),
                "cv2.VideoCapture, VideoAnalyzer": Call(".files", "video_in_turn", video),
            },
        )
    many = str(setting.files / "many")
    yield case(
        "faceflax analyze --workers 2, 240 photographs of 12 megapixels",
        setting.threads[-1],
        "s",
        {
            OURS: Process(("-c", _ANALYZE, many, "2")),
            "one worker": Process(("-c", _ANALYZE, many, "1")),
            "one worker, one core": Process(("-c", _ANALYZE, many, "1"), threads=1),
        },
    )


ROWS: dict[str, Callable[[Setting], Iterator[Case]]] = {
    "forward": _forward,
    "train": _train,
    "guided": _guided,
    "start": _start,
    "memory": _memory,
    "live": _live,
    "files": _files,
    "attribution": _attribution,
}
"""The groups of cases that ``--rows`` takes."""
