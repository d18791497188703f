"""Which container engine serves this process. Left out: what an engine can do (`engine.py`)."""

import os
import re
import threading

from srl_swe.environments.engine import Engine
from srl_swe.environments.leases import collect_garbage
from srl_swe.errors import ConfigError

ENGINE_VARIABLE = "SRL_SWE_ENGINE"

_lock = threading.Lock()
_collected = False


def connect_engine(*, timeout_s: float = 60, collect: bool = True) -> Engine:
    """Connect to the engine of this machine: Docker or Podman, or the embedded one with SRL_SWE_ENGINE=embedded.

    DOCKER_HOST names another socket or machine. `timeout_s` is the limit of every call. The first connection
    of a process also removes what dead processes left, unless `collect` is off.

    Raises:
        EngineUnavailableError: no engine answers; the message says what to do.
        ConfigError: SRL_SWE_ENGINE names none.
    """
    global _collected
    engine = _open(os.environ.get(ENGINE_VARIABLE) or "docker", timeout_s)
    try:
        with _lock:
            first, _collected = not _collected, True
        if first and collect:
            collect_garbage(engine)
    except BaseException:
        engine.close()
        raise
    return engine


def connect_engine_at(address: str, *, timeout_s: float = 60) -> Engine:
    """Connect to the engine at an address and remove what dead processes of this machine left there.

    unix:///SOCKET, tcp://HOST:PORT (with TLS where DOCKER_TLS_VERIFY and DOCKER_CERT_PATH say so),
    ssh://[USER@]HOST[:PORT][/SOCKET], or "embedded" for the engine of this machine without a daemon.

    Raises:
        EngineUnavailableError: no engine answers there.
        ConfigError: that is no address.
    """
    engine = _open_at(address, timeout_s)
    try:
        collect_garbage(engine)
    except BaseException:
        engine.close()
        raise
    return engine


def check_address(address: str) -> None:
    """Raise ConfigError where an address is not one that `connect_engine_at` takes."""
    if not re.fullmatch(r"embedded|unix:///\S+|tcp://[^\s/]+:\d+|ssh://[^\s/-][^\s/]*(/\S+)?", address):
        raise ConfigError(
            f"{address!r} is no address of an engine; expected unix:///SOCKET, tcp://HOST:PORT, "
            "ssh://[USER@]HOST[:PORT][/SOCKET] or embedded"
        )


def _open_at(address: str, timeout_s: float) -> Engine:
    check_address(address)
    if address == "embedded":
        return _open("embedded", timeout_s)
    if address.startswith("ssh://"):
        from srl_swe.environments.ssh_engine import SshEngine

        return SshEngine.connect(address, timeout_s=timeout_s)
    from srl_swe.environments.docker_engine import DockerEngine

    return DockerEngine.from_environment(timeout_s=timeout_s, address=address)


def _forget_the_parents() -> None:
    """After a fork: see `container.py`."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_the_parents)


def _open(kind: str, timeout_s: float) -> Engine:
    if kind == "docker" and (address := os.environ.get("DOCKER_HOST", "")).startswith("ssh://"):
        return _open_at(address, timeout_s)
    if kind == "docker":
        from srl_swe.environments.docker_engine import DockerEngine

        return DockerEngine.from_environment(timeout_s=timeout_s)
    if kind == "embedded":
        from srl_swe.environments.embedded.engine import EmbeddedEngine

        return EmbeddedEngine()
    raise ConfigError(f"{ENGINE_VARIABLE} is {kind!r}; expected 'docker' (Podman's socket as well) or 'embedded'")
