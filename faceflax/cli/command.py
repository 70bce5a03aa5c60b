"""What every command shares: options from a dataclass, and errors of one line."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from faceflax import files
from faceflax.cli import metavars, plugins
from faceflax.cli.reporting import options_of
from faceflax.errors import FaceflaxError, MissingExtraError, missing_extra, unknown

Options = TypeVar("Options")

SHELLS = ("bash", "zsh", "tcsh")
"""The shells that completion can be written for."""


def run(
    main: Callable[[Options], None],
    options_type: type[Options],
    default: Options | None = None,
    *,
    prog: str | None = None,
    arguments: Sequence[str] | None = None,
) -> NoReturn:
    """Parses the command line into ``options_type`` and calls ``main`` with it, then exits.

    Exit status: 0 after success, 2 after bad input (one ``error:`` line, no traceback), 130 after Ctrl-C. Options that
    have :class:`~faceflax.cli.reporting.ReportOptions` among them decide how much is printed.

    Args:
        main: the command's work. It imports jax and the like itself, so that ``--help`` answers at once.
        options_type: a dataclass; its docstring is the help text and its fields are the options.
        default: where the options start from, if not from the dataclass's own defaults.
        prog: what the help calls the command; how Python was started if not given.
        arguments: what follows the command; those of the process if not given.
    """
    with reporting(options_type):
        logging.basicConfig(format="%(message)s")
        logging.getLogger("faceflax").setLevel(logging.INFO)
        words = sys.argv[1:] if arguments is None else arguments
        if main.__module__ == "__main__" and (spec := sys.modules["__main__"].__spec__) is not None:
            plugins.check_package(spec.name.partition(".")[0])
        options = parse(options_type, default, prog=prog or _prog(), arguments=words)
        with options_of(options).speaking():
            main(options)
        sys.stdout.flush()
    sys.exit(0)


@contextlib.contextmanager
def reporting(options_type: type | None = None) -> Iterator[None]:
    """Ends the process with one line and the right exit status where the block meets what a user can put right.

    Args:
        options_type: the dataclass whose options a field of an error may be.
    """
    try:
        yield
    except FaceflaxError as error:
        _fail(_spelled(error, {} if options_type is None else option_names(options_type)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ImportError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        _fail(_spelled(missing, {}))
    except Exception as error:
        problem = _full(error) if files.is_full(error) else None
        if problem is None and isinstance(error, AssertionError | RuntimeError):
            problem = _platform_problem()
        if problem is None:
            raise
        _fail(problem)


def parse(
    options_type: Any,
    default: Any = None,
    *,
    prog: str,
    arguments: Sequence[str],
) -> Any:
    """Makes the options of command line words; prints help, or what is wrong with the words, and exits.

    Raises:
        FaceflaxError: raised by the options' dataclass itself, or a shell that completion cannot be written for.
    """
    import tyro

    if arguments and arguments[0].startswith(("--tyro-print-completion", "--tyro-write-completion")):
        _check_completion(arguments)
    keywords = {} if default is None else {"default": default}
    shown, said = _Captured(), _Captured()
    try:
        with metavars.registry(), contextlib.redirect_stdout(shown), contextlib.redirect_stderr(said):
            return tyro.cli(options_type, prog=prog, args=list(arguments), **keywords)
    except SystemExit as stop:
        cause = stop.__context__
        while cause is not None:  # tyro prints a box of its own about a ValueError of the dataclass
            if isinstance(cause, FaceflaxError):
                raise cause from None
            cause = cause.__context__
        print(_wrapped(shown.getvalue()), end="")
        print(said.getvalue(), file=sys.stderr, end="")
        sys.stdout.flush()
        raise


class _Captured(io.StringIO):
    """Text that tyro prints, with the colours and the characters that the terminal has."""

    encoding = property(lambda self: getattr(sys.__stdout__, "encoding", None))

    def isatty(self) -> bool:
        return sys.__stdout__ is not None and sys.__stdout__.isatty()


def _wrapped(text: str) -> str:
    """Help whose paragraphs, which tyro leaves in one line each, fit the terminal."""
    width = shutil.get_terminal_size().columns
    lines = [
        textwrap.fill(line.replace("``", ""), width) if re.match(r"[\w\-`]", line) else line
        for line in text.split("\n")
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def option_names(options_type: type) -> dict[str, str]:
    """Returns how the command line spells each field of an options dataclass.

    Nested fields are there twice, with and without the names of the fields around them, unless another field has the
    shorter name. A positional argument is spelled by its metavar.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Options:
        ...     max_frames: int = 1
        >>> option_names(Options)
        {'max_frames': '--max-frames'}
    """
    from tyro.conf import Positional

    names: dict[str, str] = {}
    inner: dict[str, str] = {}
    hints = typing.get_type_hints(options_type, include_extras=True)
    for field in fields(options_type):
        kind, marks = _annotation(hints[field.name])
        prefix = next((mark.name for mark in marks if getattr(mark, "name", None) is not None), field.name)
        if isinstance(kind, type) and is_dataclass(kind):
            for name, option in option_names(kind).items():
                spelled = f"--{prefix.replace('_', '-')}.{option[2:]}" if prefix and option[:2] == "--" else option
                names[f"{field.name}.{name}"] = spelled
                inner.setdefault(name, spelled)
        elif Positional in marks:
            metavar = next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), None)
            names[field.name] = re.findall(r"[\w.|]+", metavar or metavars.of(kind))[0]
        else:
            names[field.name] = f"--{prefix.replace('_', '-')}"
    return inner | names


def _annotation(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type of an annotation, and what it is annotated with."""
    if typing.get_origin(hint) is typing.Annotated:
        kind, *marks = typing.get_args(hint)
        return kind, tuple(marks)
    return hint, ()


def _spelled(error: FaceflaxError, names: dict[str, str]) -> str:
    if isinstance(error, MissingExtraError):
        return str(MissingExtraError(error.extra, "this command"))
    return str(error.renamed(names[error.field]) if error.field in names else error)


def _fail(text: str) -> NoReturn:
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


def _full(error: BaseException) -> str:
    """What to say of a full disk: what could not be written, as far as the error knows it."""
    file = getattr(error, "filename", None)
    where = f" while {os.fsdecode(file)!r} was written" if isinstance(file, str | bytes) else ""
    return f"the disk is full{where}; make room and run the same command again"


def _prog() -> str:
    """How the command was started: a script's path, or ``python -m`` and a module's name."""
    spec = sys.modules["__main__"].__spec__
    return f"python -m {spec.name}" if spec is not None else sys.argv[0]


def _check_completion(arguments: Sequence[str]) -> None:
    option, *rest = arguments
    if not rest or rest[0] not in SHELLS:
        raise unknown(option, rest[0] if rest else "", SHELLS)
    if option == "--tyro-write-completion":
        if len(rest) < 2:
            raise FaceflaxError(option, None, "there is no file to write", "name one after the shell")
        if rest[1] != "-" and not Path(rest[1]).parent.is_dir():
            raise FaceflaxError(option, rest[1], "cannot write {}, whose folder does not exist", "name another file")


def _platform_problem() -> str | None:
    """What is wrong with ``$JAX_PLATFORMS``, if JAX can use none of the platforms that it asks for."""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if not wanted or "jax" not in sys.modules:
        return None
    import jax

    try:
        jax.devices()
    except (AssertionError, RuntimeError):
        return str(
            FaceflaxError(
                "JAX_PLATFORMS",
                wanted,
                "JAX finds no device for {}",
                "unset it or set it to cpu; for a GPU install JAX's own package for it, such as jax[cuda12]",
            )
        )
    return None
