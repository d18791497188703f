"""Bounded parallel work in which no wait is without a limit.

Holds the threads; what the work is, and what an outcome means, is decided by the caller.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_TICK_S = 0.5
_START_TICK_S = 0.1


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
        self,
        items: Sequence[Item],
        work: Callable[[Item], Outcome],
        *,
        limit_s: Callable[[Item], float],
        may_start: Callable[[Item], bool] | None = None,
    ) -> Iterator[tuple[Item, Outcome | Exception]]:
        """Yield (item, outcome) as they come, exceptions as outcomes. Closing the iterator starts no more items.

        `may_start` is asked before an item starts, again and again until it says yes; later items wait as well.
        """
        background = self.in_background(work, limit_s=limit_s, may_start=may_start)
        for item in items:
            background.add(item)
        while background.num_pending:
            yield from background.take(timeout_s=_TICK_S)

    def in_background(
        self,
        work: Callable[[Item], Outcome],
        *,
        limit_s: Callable[[Item], float],
        may_start: Callable[[Item], bool] | None = None,
    ) -> "BackgroundWork[Item, Outcome]":
        """Return a queue of such work that goes on beside the caller."""
        return BackgroundWork(
            work, limit_s=limit_s, max_parallel=self._max_parallel, start=self._start, may_start=may_start
        )

    def join(self, timeout_s: float) -> bool:
        """Wait until the threads have ended, at most `timeout_s`; return whether all have."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _start(self, target: Callable[[], None]) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        # Daemon: a thread that hangs must not keep the process from ending.
        thread = threading.Thread(target=target, name="work", daemon=True)
        self._threads.append(thread)
        thread.start()


class BackgroundWork(Generic[Item, Outcome]):
    """Work that goes on while its owner does something else. One thread owns it; `take` is what moves it on."""

    def __init__(
        self,
        work: Callable[[Item], Outcome],
        *,
        limit_s: Callable[[Item], float],
        max_parallel: int,
        start: Callable[[Callable[[], None]], None],
        may_start: Callable[[Item], bool] | None = None,
    ) -> None:
        self._work = work
        self._limit_s = limit_s
        self._max_parallel = max_parallel
        self._start = start
        self._may_start = may_start or (lambda item: True)
        self._items: list[Item] = []
        self._waiting: deque[int] = deque()
        self._deadlines: dict[int, float] = {}
        self._done: queue.SimpleQueue[tuple[int, Outcome | Exception]] = queue.SimpleQueue()

    @property
    def num_pending(self) -> int:
        """Items whose outcome was not taken yet."""
        return len(self._waiting) + len(self._deadlines)

    def add(self, item: Item) -> None:
        """Begin work on an item as soon as there is a place."""
        self._waiting.append(len(self._items))
        self._items.append(item)
        self._fill()

    def take(self, *, timeout_s: float) -> list[tuple[Item, Outcome | Exception]]:
        """Return the outcomes that have come, exceptions included; wait for the first at most `timeout_s`."""
        self._fill()
        if self._waiting and not self._deadlines:
            time.sleep(min(timeout_s, _START_TICK_S))  # the first of them may not start yet
            self._fill()
        taken: list[tuple[Item, Outcome | Exception]] = []
        while self._deadlines:
            try:
                index, outcome = self._done.get(timeout=0 if taken else timeout_s)
            except queue.Empty:
                break
            if self._deadlines.pop(index, None) is not None:
                taken.append((self._items[index], outcome))
        now = time.monotonic()
        for index in [index for index, deadline in self._deadlines.items() if deadline < now]:
            del self._deadlines[index]
            item = self._items[index]
            taken.append((item, WorkTimeoutError(f"did not end within {self._limit_s(item):.0f} s")))
        return taken

    def _fill(self) -> None:
        while self._waiting and len(self._deadlines) < self._max_parallel:
            if not self._may_start(self._items[self._waiting[0]]):
                return
            index = self._waiting.popleft()
            self._deadlines[index] = time.monotonic() + self._limit_s(self._items[index])
            self._start(lambda index=index: self._work_on(index))  # type: ignore[misc]

    def _work_on(self, index: int) -> None:
        try:
            self._done.put((index, self._work(self._items[index])))
        except Exception as error:  # noqa: BLE001 - the border where work becomes data; the caller gets the error
            self._done.put((index, error))
