"""The command ``faceflax``: finds the subcommand and leaves the rest of the command line to it."""

from __future__ import annotations

import difflib
import importlib
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from shutil import get_terminal_size
from types import ModuleType
from typing import Annotated, Any, NoReturn, Union

import faceflax
from faceflax.cli import plugins
from faceflax.cli.command import parse, reporting, run


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        module: where its ``Options`` and ``main`` are, or None where it comes as an entry point of its name.
        summary: what it does, in a line.
    """

    module: str | None
    summary: str


GROUPS: dict[str, dict[str, Command]] = {
    "faces": {
        "live": Command("faceflax.cli.live", "Label faces in a camera, video, image or folder, as they come."),
        "analyze": Command("faceflax.cli.analyze", "Turn images, folders, archives and videos into one table."),
        "app": Command("faceflax.cli.app", "Open a page for pictures, camera and videos in the browser; REST too."),
        "demo": Command("faceflax.cli.demo", "Analyze the photograph and the video that come with faceflax."),
    },
    "attribution": {
        "saliency": Command(None, "Draw what in a face the networks respond to."),
        "explain-benchmark": Command(None, "Make the table of attribution methods and metrics for a network."),
    },
    "training": {
        "prepare-data": Command("faceflax.cli.prepare_data", "Turn a publisher's files into a dataset."),
        "train": Command("faceflax.cli.train", "Train a network on a prepared dataset."),
        "evaluate": Command("faceflax.cli.evaluate", "Measure weights on a split, by class and group."),
        "export": Command("faceflax.cli.export", "Write weights as ONNX, StableHLO or safetensors; name trained ones."),
        "convert-keras": Command("faceflax.cli.convert_keras", "Convert a Keras file of mini-Xception."),
    },
    "this machine": {
        "benchmark": Command("faceflax.cli.benchmark", "Measure how fast faceflax runs here."),
        "info": Command("faceflax.cli.info", "Print versions, engine, weights, cameras: what a bug report needs."),
    },
}

COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs ``faceflax``.

    Args:
        arguments: what follows the command's name; those of the process if not given.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name in COMMANDS:
        with reporting():
            module = load(name)
        run(module.main, module.Options, prog=f"faceflax {name}", arguments=rest)
    with reporting():
        if name in ("-h", "--help"):
            print(usage())
        elif name in ("-V", "--version"):
            print(f"faceflax {faceflax.__version__}")
        elif name.startswith("--tyro-"):
            parse(_every_command(), prog="faceflax", arguments=[name, *rest])
        elif not name:
            print(usage(), file=sys.stderr)
            sys.exit(2)
        else:
            print(f"error: {_unknown(name)}", file=sys.stderr)
            sys.exit(2)
        sys.stdout.flush()
    sys.exit(0)


def load(name: str) -> ModuleType:
    """Imports the module of a command.

    Raises:
        FaceflaxError: the command comes with a package that is not there, or that another one has replaced.
    """
    module = COMMANDS[name].module
    if module is not None:
        return importlib.import_module(module)
    points = plugins.entry_points("faceflax.commands")
    if name not in points:
        raise plugins.not_installed()
    return plugins.load(points[name])


def usage() -> str:
    """Returns the help of the command itself."""
    width = max(map(len, COMMANDS))
    room = min(get_terminal_size().columns, 120)
    lines = ["usage: faceflax COMMAND [OPTIONS]", "", "Perceived emotion and perceived gender of faces, in real time."]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:"]
        for name, command in commands.items():
            first = f"  {name:<{width}}  "
            lines += textwrap.wrap(first + command.summary, room, subsequent_indent=" " * len(first))
    lines += [
        "",
        "faceflax COMMAND --help   the options of a command",
        "faceflax --version        the version",
        "faceflax --tyro-print-completion bash|zsh|tcsh   completion for a shell",
    ]
    return "\n".join(lines)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.replace("_", "-").lower(), COMMANDS, n=1, cutoff=0.5)
    if name.startswith("-"):
        return f"{name}: an option has to follow a command; faceflax --help lists them"
    meant = f"did you mean {near[0]}?" if near else f"choose one of: {', '.join(COMMANDS)}"
    return f"COMMAND: unknown {name!r}; {meant}"


def _every_command() -> Any:
    """All commands that can be loaded as one type, for the completion of a shell."""
    import tyro

    kinds = [
        Annotated[load(name).Options, tyro.conf.subcommand(name, prefix_name=False, description=command.summary)]
        for name, command in COMMANDS.items()
    ]
    return Union[tuple(kinds)]  # noqa: UP007
