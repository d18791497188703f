"""The container engine: one connection with a time limit on every call, and its errors in our words.

Left out: what runs in it (`container.py`, `images.py`).
"""

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import requests
from docker.client import DockerClient
from docker.errors import APIError, DockerException, ImageNotFound

from srl_swe.environments.leases import collect_garbage
from srl_swe.errors import ContainerError, EngineTimeoutError, EngineUnavailableError, ImageError

_NO_ENGINE = (
    "Start Docker (`systemctl start docker`, or `dockerd &` as root) or Podman's socket (`systemctl --user start "
    "podman.socket` and DOCKER_HOST=unix://$XDG_RUNTIME_DIR/podman/podman.sock); `srl-swe doctor` looks closer."
)

_lock = threading.Lock()
_collected = False


@contextlib.contextmanager
def engine_errors(what: str) -> Iterator[None]:
    """Translate what the Docker SDK and its HTTP client raise into the project's errors; `what` opens the message."""
    try:
        yield
    except ImageNotFound as error:
        raise ImageError(f"{what}: {error.explanation or error}") from error
    except APIError as error:
        raise ContainerError(f"{what}: {error.explanation or error}") from error
    except requests.exceptions.Timeout as error:
        raise EngineTimeoutError(f"{what}: the engine did not answer in time ({error})") from error
    except requests.exceptions.ConnectionError as error:
        # urllib3 reports a read timeout in the middle of a streamed body as a connection error.
        if "timed out" in str(error):
            raise EngineTimeoutError(f"{what}: the engine did not answer in time ({error})") from error
        raise EngineUnavailableError(f"{what}: the container engine does not answer ({error}). {_NO_ENGINE}") from error
    except DockerException as error:
        raise EngineUnavailableError(f"{what}: {error}. {_NO_ENGINE}") from error
    except requests.exceptions.RequestException as error:
        raise ContainerError(f"{what}: {error}") from error


class Engine:
    """The container engine: the Docker SDK's client with a time limit on every call.

    Podman's Docker-compatible socket serves as well. May be shared between threads.
    """

    def __init__(self, client: DockerClient) -> None:
        self.client = client
        """The SDK's client, for calls that have no method here; wrap those in `engine_errors`."""

    @classmethod
    def connect(cls, *, timeout_s: float = 60) -> Self:
        """Connect to the engine that DOCKER_HOST names, or the local one.

        The first connection of a process also removes the containers that dead processes left.

        Raises:
            EngineUnavailableError: no engine answers; the message says what to do.
        """
        global _collected
        with engine_errors("cannot connect to a container engine"):
            engine = cls(DockerClient.from_env(timeout=timeout_s))
        try:
            with engine_errors("cannot connect to a container engine"):
                engine.client.ping()
            with _lock:
                first, _collected = not _collected, True
            if first:
                collect_garbage(engine)
        except BaseException:
            engine.close()
            raise
        return engine

    def close(self) -> None:
        """Close the connections; containers keep running."""
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def list_labelled(self, label: str) -> list[tuple[str, dict[str, str], bool]]:
        """Return (id, labels, whether it runs) of every container that carries `label`."""
        with engine_errors("cannot list containers"):
            rows = self.client.api.containers(all=True, filters={"label": label})
        return [(row["Id"], row["Labels"] or {}, row["State"] in ("running", "paused")) for row in rows]

    def remove(self, container_id: str) -> bool:
        """End and remove a container; False where it is gone already or another process removes it."""
        try:
            with engine_errors(f"cannot remove container {container_id[:12]}"):
                self.client.api.remove_container(container_id, force=True, v=True)
        except ContainerError as error:
            if isinstance(error.__cause__, APIError) and error.__cause__.status_code in (404, 409):
                return False
            raise
        return True
