"""A bound on the calls that all processes of this machine have open at one engine.

One file a slot, locked while a call runs: the kernel frees the slot of a process that dies. Left out: which
calls need one (`docker_engine.py`).
"""

import contextlib
import fcntl
import hashlib
import os
import random
import time
from collections.abc import Iterator

from srl_swe.errors import EngineTimeoutError
from srl_swe.paths import cache_dir

_WAIT_LIMIT_S = 600.0


class EngineSlots:
    """`max_calls` slots, shared by every process and thread that names the same engine."""

    def __init__(self, engine: str, *, max_calls: int) -> None:
        digest = hashlib.sha256(engine.encode()).hexdigest()[:12]
        self._folder = cache_dir() / "engine-slots" / digest
        self._folder.mkdir(parents=True, exist_ok=True)
        self._order = list(range(max_calls))

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a slot; wait for one where all are taken.

        Raises:
            EngineTimeoutError: none came free within ten minutes: the engine hangs.
        """
        descriptor = self._take()
        try:
            yield
        finally:
            os.close(descriptor)

    def num_taken(self) -> int:
        """Return how many calls are open now, of all processes."""
        taken = 0
        for slot in self._order:
            descriptor = os.open(self._folder / str(slot), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                taken += 1
            finally:
                os.close(descriptor)
        return taken

    def _take(self) -> int:
        deadline = time.monotonic() + _WAIT_LIMIT_S
        order = random.Random().sample(self._order, len(self._order))
        while True:
            for slot in order:
                descriptor = os.open(self._folder / str(slot), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(descriptor)
                except BaseException:
                    os.close(descriptor)
                    raise
                else:
                    return descriptor
            if time.monotonic() > deadline:
                raise EngineTimeoutError(
                    f"{len(order)} calls to the container engine have been open for {_WAIT_LIMIT_S:.0f} s; "
                    "does it hang? `srl-swe doctor` looks"
                )
            time.sleep(random.uniform(0.002, 0.01))
