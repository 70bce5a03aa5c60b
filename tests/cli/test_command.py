"""What every command shares: options, metavars, errors of one line."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from faceflax import errors
from faceflax.cli import command, metavars
from faceflax.cli.metavars import Weights
from faceflax.errors import FaceflaxError, MissingExtraError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Augmentation:
    rotation: float = 10.0
    zoom_range: float = 0.1


@dataclass(frozen=True)
class Options:
    """Do something."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT.csv")] = Path("a.csv")
    max_frames: int | None = None
    weights: Weights = "mini"
    mode: Literal["a", "b"] | None = None
    names: tuple[str, ...] = ("x",)
    own: Annotated[int, tyro.conf.arg(name="other")] = 1
    detection: Annotated[Augmentation, tyro.conf.arg(name="")] = field(default_factory=Augmentation)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self):
        if self.max_frames is not None and self.max_frames < 1:
            raise FaceflaxError("max_frames", self.max_frames, "is too small", "give 1 or more")


def test_fields_are_spelled_as_the_command_line_has_them():
    assert command.option_names(Options) == {
        "paths": "PATH",
        "out": "OUT.csv",
        "max_frames": "--max-frames",
        "weights": "--weights",
        "mode": "--mode",
        "names": "--names",
        "own": "--other",
        "detection.rotation": "--rotation",
        "detection.zoom_range": "--zoom-range",
        "rotation": "--rotation",
        "zoom_range": "--zoom-range",
        "augmentation.rotation": "--augmentation.rotation",
        "augmentation.zoom_range": "--augmentation.zoom-range",
    }


def test_every_spelling_is_one_that_the_parser_takes():
    for option in command.option_names(Options).values():
        if option.startswith("--"):
            value = {"--mode": "a", "--weights": "x", "--names": "x"}.get(option, "2")
            command.parse(Options, prog="x", arguments=[option, value])


def fails(main, arguments=(), options_type=Options):
    with pytest.raises(SystemExit) as stop:
        command.run(main, options_type, prog="tool", arguments=list(arguments))
    return stop.value.code


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("max_frames", "--max-frames"),
        ("rotation", "--rotation"),
        ("augmentation.zoom_range", "--augmentation.zoom-range"),
        ("paths", "PATH"),
        ("FACEFLAX_NATIVE", "FACEFLAX_NATIVE"),
    ],
)
def test_errors_name_the_option(capsys, name, shown):
    def main(options):
        raise FaceflaxError(name, 3, "is odd", "give an even one")

    assert fails(main) == 2
    assert capsys.readouterr() == ("", f"error: {shown}: 3 is odd; give an even one\n")


def test_errors_of_the_options_themselves_are_no_box(capsys):
    assert fails(lambda options: None, ["--max-frames", "0"]) == 2
    assert capsys.readouterr().err == "error: --max-frames: 0 is too small; give 1 or more\n"


def test_words_that_are_no_options(capsys):
    assert fails(lambda options: None, ["--max-frames", "many"]) == 2
    assert "--max-frames" in capsys.readouterr().err
    assert fails(lambda options: None, ["--nothing"]) == 2
    assert "--nothing" in capsys.readouterr().err


def test_success_and_interruption():
    assert fails(lambda options: None) == 0

    def interrupted(options):
        raise KeyboardInterrupt

    assert fails(interrupted) == 130


def test_a_package_of_an_extra_is_missing(capsys):
    def main(options):
        raise ModuleNotFoundError("No module named 'orbax'", name="orbax.checkpoint")

    assert fails(main) == 2
    said = "error: this command needs the extra \"train\": pip install 'faceflax[train]'\n"
    assert capsys.readouterr().err == said

    def library(options):
        with errors.needing_extras():
            import orbax.no_such_module  # noqa: F401

    assert fails(library) == 2
    assert capsys.readouterr().err == said


def test_another_missing_package_is_not_hidden():
    def main(options):
        import no_such_package  # noqa: F401

    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        command.run(main, Options, prog="tool", arguments=[])
    with pytest.raises(ModuleNotFoundError, match="no_such_package"), errors.needing_extras():
        main(None)


def test_python_callers_get_the_extra_as_an_error_that_travels():
    with pytest.raises(FaceflaxError) as caught, errors.needing_extras():
        raise ModuleNotFoundError("No module named 'h5py'", name="h5py")
    assert str(caught.value) == "this needs the extra \"train\": pip install 'faceflax[train]'"
    assert isinstance(caught.value, MissingExtraError)
    for other in (copy.copy(caught.value), pickle.loads(pickle.dumps(caught.value))):
        assert str(other) == str(caught.value)


def test_renaming_keeps_everything_but_the_field():
    with pytest.raises(FaceflaxError) as caught, errors.renaming(emotion="emotion_weights", other="x"):
        raise errors.unknown("emotion", "resnet", ["a", "b"])
    assert str(caught.value) == "emotion_weights: unknown 'resnet'; choose one of: a, b"
    with pytest.raises(FaceflaxError, match=r"^frames: 0"), errors.renaming(emotion="emotion_weights"):
        raise FaceflaxError("frames", 0, "is too small")


def test_metavars_say_what_a_value_is(capsys):
    with pytest.raises(SystemExit):
        command.parse(Options, prog="tool", arguments=["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("--max-frames N", "--weights NAME|FILE", "--mode {a,b", "--names [NAME ...]", "--rotation NUMBER"):
        assert text in shown
    assert "STR" not in shown
    assert "{None}" not in shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max-frames", "3"], {"max_frames": 3}),
        (["--max-frames", "None"], {"max_frames": None}),
        (["--mode", "b"], {"mode": "b"}),
        (["--names"], {"names": ()}),
        (["--names", "a", "b"], {"names": ("a", "b")}),
        (["--rotation", "1e-3"], {"detection": Augmentation(rotation=1e-3)}),
        ([], {}),
    ],
)
def test_words_become_values(words, expected):
    assert command.parse(Options, prog="tool", arguments=words) == Options(**expected)


def test_metavars_of_types():
    assert [metavars.of(kind) for kind in (int, Path | None, tuple[float, ...], dict)] == [
        "N",
        "PATH",
        "NUMBER",
        "VALUE",
    ]


@pytest.mark.parametrize("words", [["--tyro-print-completion"], ["--tyro-print-completion", "cmd"]])
def test_completion_of_no_shell(words, capsys):
    assert fails(lambda options: None, words) == 2
    assert "choose one of: bash, zsh, tcsh" in capsys.readouterr().err


def test_platforms_that_jax_cannot_use():
    code = (
        "from faceflax.cli import run\n"
        "from faceflax.cli.demo import Options\n"
        "def main(options):\n"
        "    import jax\n"
        "    jax.devices()\n"
        "run(main, Options, prog='tool', arguments=[])"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cuda", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: JAX_PLATFORMS: JAX finds no device for 'cuda'; unset it")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/out.csv"),
        RuntimeError(f"INTERNAL: write failed: {os.strerror(errno.ENOSPC)}"),
        OSError(errno.EFBIG, os.strerror(errno.EFBIG)),
    ],
)
def test_a_full_disk_is_one_sentence(error, capsys):
    def main():
        raise ValueError("while saving") from error

    with pytest.raises(SystemExit) as stop, command.reporting():
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: the disk is full")
    with pytest.raises(SystemExit), command.reporting():
        raise error
    assert ("runs/out.csv" in capsys.readouterr().err) == (getattr(error, "filename", None) is not None)


def test_another_error_of_the_system_is_not_taken_for_a_full_disk():
    with pytest.raises(PermissionError), command.reporting():
        raise PermissionError(errno.EACCES, "denied")
