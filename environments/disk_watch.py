"""Containers that write more than their limit lose their processes.

Most storage drivers of container engines know no quota, so the size of what a container wrote is asked about
once a second; a single file is bounded by the kernel (RLIMIT_FSIZE). Left out: what the engine measures.
"""

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from srl_swe.errors import ContainerError

if TYPE_CHECKING:
    from srl_swe.environments.container import Container

LOGGER = logging.getLogger(__name__)

_PERIOD_S = 1.0
_MAX_SHARE = 0.05
"""Of the time that asking may take: with many containers the period grows."""


class DiskWatch:
    """Looks after the containers of this process in one daemon thread, started with the first."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Start as new: neither the thread nor the containers of a parent are those of its child."""
        self._containers: dict[str, Container] = {}
        self._lock = threading.Lock()
        self._started = False

    def add(self, container: "Container") -> None:
        """Look after a container from now on."""
        with self._lock:
            if not self._started:
                self._started = True
                threading.Thread(target=self._watch, name="disk-watch", daemon=True).start()
            self._containers[container.name] = container

    def discard(self, container: "Container") -> None:
        """No longer look after a container."""
        with self._lock:
            self._containers.pop(container.name, None)

    def _watch(self) -> None:
        while True:
            started = time.monotonic()
            with self._lock:
                containers = list(self._containers.values())
            for container in containers:
                try:
                    self._look(container)
                except ContainerError as error:
                    LOGGER.debug("disk watch: %s", error)  # whoever uses the container learns of it
            taken_s = time.monotonic() - started
            time.sleep(max(_PERIOD_S - taken_s, taken_s / _MAX_SHARE))

    def _look(self, container: "Container") -> None:
        written = container.engine.written_bytes(container.name)
        if written <= container.limits.disk_bytes:
            return
        with self._lock:
            if container.name not in self._containers:
                return
        why = f"{written / 1e9:.2f} GB were written to disk, the limit is {container.limits.disk_bytes / 1e9:.2f} GB"
        LOGGER.warning("container %s: %s; its processes are ended", container.name, why)
        container.kill_processes(because=why)
