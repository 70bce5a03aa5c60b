"""What every command shares: arguments from a dataclass, short errors, output folders checked before work starts."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from faceflax.errors import FaceflaxError

Options = TypeVar("Options")


def run(main: Callable[[Options], None], options_type: type[Options], default: Options | None = None) -> NoReturn:
    """Parses the command line into ``options_type`` and calls ``main`` with it, then exits.

    Exit status: 0 after success, 2 after bad input (one ``error:`` line, no traceback), 130 after Ctrl-C.

    Args:
        main: the command's work. It imports jax and the like itself, so that ``--help`` answers at once.
        options_type: a dataclass; its docstring is the help text and its fields are the options.
        default: where the options start from, if not from the dataclass's own defaults.
    """
    import tyro

    logging.basicConfig(format="%(message)s")
    logging.getLogger("faceflax").setLevel(logging.INFO)
    try:
        main(tyro.cli(options_type) if default is None else tyro.cli(options_type, default=default))
        sys.stdout.flush()
    except FaceflaxError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


def writable_folder(argument: str, folder: Path) -> Path:
    """Creates ``folder`` if needed and proves that a file can be written into it.

    Raises:
        FaceflaxError: the folder cannot be made or written; the message names ``argument`` and the path.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise FaceflaxError(f"{argument}: cannot write into {str(folder)!r} ({reason}); name another folder") from None
    return folder


def writable_file(argument: str, file: Path) -> Path:
    """Like :func:`writable_folder`, for the folder of ``file``; a file that exists must be a writable file."""
    writable_folder(argument, file.parent)
    if file.exists() and (file.is_dir() or not os.access(file, os.W_OK)):
        raise FaceflaxError(f"{argument}: cannot write {str(file)!r}; name another file")
    return file
