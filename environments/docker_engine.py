"""Docker, and Podman by its Docker-compatible socket: the SDK with a time limit on every call.

Calls that make the engine work are bounded over all processes (`slots.py`), so that a hundred environments
starting at once queue up here and not in the engine. Left out: the protocol's meaning (`engine.py`).
"""

import contextlib
import os
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import requests
from docker.client import DockerClient
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from srl_swe.closing import Closing
from srl_swe.environments.docker_images import DockerImages
from srl_swe.environments.engine import (
    HOSTNAME,
    ContainerSpec,
    ContainerState,
    Exec,
    ImageInfo,
    ImageLayer,
    Labelled,
    PullProgress,
)
from srl_swe.environments.slots import EngineSlots
from srl_swe.environments.streams import AttachedStream
from srl_swe.errors import ContainerError, EngineTimeoutError, EngineUnavailableError, ImageError

_NO_ENGINE = (
    "Start Docker (`systemctl start docker`, or `dockerd &` as root) or Podman's socket (`systemctl --user start "
    "podman.socket` and DOCKER_HOST=unix://$XDG_RUNTIME_DIR/podman/podman.sock); without either, "
    "SRL_SWE_ENGINE=embedded. `srl-swe doctor` looks closer."
)
_CLOSED_TIMEOUT_S = 10
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


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
    except ConnectionError as error:
        raise EngineUnavailableError(f"{what}: {error}. {_NO_ENGINE}") from error


class DockerEngine(Closing):
    """An `Engine`: the Docker SDK's client with a time limit on every call."""

    def __init__(self, client: DockerClient) -> None:
        """Ask the engine what it is.

        Raises:
            EngineUnavailableError: it does not answer.
        """
        self.client = client
        """The SDK's client."""
        with engine_errors("cannot connect to a container engine"):
            version = client.version()
            information = client.info()
        self._slots = EngineSlots(str(client.api.base_url), max_calls=2 * (os.cpu_count() or 2) + 2)
        self._num_cpus = float(information["NCPU"])
        platform = (version.get("Components") or [{}])[0].get("Name", "")
        kind = "podman" if "podman" in platform.lower() else "docker"
        self._ulimits = _podman_ulimits() if kind == "podman" else []
        self.name = f"{kind} {version.get('Version')} (API {version['ApiVersion']})"
        self.architecture = _MACHINES.get(version["Arch"], version["Arch"])
        self.identity = information.get("ID") or f"{client.api.base_url} {information.get('DockerRootDir', '')}"
        self.can_pull = True
        self._images = DockerImages(client.api)
        options = " ".join(information.get("SecurityOptions") or ())
        self.gaps: tuple[str, ...] = ()
        if "name=rootless" not in options and "name=userns" not in options:
            self.gaps += ("root in a container is root on the host, without capabilities (no user namespace)",)
        if kind == "podman":
            self.gaps += ("programs may make user namespaces (Podman's filter of system calls allows it)",)
        if "seccomp" not in options:
            self.gaps += ("system calls are not filtered (no seccomp)",)
        for key, what in (("MemoryLimit", "memory"), ("PidsLimit", "the number of processes"), ("CpuCfsQuota", "CPU")):
            if information.get(key) is False:
                self.gaps += (f"{what} is not limited (the engine's cgroups lack it)",)

    @classmethod
    def from_environment(cls, *, timeout_s: float = 60, address: str | None = None) -> Self:
        """Connect to the engine at `address`, else to the one that DOCKER_HOST names, else to the local one.

        Raises:
            EngineUnavailableError: no engine answers; the message says what to do.
        """
        variables = None if address is None else {**os.environ, "DOCKER_HOST": address}
        with engine_errors(f"cannot connect to a container engine{f' at {address}' if address else ''}"):
            client = DockerClient.from_env(timeout=timeout_s, environment=variables)
        try:
            return cls(client)
        except BaseException:
            client.close()
            raise

    def close(self) -> None:
        """Close the connections; containers keep running. What is asked afterwards does not wait long for an answer."""
        self.client.close()
        # The end of the process removes what is left, also where a machine does not answer any more.
        self.client.api.timeout = min(self.client.api.timeout or _CLOSED_TIMEOUT_S, _CLOSED_TIMEOUT_S)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A connection is shared, never copied: `gym.make` copies its arguments."""
        return self

    def find_image(self, name: str) -> ImageInfo | None:
        """See `Engine`."""
        with engine_errors(f"cannot look for the image {name}"):
            return self._images.find(name)

    def pull_image(self, name: str, *, progress: Callable[[PullProgress], None] | None = None) -> None:
        """See `Engine`."""
        with engine_errors(f"cannot pull {name}"):
            self._images.pull(name, progress)

    def tag_image(self, name: str, new_name: str) -> None:
        """See `Engine`."""
        with self._slots.taken(), engine_errors(f"cannot name the image {name} {new_name}"):
            self._images.tag(name, new_name)

    def all_images(self) -> list[ImageInfo]:
        """See `Engine`."""
        with engine_errors("cannot list images"):
            return self._images.all()

    def image_layers(self, name: str) -> tuple[ImageLayer, ...]:
        """See `Engine`."""
        with engine_errors(f"cannot look at the layers of {name}"):
            return self._images.layers(name)

    def remove_image(self, name: str) -> bool:
        """See `Engine`."""
        with self._slots.taken(), engine_errors(f"cannot remove the image {name}"):
            return _removed(lambda: self.client.api.remove_image(name, noprune=False))

    def commit(
        self,
        container_id: str,
        name: str,
        *,
        labels: Mapping[str, str],
        environment: Mapping[str, str] | None = None,
        workdir: str | None = None,
    ) -> None:
        """See `Engine`."""
        repository, _, tag = name.rpartition(":")
        changes = [f"LABEL {_word(key)}={_word(value)}" for key, value in labels.items()]
        changes += [f"ENV {key}={_word(value)}" for key, value in (environment or {}).items()]
        changes += [f"WORKDIR {workdir}"] if workdir else []
        changes += ["ENTRYPOINT []", 'CMD ["bash"]']
        with self._slots.taken(), engine_errors(f"cannot keep container {container_id} as the image {name}"):
            self.client.api.commit(container_id, repository=repository, tag=tag, changes=changes)

    def list_images(self, label: str) -> list[Labelled]:
        """See `Engine`."""
        with engine_errors("cannot list images"):
            rows = self.client.api.images(filters={"label": label})
        return [Labelled(id=row["Id"], labels=row["Labels"] or {}, running=False) for row in rows]

    def start(self, spec: ContainerSpec) -> None:
        """See `Engine`."""
        api, limits = self.client.api, spec.limits
        what = f"cannot start a container of image {spec.image!r}"
        with self._slots.taken(), engine_errors(what):
            created = api.create_container(
                spec.image,
                entrypoint=list(spec.init),
                command=[],
                name=spec.name,
                hostname=HOSTNAME,
                user="0:0",
                working_dir=spec.workdir,
                labels=dict(spec.labels),
                use_config_proxy=False,
                healthcheck={"Test": ["NONE"]},
                host_config=api.create_host_config(
                    network_mode="bridge" if limits.network else "none",
                    cap_drop=["ALL"],
                    cap_add=list(spec.capabilities),
                    security_opt=["no-new-privileges:true"],
                    mem_limit=limits.memory_bytes,
                    memswap_limit=limits.memory_bytes,
                    nano_cpus=int(min(limits.cpus, self._num_cpus) * 1e9),
                    pids_limit=limits.max_processes,
                    ulimits=[
                        {"Name": "core", "Soft": 0, "Hard": 0},
                        {"Name": "nofile", "Soft": limits.max_open_files, "Hard": limits.max_open_files},
                        {"Name": "fsize", "Soft": limits.disk_bytes, "Hard": limits.disk_bytes},
                        *self._ulimits,
                    ],
                    # What is written to /proc/1/fd/1 would otherwise fill the host's disk.
                    log_config={"Type": "none", "Config": {}},
                    ipc_mode="private",
                ),
            )
            api.start(created["Id"])

    def restart(self, container_id: str) -> None:
        """See `Engine`."""
        with engine_errors(f"cannot restart container {container_id}"):
            self.client.api.restart(container_id, timeout=0)

    def rewind(self, container_id: str) -> bool:
        """See `Engine`. To learn what changed the engine compares all files: 0.35 s for 280 MB; a start takes 0.2 s."""
        return False

    def remove(self, container_id: str) -> bool:
        """See `Engine`."""
        with self._slots.taken(), engine_errors(f"cannot remove container {container_id}"):
            return _removed(lambda: self.client.api.remove_container(container_id, force=True, v=True))

    def list_containers(self, label: str) -> list[Labelled]:
        """See `Engine`."""
        with engine_errors("cannot list containers"):
            rows = self.client.api.containers(all=True, filters={"label": label})
        return [
            Labelled(
                id=row["Names"][0].lstrip("/") if row["Names"] else row["Id"],
                labels=row["Labels"] or {},
                running=row["State"] in ("running", "paused"),
            )
            for row in rows
        ]

    def state(self, container_id: str) -> ContainerState:
        """See `Engine`."""
        with engine_errors(f"cannot ask for the state of container {container_id}"):
            try:
                state: dict[str, Any] = self.client.api.inspect_container(container_id)["State"]
            except NotFound:
                return ContainerState(running=False, status="removed")
        return ContainerState(
            running=bool(state["Running"]),
            status=state["Status"],
            exit_code=state.get("ExitCode"),
            out_of_memory=bool(state.get("OOMKilled")),
        )

    def written_bytes(self, container_id: str) -> int:
        """See `Engine`."""
        api = self.client.api
        with engine_errors(f"cannot ask for the size of container {container_id}"):
            # The SDK's inspect_container has no word for `size`.
            answer = api._result(api._get(api._url("/containers/{0}/json", container_id), params={"size": True}), True)
        return int(answer.get("SizeRw") or 0)

    def exec(
        self,
        container_id: str,
        argv: Sequence[str],
        *,
        user: str,
        stdin: bool = False,
        environment: Mapping[str, str] | None = None,
        workdir: str = "/",
    ) -> Exec:
        """See `Engine`."""
        api = self.client.api
        with self._slots.taken(), engine_errors(f"container {container_id}: cannot run {argv[0]!r}"):
            created = api.exec_create(
                container_id,
                list(argv),
                stdin=stdin,
                user=user,
                environment=dict(environment or {}),
                workdir=workdir,
            )
            return _DockerExec(self.client, created["Id"], api.exec_start(created["Id"], socket=True))

    def put_archive(self, container_id: str, folder: str, tar: bytes) -> None:
        """See `Engine`."""
        with self._slots.taken(), engine_errors(f"container {container_id}: cannot write into {folder}"):
            self.client.api.put_archive(container_id, folder, tar)

    def get_archive(self, container_id: str, path: str) -> tuple[Iterator[bytes], str]:
        """See `Engine`."""
        what = f"container {container_id}: cannot read {path}"
        missing = False
        with engine_errors(what):
            try:
                chunks, stat = self.client.api.get_archive(container_id, path)
            except APIError as error:
                said = str(error).lower()
                endless = "too many links" in said or "too many levels" in said
                if not endless and (not isinstance(error, NotFound) or "no such container" in said):
                    raise
                missing = True
        if missing:
            raise FileNotFoundError(f"{path}: no such file in container {container_id}")
        return _translated(chunks, what), stat["linkTarget"]


class _DockerExec(AttachedStream):
    """An `Exec`: the stream of an attached exec, and the engine's word on it."""

    def __init__(self, client: DockerClient, exec_id: str, attached: Any) -> None:
        super().__init__(attached)
        self._client = client
        self._id = exec_id

    def exit_code(self) -> int | None:
        with engine_errors("cannot ask for the state of a command"):
            state: dict[str, Any] = self._client.api.exec_inspect(self._id)
        return None if state["Running"] else state["ExitCode"]


def _removed(remove: Callable[[], object]) -> bool:
    """Remove something; False where it is gone, in use, or being removed by another process."""
    try:
        remove()
    except APIError as error:
        if error.status_code in (404, 409):
            return False
        raise
    return True


def _podman_ulimits() -> list[dict[str, Any]]:
    """Return the limit on a user's processes that Podman would otherwise set beyond what it may on some machines."""
    try:
        pids = int(Path("/proc/sys/kernel/pid_max").read_text())
    except FileNotFoundError:  # a client on macOS: its engine runs in a virtual machine, as root
        return []
    most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    value = pids if most == resource.RLIM_INFINITY else min(most, pids)
    return [{"Name": "nproc", "Soft": value, "Hard": value}]


def _translated(chunks: Iterator[bytes], what: str) -> Iterator[bytes]:
    with engine_errors(what):
        yield from chunks


def _word(text: str) -> str:
    """Quote for a Dockerfile instruction. Docker takes escapes, Podman keeps them: so nothing may need one."""
    assert not set(text) & set('"\\$\n'), f"{text!r} cannot stand in an instruction"
    return f'"{text}"'
