"""Bounded parallel work in which no wait is without a limit.

Holds the threads; what the work is, and what an outcome means, is decided by the caller.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_TICK_S = 0.5


class WorkTimeoutError(TimeoutError):
    """Work did not end within its limit; its thread was left behind and its outcome will be ignored."""


class WorkPool:
    """Runs work on items in daemon threads, `max_parallel` at a time.

    A thread that outlives its limit loses its place to the next item: one that hangs cannot hold the run.
    """

    def __init__(self, max_parallel: int) -> None:
        self._max_parallel = max_parallel
        self._threads: list[threading.Thread] = []

    def run(
        self, items: Sequence[Item], work: Callable[[Item], Outcome], *, limit_s: Callable[[Item], float]
    ) -> Iterator[tuple[Item, Outcome | Exception]]:
        """Yield (item, outcome) as they come, exceptions as outcomes. Closing the iterator starts no more items."""
        done: queue.SimpleQueue[tuple[int, Outcome | Exception]] = queue.SimpleQueue()
        waiting = deque(range(len(items)))
        deadlines: dict[int, float] = {}

        def work_on(index: int) -> None:
            try:
                done.put((index, work(items[index])))
            except Exception as error:  # noqa: BLE001 - the border where work becomes data; the caller gets the error
                done.put((index, error))

        while waiting or deadlines:
            while waiting and len(deadlines) < self._max_parallel:
                index = waiting.popleft()
                deadlines[index] = time.monotonic() + limit_s(items[index])
                self._start(work_on, index)
            try:
                index, outcome = done.get(timeout=_TICK_S)
            except queue.Empty:
                pass
            else:
                if deadlines.pop(index, None) is not None:
                    yield items[index], outcome
            for index in [index for index, deadline in deadlines.items() if deadline < time.monotonic()]:
                del deadlines[index]
                yield items[index], WorkTimeoutError(f"did not end within {limit_s(items[index]):.0f} s")

    def join(self, timeout_s: float) -> bool:
        """Wait until the threads have ended, at most `timeout_s`; return whether all have."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _start(self, target: Callable[[int], None], index: int) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        # Daemon: a thread that hangs must not keep the process from ending.
        thread = threading.Thread(target=target, args=(index,), name=f"work-{index}", daemon=True)
        self._threads.append(thread)
        thread.start()
