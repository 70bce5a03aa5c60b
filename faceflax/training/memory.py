"""The process's memory policy while it trains."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Lets glibc keep freed memory for the next step; elsewhere nothing changes.

    A step's temporary arrays, some 100 MB, are allocated and freed by XLA every time. By default glibc gives them back
    to the system, and a quarter of a step's time goes into mapping the same pages again. Call it before JAX computes
    anything: threads that have allocated already stay as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
