"""SIGTERM, a scheduler's polite end: leave work at once where the weights stand still, else when they do again.

Leaves out saving: the trainer catches `Terminated` and writes the checkpoint. Ctrl-C is not touched.
"""

import signal
import threading
from types import FrameType
from typing import Any

GRACE_S = 40.0
"""How long an update that has begun may go on. Schedulers usually kill a minute after SIGTERM, or later."""

LAUNCHED_GRACE_S = 20.0
"""The same for one of several processes, which their launcher (torchrun's agent) kills 30 s after SIGTERM."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came; raised in the main thread."""


class Termination:
    """Turns SIGTERM into `Terminated` while it is open. Not opened, or outside the main thread, it does nothing."""

    def __init__(self, *, grace_s: float = GRACE_S) -> None:
        self.held = False
        """The weights are between two states that can be saved."""
        self.requested = False
        """SIGTERM came."""
        self.grace_s = grace_s
        self._earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Termination":
        if threading.current_thread() is threading.main_thread():
            self._earlier = {
                signal.SIGTERM: signal.signal(signal.SIGTERM, self._on_sigterm),
                signal.SIGALRM: signal.signal(signal.SIGALRM, self._on_grace_over),
            }
        return self

    def __exit__(self, *_: object) -> None:
        if self._earlier:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        self._earlier = {}

    def hold(self) -> None:
        """From here to `release`, SIGTERM waits, but not longer than the grace period."""
        self.held = True

    def release(self, *, terminate: bool = False) -> None:
        """The state can be saved again.

        Raises:
            Terminated: SIGTERM came meanwhile, or `terminate`, because it came to another process of the run.
        """
        self.held = False
        if self.requested or terminate:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Terminated

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            return
        self.requested = True
        if not self.held:
            raise Terminated
        signal.setitimer(signal.ITIMER_REAL, self.grace_s)

    def _on_grace_over(self, number: int, frame: FrameType | None) -> None:
        if self.held:
            raise Terminated
