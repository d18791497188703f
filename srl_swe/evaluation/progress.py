"""What is running now, for the eye: a live table on a terminal, plain lines elsewhere.

Holds no results; an evaluation whose progress nobody sees is the same evaluation.
"""

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text


def printable(text: str) -> str:
    """Return text of outside, such as an instance id, for one line of a terminal: no control characters."""
    return "".join(character if character.isprintable() else " " for character in text)


class RunningTable:
    """Shows running instances with stage and seconds, counts by outcome, and the time left. Safe for threads."""

    def __init__(self, title: str, *, num_total: int, num_earlier: int, console: Console) -> None:
        """`num_total` instances in all, `num_earlier` of them finished by earlier runs."""
        self._title = title
        self._num_total = num_total
        self._num_earlier = num_earlier
        self._console = console
        self._lock = threading.RLock()
        self._running: dict[str, tuple[str, float]] = {}
        self._outcomes: Counter[str] = Counter()
        self._started = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=2, transient=True)
            self._live.start()
        else:
            self._line(f"{self._title}: {self._num_total} instances, {self._num_earlier} of them done before")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        self._line(f"{self._title}: {self._counts()}")

    def stage(self, instance_id: str, stage: str) -> None:
        """Say what is being done with an instance; the first call starts its clock."""
        with self._lock:
            started = self._running.get(instance_id, ("", time.monotonic()))[1]
            self._running[instance_id] = (stage, started)

    def finish(self, instance_id: str, outcome: str, detail: str = "") -> None:
        """Take an instance off the table and count its outcome, for example "resolved"."""
        with self._lock:
            _, started = self._running.pop(instance_id, ("", time.monotonic()))
            self._outcomes[outcome] += 1
        seconds = time.monotonic() - started
        self._line(f"[{self._num_done}/{self._num_total}] {instance_id}: {outcome}{f' ({detail})' if detail else ''}"
                   f", {seconds:.1f} s, {self._eta()}")  # fmt: skip

    @property
    def _num_done(self) -> int:
        return self._num_earlier + self._outcomes.total()

    def _eta(self) -> str:
        finished = self._outcomes.total()
        left = self._num_total - self._num_done
        if left <= 0:
            return "nothing left"
        if finished == 0:
            return f"{left} left"
        seconds = (time.monotonic() - self._started) / finished * left
        return f"{left} left, about {seconds / 60:.0f} min" if seconds >= 90 else f"{left} left, about {seconds:.0f} s"

    def _counts(self) -> str:
        with self._lock:
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self._outcomes.items()))
        earlier = f", {self._num_earlier} done before" if self._num_earlier else ""
        return f"{self._num_done} of {self._num_total} done ({counts or 'none in this run'}{earlier})"

    def _line(self, text: str) -> None:
        # Instance ids and reasons come from outside: no markup, no control characters.
        self._console.print(Text(printable(text)), soft_wrap=True, highlight=False)

    def _render(self) -> Group:
        table = Table("instance", "stage", "seconds", title=self._title)
        with self._lock:
            running = dict(self._running)
        for instance_id, (stage, started) in running.items():
            table.add_row(Text(instance_id), Text(stage), f"{time.monotonic() - started:.0f}")
        return Group(table, Text(f"{self._counts()}; {self._eta()}"))
