"""What a container may use of its host. Left out: how the engine is told (`container.py`)."""

from dataclasses import dataclass

from srl_swe.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerLimits:
    """What a container may use."""

    memory_bytes: int = 4 << 30
    """Memory, with no swap on top; going over ends a process inside, never one of the host."""
    cpus: float = 2.0
    """Processor time per second; at most what the engine's host has."""
    max_processes: int = 512
    """Processes and threads at once."""
    network: bool = False
    """Attach the engine's default network; without it there is only the loopback device."""

    def __post_init__(self) -> None:
        for name, lowest in (("memory_bytes", 6 << 20), ("cpus", 0.01), ("max_processes", 8)):
            if getattr(self, name) < lowest:
                raise ConfigError(f"ContainerLimits.{name} is {getattr(self, name)}; expected at least {lowest}")
