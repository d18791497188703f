"""What a process has open at an engine, so that the end of the process ends it.

Left out: how a thing is ended (`container.py`, `snapshots.py`), and what a killed process leaves (`leases.py`).
"""

import atexit
import logging
import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from srl_swe.errors import ContainerError

LOGGER = logging.getLogger(__name__)

Thing = TypeVar("Thing")


class OpenThings(Generic[Thing]):
    """Things that `end` ends at a normal exit of the process. A child made by fork has none of its parent's."""

    def __init__(self, end: Callable[[Thing], None]) -> None:
        self._end = end
        self._forget()
        # A lock that another thread of the parent held would be held for ever in the child.
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.end_all)

    def add(self, thing: Thing) -> None:
        """Note that a thing is about to be opened.

        Raises:
            ContainerError: the process is ending; a thread that outlives that must open nothing more.
        """
        with self._lock:
            if self._ending:
                raise ContainerError("this process is ending, nothing more is opened")
            self._things.add(thing)

    def discard(self, thing: Thing) -> None:
        """Note that a thing is no longer open."""
        with self._lock:
            self._things.discard(thing)

    def all(self) -> list[Thing]:
        """Return what is open now."""
        with self._lock:
            return list(self._things)

    def end_all(self) -> None:
        """End what is open, for the end of the process; what the engine fails to end is left to the next start."""
        with self._lock:
            self._ending = True
        for thing in self.all():
            self.discard(thing)
            try:
                self._end(thing)
            except ContainerError as error:
                LOGGER.warning("%s; the next start removes it", error)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._things: set[Thing] = set()
        self._ending = False
