"""Calls into something that other processes do, given up when those processes have ended.

A client that waits for the answer of a process that was killed can wait for ever: vLLM's does. Leaves out what is
called.
"""

import queue
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from srl_swe.closing import Closing

T = TypeVar("T")

LOOK_S = 0.5
"""Time between two looks at the processes; an answer is taken at once."""


FAREWELL_S = 3.0
"""How long a process may take to end after a call failed because of that."""


class ProcessEndedError(RuntimeError):
    """A process that a call was waiting for has ended; the message names it and its exit code."""


class WatchedCalls(Closing):
    """Makes calls one after another on one thread, which is left behind where a call never returns."""

    def __init__(self, processes: Collection[BaseProcess]) -> None:
        self._processes = tuple(processes)
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="watched-calls", daemon=True)
        self._thread.start()

    def run(self, call: Callable[[], T]) -> T:
        """Return what the call returns, or raise what it raises.

        Raises:
            ProcessEndedError: a process has ended before the call did, or soon after the call failed.
        """
        future: Future[T] = Future()
        self._calls.put((call, future))
        while not wait([future], timeout=LOOK_S).done:
            if (ended := self._ended()) and not wait([future], timeout=LOOK_S).done:
                raise ended
        try:
            return future.result()
        except Exception as error:
            deadline = time.monotonic() + FAREWELL_S
            while time.monotonic() < deadline:
                if ended := self._ended():
                    raise ended from error
                time.sleep(0.05)
            raise

    def _ended(self) -> ProcessEndedError | None:
        for process in self._processes:
            if not process.is_alive():
                return ProcessEndedError(f"process {process.name} ({process.pid}) ended by {process.exitcode}")
        return None

    def close(self, *, timeout_s: float = 10) -> None:
        """Let the thread end after its last call; one that does not return in time is left behind."""
        self._calls.put(None)
        if all(process.is_alive() for process in self._processes):
            self._thread.join(timeout_s)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 -- `run` raises it in the thread that asked
                future.set_exception(error)
