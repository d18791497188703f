"""What a container may use of its host. Left out: how an engine is told (`docker_engine.py`, `embedded/engine.py`)."""

import re
from dataclasses import dataclass

from srl_swe.errors import ConfigError

ROOT = "0:0"
"""The user id and group id of root."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerLimits:
    """What a container may use."""

    memory_bytes: int = 4 << 30
    """Memory, with no swap on top; going over ends a process inside, never one of the host."""
    cpus: float = 2.0
    """Processor time per second; at most what the engine's host has."""
    max_processes: int = 512
    """Processes and threads at once."""
    max_open_files: int = 16_384
    """Open files of one process."""
    disk_bytes: int = 8 << 30
    """Bytes written to disk. One file never grows beyond it; all together are looked at about every second, and
    beyond it every process of the container is ended."""
    lifetime_s: float = 24 * 3600
    """Seconds after which any process of this project that uses the engine may remove it, also from another host."""
    user: str = ROOT
    """UID:GID that commands run as, in either case without capabilities. The work tree is handed over to it."""
    network: bool = False
    """Attach the engine's default network; without it there is only the loopback device."""

    def __post_init__(self) -> None:
        lowest = {
            "memory_bytes": 6 << 20,
            "cpus": 0.01,
            "max_processes": 8,
            "max_open_files": 64,
            "disk_bytes": 1 << 20,
            "lifetime_s": 1,
        }
        for name, value in lowest.items():
            if not getattr(self, name) >= value:
                raise ConfigError(f"ContainerLimits.{name} is {getattr(self, name)}; expected at least {value}")
        if not re.fullmatch(r"\d{1,9}:\d{1,9}", self.user):
            raise ConfigError(f"ContainerLimits.user is {self.user!r}; expected numbers like '1000:1000'")
