"""What every command shares: options from a dataclass, and errors of one line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
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
