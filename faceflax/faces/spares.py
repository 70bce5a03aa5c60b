"""Things that one thread at a time can use, for any number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from faceflax.errors import FaceflaxError

T = TypeVar("T")


class Spares(Generic[T]):
    """As many things of one kind as threads use at the same time; one that is given back is used again.

    Args:
        make: makes one; the first is made at once, so that what cannot be made is noticed.

    Example:
        >>> lists = Spares(list)
        >>> with lists.borrow() as one, lists.borrow() as other:
        ...     one is other
        False
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._free = [make()]

    @contextmanager
    def borrow(self) -> Iterator[T]:
        """Yields one that no other thread has."""
        try:
            one = self._free.pop()
        except IndexError:
            one = self._make()
        try:
            yield one
        finally:
            self._free.append(one)


class Process:
    """The process in which something was made; a forked child, which lacks its threads, is told so.

    Args:
        what: was made.

    Example:
        >>> Process("the detector").check()
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._id = os.getpid()

    def check(self) -> None:
        """Makes sure that this is still the same process.

        Raises:
            FaceflaxError: it is a child, in which a call would wait for threads that are not there.
        """
        if os.getpid() != self._id:
            problem = f"{self._what} was made before the fork, in process {{}}, whose threads this one lacks"
            remedy = "make it in the child, and start children by spawn: multiprocessing.get_context('spawn')"
            raise FaceflaxError("process", self._id, problem, remedy)
