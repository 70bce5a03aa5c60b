"""Checks what a user gets: ``python tests/packaging/check_wheel.py dist``, which ``make wheel`` runs after building.

The wheel in ``dist`` must hold what it should and nothing else. Then it is installed, without extras, into an empty
environment, and everything is run as a user would in an empty folder, with an empty home and without a compiler.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent  # uv and mypy are of the environment that runs this file

COMMANDS = (
    "live",
    "analyze",
    "app",
    "train",
    "evaluate",
    "prepare-data",
    "saliency",
    "explain-benchmark",
    "export",
    "convert-keras",
    "benchmark",
    "demo",
    "info",
)
NEED_TRAIN = (
    ("train", "--arch", "mini_xception", "--dataset", "synthetic"),
    ("evaluate", "--weights", "mini_xception-fer2013", "--dataset", "synthetic"),
    ("prepare-data", "synthetic"),
    ("export", "mini_xception-fer2013", "mini_xception-mine", "--output-dir", "mine"),
    ("convert-keras", "model.hdf5", "model.safetensors"),
)
PHOTOGRAPH = """
import shutil
from matplotlib import cbook
shutil.copy(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False), "people.jpg")
"""
RIGHT = """
import faceflax
from interpret import guided_backprop
labels: list[str] = [face.emotion for face in faceflax.FaceAnalyzer()(__import__("cv2").imread("people.jpg"))]
"""
WRONG = """
import faceflax
from interpret import Neuron
analyzer: int = faceflax.FaceAnalyzer()
neuron: int = Neuron("last_conv", 0, 0, 0)
"""


class Failure(Exception):
    """A step did not do what it should; the message says what."""


def expect(condition: object, message: str) -> None:
    if not condition:
        raise Failure(message)


def call(command: Sequence[str], folder: Path, environment: Mapping[str, str], status: int = 0) -> tuple[str, str]:
    """Runs a command and returns what it printed to stdout and stderr."""
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900
    )
    if done.returncode != status:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
        raise Failure(f"exit status {done.returncode}, expected {status}\n{tail}")
    return done.stdout, done.stderr


def check_contents(wheel: Path) -> None:
    """The wheel has what the package needs, and nothing that belongs to a clone."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    outside = {name.partition("/")[0] for name in names} - {"faceflax", "interpret"}
    expect(all(name.endswith(".dist-info") for name in outside), f"these do not belong into it: {sorted(outside)}")
    for folder in ("faceflax", "interpret"):
        ours = {
            file.relative_to(ROOT).as_posix()
            for file in (ROOT / folder).rglob("*")
            if file.is_file() and file.suffix in (".py", ".typed", ".cc", ".h", ".json", ".md", ".safetensors")
        }
        missing = {name for name in ours - names if name != "interpret/README.md"}
        expect(not missing, f"these are missing: {sorted(missing)}")
    expect({"faceflax/py.typed", "interpret/py.typed"} <= names, "py.typed is missing")
    expect(any(re.search(r"\.dist-info/licenses/LICENSE$", name) for name in names), "the licence is missing")
    expect(any(name.startswith("faceflax/native/") and name.endswith(".cc") for name in names), "no kernel sources")
    if not wheel.name.endswith("-any.whl"):
        expect(kernels(wheel), "a wheel for one platform has no kernel library")
    for line in ("Requires-Python: >=3.11", "License-Expression: Apache-2.0", "Classifier: Typing :: Typed"):
        expect(line in metadata, f"its metadata lacks {line!r}")
    core = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    for package in ("tensorflow", "scikit-learn", "h5py", "torch", "pytest"):
        expect(not any(package in line for line in core), f"{package} is among the core dependencies")


def kernels(wheel: Path) -> bool:
    """Whether the wheel brings the kernels compiled."""
    with zipfile.ZipFile(wheel) as archive:
        return any(re.match(r"faceflax/native/.*\.(so|dylib|dll)$", name) for name in archive.namelist())


def install(wheel: Path, environment: Path) -> None:
    """Makes an empty environment and installs the wheel with the locked versions of what it depends on."""
    uv = str(TOOLS / "uv")
    call([uv, "venv", "--quiet", "--python", sys.executable, str(environment)], ROOT, os.environ)
    pip = [uv, "pip", "install", "--quiet", "--python", str(environment)]
    call([*pip, "--constraint", "requirements.lock", str(wheel)], ROOT, os.environ)
    python = str(environment / "bin/python")
    if subprocess.run([python, "-c", "import cv2"], capture_output=True).returncode:  # a server without libGL
        call([uv, "pip", "uninstall", "--quiet", "--python", python, "opencv-python"], ROOT, os.environ)
        call([*pip, "--no-deps", "--requirement", "requirements-headless.lock"], ROOT, os.environ)


class User:
    """Somebody who has installed the wheel and has nothing else: an empty folder, an empty home, no compiler."""

    def __init__(self, environment: Path, folder: Path, home: Path) -> None:
        self.environment = environment
        self.folder = folder
        self.bin = environment / "bin"
        self.variables = {"PATH": str(self.bin), "HOME": str(home), "LANG": "C.UTF-8", "PYTHONNOUSERSITE": "1"}

    def faceflax(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        return call([str(self.bin / "faceflax"), *arguments], self.folder, self.variables, status)

    def python(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        return call([str(self.bin / "python"), *arguments], self.folder, self.variables, status)

    def made(self, *names: str) -> None:
        for name in names:
            file = self.folder / name
            expect(file.is_file() and file.stat().st_size, f"{name} was not written")

    def imported_from_the_environment(self) -> None:
        files = self.python("-c", "import faceflax, interpret; print(faceflax.__file__, interpret.__file__)")[0].split()
        expect(all(Path(file).is_relative_to(self.environment) for file in files), f"imported are {files}")

    def engine(self) -> None:
        said = self.python("-c", "from faceflax import native; print(native.available(), native.status())")[0]
        expect(said.startswith("True"), f"without a compiler the wheel's kernels are not used: {said}")

    def help(self) -> None:
        said, _ = self.faceflax("--help")
        missing = [name for name in COMMANDS if not re.search(rf"^\s+{name}\b", said, re.MULTILINE)]
        expect(not missing, f"it does not list {missing}")
        again, _ = self.python("-m", "faceflax", "--help")
        expect(again.splitlines()[1:] == said.splitlines()[1:], "python -m faceflax --help says something else")

    def helps(self) -> None:
        for name in COMMANDS:
            said, _ = self.faceflax(name, "--help")
            expect("usage:" in said, f"{name} --help has no usage")

    def info(self) -> None:
        version, _ = self.python("-c", "import faceflax; print(faceflax.__version__)")
        said, _ = self.faceflax("info")
        for word in (version.strip(), "jax", "mini_xception-fer2013"):
            expect(word in said, f"it does not mention {word!r}:\n{said}")

    def demo(self) -> None:
        self.faceflax("demo")
        self.made("out/demo.png", "out/demo.mp4")

    def live(self) -> None:
        options = ["--source", "demo", "--headless", "--explain", "--max-frames", "20"]
        self.faceflax("live", *options, "--output", "live.mp4", "--csv", "live.csv", "--jsonl", "live.jsonl")
        self.made("live.mp4", "live.csv", "live.jsonl")

    def analyze(self) -> None:
        self.faceflax("analyze", "people.jpg", "out/demo.mp4", "--csv", "faces.csv", "--report", "faces.html")
        self.made("faces.html")
        with (self.folder / "faces.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        found = {value for row in rows for value in row.values()}
        expect({"people.jpg", "demo.mp4"} <= {Path(value).name for value in found if value}, f"{len(rows)} rows only")

    def saliency(self) -> None:
        self.faceflax("saliency", "--layer", "last_conv", "--output", "saliency.png")
        self.faceflax("saliency", "--images", "people.jpg", "--method", "grad_cam", "--output", "maps.npz")
        self.made("saliency.png", "maps.npz")

    def benchmark(self) -> None:
        said, _ = self.faceflax("benchmark", "--seconds", "0.02", "--json", "speed.json")
        expect("mini_xception" in said, f"it has no row:\n{said}")
        self.made("speed.json")

    def needs_app(self) -> None:
        _, said = self.faceflax("app", status=2)
        expect("pip install 'faceflax[app]'" in said and len(said.splitlines()) == 1, f"it does not say so: {said}")

    def needs_train(self, arguments: Sequence[str]) -> None:
        (self.folder / "model.hdf5").touch()
        _, said = self.faceflax(*arguments, status=2)
        expect(len(said.splitlines()) == 1, f"it says more than a line:\n{said}")
        expect("pip install 'faceflax[train]'" in said, f"it does not say what to install: {said}")

    def readme(self) -> None:
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        program = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
        expect(program, "it has no Python lines")
        expect(self.python("-c", program)[0].strip(), "they print nothing")

    def types(self) -> None:
        mypy = [str(TOOLS / "mypy"), "--strict", "--config-file=", "--python-executable", str(self.bin / "python")]
        (self.folder / "right.py").write_text(RIGHT)
        (self.folder / "wrong.py").write_text(WRONG)
        outside = {**os.environ, "MYPY_CACHE_DIR": str(self.folder / "mypy")}
        call([*mypy, "right.py"], self.folder, outside)
        said, _ = call([*mypy, "wrong.py"], self.folder, outside, status=1)
        for line in (4, 5):
            expect(f"wrong.py:{line}: error: Incompatible types in assignment" in said, f"mypy sees no types:\n{said}")

    def interpretml(self) -> None:
        (place,) = self.environment.glob("lib/python*/site-packages/interpret/__init__.py")
        place.write_text('"""Another package of this name."""\n')
        _, said = self.faceflax("saliency", "--layer", "last_conv", status=2)
        expect("InterpretML" in said and len(said.splitlines()) == 1, f"it does not say what happened:\n{said}")


def main() -> None:
    (wheel,) = Path(sys.argv[1]).resolve().glob("*.whl")
    failures = []

    def step(name: str, work: Callable[[], object]) -> bool:
        began = time.perf_counter()
        try:
            work()
        except (Failure, OSError, ValueError, subprocess.TimeoutExpired) as error:
            failures.append(name)
            print(f"FAILED  {name}: {error}", flush=True)
            return False
        print(f"ok      {name} ({time.perf_counter() - began:.1f} s)", flush=True)
        return True

    step(f"contents of {wheel.name}", lambda: check_contents(wheel))
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name).resolve()
        environment, folder, home = scratch / "environment", scratch / "folder", scratch / "home"
        folder.mkdir()
        home.mkdir()
        if step("installation into an empty environment", lambda: install(wheel, environment)):
            user = User(environment, folder, home)
            step("a photograph", lambda: user.python("-c", PHOTOGRAPH))
            step("import from the environment", user.imported_from_the_environment)
            if kernels(wheel):
                step("kernels without a compiler", user.engine)
            step("faceflax --help, python -m faceflax", user.help)
            step("faceflax COMMAND --help", user.helps)
            step("faceflax info", user.info)
            step("faceflax demo", user.demo)
            step("faceflax live", user.live)
            step("faceflax analyze", user.analyze)
            step("faceflax saliency", user.saliency)
            step("faceflax benchmark", user.benchmark)
            step("faceflax app without its extra", user.needs_app)
            for arguments in NEED_TRAIN:
                step(f"faceflax {arguments[0]} without its extra", lambda words=arguments: user.needs_train(words))
            step("the README's Python lines", user.readme)
            step("types, by mypy", user.types)
            step("interpret replaced by another package", user.interpretml)
    if failures:
        sys.exit(f"{len(failures)} failed: {', '.join(failures)}")


if __name__ == "__main__":
    main()
