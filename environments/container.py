"""One container: its start with limits, commands, files, and its certain end.

Left out: the engine and the limits (`engine.py`, `limits.py`; re-exported here), the persistent shell
(`shell.py`), images (`images.py`), ownership (`leases.py`).
"""

import atexit
import io
import logging
import os
import posixpath
import re
import secrets
import tarfile
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from docker.errors import NotFound

from srl_swe.environments.engine import Engine, engine_errors
from srl_swe.environments.leases import owner_labels
from srl_swe.environments.limits import ContainerLimits
from srl_swe.environments.streams import STDERR, ExecStream, OutputBuffer
from srl_swe.errors import (
    ContainerError,
    DataError,
    EngineTimeoutError,
    EngineUnavailableError,
)
from srl_swe.types import CommandResult

__all__ = ["Container", "ContainerLimits", "Engine", "engine_errors"]

LOGGER = logging.getLogger(__name__)

# PID 1 waits on a pipe that it alone holds. It never forks, so a fork bomb cannot end it; bash reaps
# orphans while it waits; the kernel keeps signals from inside the container away from it. An init
# process with a child would end with that child at the first `kill -9 -1`, the container with it.
_INIT = "exec 3<> <(:); while :; do read -r -N 1 -u 3 _; done"
_HOSTNAME = "srl-swe"
_DEFAULT_LIMITS = ContainerLimits()
_MAX_ARCHIVE_BYTES = 1 << 30
_LATE_OUTPUT_S = 2.0
"""How long output is waited for after its program ended."""
_MISSING_PROGRAM = re.compile(r"no such file|not found|permission denied|exec format error", re.IGNORECASE)

_open_containers: dict[str, "Container"] = {}
_lock = threading.Lock()


class Container:
    """One running container without rights: no network, no capabilities, nothing of the host.

    The image needs bash. Close it, or use it as a context manager; a normal exit of the process closes
    what is still open, and the next process removes what a killed one left.
    """

    def __init__(self, engine: Engine, container_id: str, *, name: str, workdir: str) -> None:
        self.engine = engine
        self.id = container_id
        self.name = name
        self.workdir = workdir
        self.num_kills = 0
        """How often `kill_processes` ran; a shell opened before the last one is dead."""
        self._owner_pid = os.getpid()
        self._closed = False

    @classmethod
    def start(
        cls,
        engine: Engine,
        image: str,
        *,
        workdir: str = "/",
        limits: ContainerLimits = _DEFAULT_LIMITS,
        name_hint: str = "",
    ) -> Self:
        """Start a container of an image that the engine has.

        `name_hint` becomes part of the container's name, for people who look at `docker ps`.

        Raises:
            ImageError: the engine does not have the image.
            ContainerError: it could not be created or started.
        """
        hint = re.sub(r"[^a-zA-Z0-9_.-]+", "-", name_hint).strip("-.")[:60]
        name = "-".join(part for part in ("srl-swe", hint, secrets.token_hex(6)) if part)
        api = engine.client.api
        what = f"cannot start a container of image {image!r}"
        with engine_errors(what):
            cpus = min(limits.cpus, float(api.info()["NCPU"]))
            created = api.create_container(
                image,
                entrypoint=["/bin/bash", "--norc", "--noprofile", "-c", _INIT],
                command=[],
                name=name,
                hostname=_HOSTNAME,
                user="0:0",
                working_dir=workdir,
                labels=owner_labels(),
                use_config_proxy=False,
                healthcheck={"Test": ["NONE"]},
                host_config=api.create_host_config(
                    network_mode="bridge" if limits.network else "none",
                    cap_drop=["ALL"],
                    security_opt=["no-new-privileges:true"],
                    mem_limit=limits.memory_bytes,
                    memswap_limit=limits.memory_bytes,
                    nano_cpus=int(cpus * 1e9),
                    pids_limit=limits.max_processes,
                    ulimits=[{"Name": "core", "Soft": 0, "Hard": 0}],
                    # What is written to /proc/1/fd/1 would otherwise fill the host's disk.
                    log_config={"Type": "none", "Config": {}},
                    ipc_mode="private",
                ),
            )
        container = cls(engine, created["Id"], name=name, workdir=workdir)
        with _lock:
            _open_containers[container.id] = container
        try:
            with engine_errors(what):
                api.start(container.id)
        except BaseException:
            container.close()
            raise
        return container

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def execute(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 60,
        max_output_bytes: int = 1 << 20,
        environment: Mapping[str, str] | None = None,
        workdir: str | None = None,
    ) -> CommandResult:
        """Run a program beside the shell, stdin empty, and return its merged output and exit code.

        At the time limit every process of the container is ended (so that nothing the program started
        survives); an open Shell notices and comes back at its next command. What the program leaves
        running in the background before the limit is left alone.

        Raises:
            ContainerError: the program could not be started, or the container died.
        """
        started = time.monotonic()
        output, timed_out = OutputBuffer(max_output_bytes), False
        # The mark on stderr proves that the program started: without it, text of the engine's own
        # (for example that it could not fork) would pass for output.
        mark = secrets.token_hex(16).encode()
        script = 'printf %s "$1" >&2; shift; exec "$@" 2>&1'
        exec_id, stream = self.open_exec(
            ["/bin/sh", "-c", script, "sh", mark.decode(), *argv], environment=environment, workdir=workdir
        )
        errors, ended = bytearray(), False
        until, quiet_s = started + timeout_s, 0.02
        try:
            while (left_s := until - time.monotonic()) > 0:
                payloads = stream.receive(timeout_s=min(quiet_s, left_s))
                if payloads is None:
                    break
                for source, payload in payloads:
                    if source != STDERR:
                        output.add(payload)
                    elif len(errors) < 4096:
                        errors += payload
                quiet_s = 0.02 if payloads else min(2 * quiet_s, 1.0)
                if quiet_s >= 0.1 and not ended and self.exec_exit_code(exec_id) is not None:
                    # Something in the background may hold its output open; a busy engine delivers late.
                    ended, until = True, min(until, time.monotonic() + _LATE_OUTPUT_S)
            else:
                timed_out = not ended
        finally:
            stream.close()
        if timed_out:
            self.kill_processes()
        exit_code = None if timed_out else self._await_exit_code(exec_id)
        if mark not in errors and not timed_out:
            said = (bytes(errors) + output.content()).decode(errors="replace").strip()
            self.require_running()
            raise ContainerError(f"container {self.name}: {argv[0]!r} could not be started: {said or exit_code}")
        if exit_code != 0:
            self.require_running()
        return CommandResult(
            output=output.text(),
            exit_code=exit_code,
            duration_s=time.monotonic() - started,
            timed_out=timed_out,
            omitted_bytes=output.omitted_bytes,
        )

    def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file at an absolute path, missing folders included, owned by root."""
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            entry = tarfile.TarInfo(_absolute(path).lstrip("/"))
            entry.size, entry.mode, entry.mtime = len(data), mode, int(time.time())
            archive.addfile(entry, io.BytesIO(data))
        self.put_archive("/", tar.getvalue())

    def read_file(self, path: str, *, max_bytes: int = 64 << 20) -> bytes:
        """Return the content of a file at an absolute path; symbolic links are followed.

        Raises:
            FileNotFoundError: there is no such file.
            IsADirectoryError: it is not a regular file.
            DataError: it is larger than `max_bytes`.
        """
        target = _absolute(path)
        for _ in range(20):
            tar, stat = self._get_archive(target, max_bytes=max_bytes + (1 << 20))
            with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
                entry = archive.next()
                if entry is None:
                    raise FileNotFoundError(f"{path}: no such file in container {self.name}")
                if entry.issym():
                    target = posixpath.normpath(posixpath.join(posixpath.dirname(target), stat["linkTarget"]))
                    continue
                content = archive.extractfile(entry)
                if content is None:
                    raise IsADirectoryError(f"{path}: not a regular file in container {self.name}")
                if entry.size > max_bytes:
                    raise DataError(f"{path} has {entry.size} bytes in container {self.name}; at most {max_bytes}")
                return content.read()
        raise FileNotFoundError(f"{path}: too many symbolic links in container {self.name}")

    def get_archive(self, path: str) -> bytes:
        """Return a file or folder as a tar whose names start with the path's last part (at most 1 GiB).

        Raises:
            FileNotFoundError: there is no such path.
        """
        return self._get_archive(_absolute(path), max_bytes=_MAX_ARCHIVE_BYTES)[0]

    def put_archive(self, folder: str, tar: bytes) -> None:
        """Unpack a tar into an existing folder."""
        with engine_errors(f"container {self.name}: cannot write into {folder}"):
            self.engine.client.api.put_archive(self.id, _absolute(folder), tar)

    def kill_processes(self) -> None:
        """End every process except init, however it was started; files stay.

        Works under a fork bomb: where no exec gets through, the engine ends the container and starts it again.

        Raises:
            ContainerError: the container did not come back.
        """
        self.num_kills += 1
        for shell in ("/bin/bash", "/bin/sh"):
            ended, said = self._kill_all(shell)
            if ended:
                return
            if not _MISSING_PROGRAM.search(said):
                break
        else:
            # Init needs bash as well: a restart would only end the container.
            raise ContainerError(f"container {self.name}: its processes cannot be ended, it has no shell left: {said}")
        LOGGER.debug("container %s: no exec gets through, restarting it: %s", self.name, said)
        with engine_errors(f"container {self.name}: cannot restart it to end its processes"):
            self.engine.client.api.restart(self.id, timeout=0)
        self.require_running()

    def is_running(self) -> bool:
        """Ask the engine whether the container still runs."""
        return not self._closed and bool(self._state().get("Running"))

    def require_running(self) -> None:
        """Raise ContainerError, saying why if the engine knows, unless the container runs."""
        if self._closed:
            raise ContainerError(f"container {self.name} is closed")
        state = self._state()
        if not state.get("Running"):
            why = "out of memory" if state.get("OOMKilled") else f"exit code {state.get('ExitCode')}"
            raise ContainerError(f"container {self.name} no longer runs ({state.get('Status')}, {why})")

    def close(self) -> None:
        """End and remove the container; idempotent."""
        if self._closed:
            return
        self.engine.remove(self.id)
        self._closed = True
        with _lock:
            _open_containers.pop(self.id, None)

    def open_exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bool = False,
        environment: Mapping[str, str] | None = None,
        workdir: str | None = None,
    ) -> tuple[str, ExecStream]:
        """Start a program and return the exec's id and its stream, for callers that talk to it."""
        if self._closed:
            raise ContainerError(f"container {self.name} is closed")
        api = self.engine.client.api
        with engine_errors(f"container {self.name}: cannot run {argv[0]!r}"):
            created = api.exec_create(
                self.id,
                list(argv),
                stdin=stdin,
                environment=dict(environment or {}),
                workdir=workdir or self.workdir,
            )
            return created["Id"], ExecStream(api.exec_start(created["Id"], socket=True))

    def exec_exit_code(self, exec_id: str) -> int | None:
        """Return the exit code of an exec, None while it runs."""
        with engine_errors(f"container {self.name}: cannot ask for the state of a command"):
            state: dict[str, Any] = self.engine.client.api.exec_inspect(exec_id)
        return None if state["Running"] else state["ExitCode"]

    def _await_exit_code(self, exec_id: str) -> int:
        """Return the exit code of an exec whose stream ended; the engine learns of it a moment later."""
        deadline = time.monotonic() + 10
        while (exit_code := self.exec_exit_code(exec_id)) is None:
            if time.monotonic() > deadline:
                raise ContainerError(f"container {self.name}: a command closed its streams, but still runs")
            time.sleep(0.002)
        return exit_code

    def _kill_all(self, shell: str) -> tuple[bool, str]:
        """Send SIGKILL to everything except init and the sender; tell whether that worked, and what was said."""
        # One system call reaches all processes at once, so none can fork its way out.
        said = OutputBuffer(2000)
        try:
            exec_id, stream = self.open_exec([shell, "-c", "kill -9 -1; exit 67"], workdir="/")
        except (EngineTimeoutError, EngineUnavailableError):
            raise
        except ContainerError as error:
            self.require_running()
            return False, str(error)
        deadline = time.monotonic() + 10
        try:
            while (exit_code := self.exec_exit_code(exec_id)) is None and time.monotonic() < deadline:
                for _, payload in stream.receive(timeout_s=0.01) or []:
                    said.add(payload)
            for _, payload in stream.receive(timeout_s=0.01) or []:
                said.add(payload)
        finally:
            stream.close()
        return exit_code == 67, said.text().strip()

    def _state(self) -> dict[str, Any]:
        try:
            with engine_errors(f"container {self.name}: cannot ask for its state"):
                state: dict[str, Any] = self.engine.client.api.inspect_container(self.id)["State"]
        except ContainerError as error:
            if isinstance(error.__cause__, NotFound):
                return {"Running": False, "Status": "removed"}
            raise
        return state

    def _get_archive(self, path: str, *, max_bytes: int) -> tuple[bytes, dict[str, Any]]:
        """Return the tar of a path and the engine's description of it, cut off past `max_bytes`."""
        try:
            with engine_errors(f"container {self.name}: cannot read {path}"):
                chunks, stat = self.engine.client.api.get_archive(self.id, path)
                tar = bytearray()
                for chunk in chunks:
                    tar += chunk
                    if len(tar) > max_bytes:
                        raise DataError(f"{path} in container {self.name} is larger than {max_bytes} bytes")
        except ContainerError as error:
            if isinstance(error.__cause__, NotFound) or "too many links" in str(error):
                raise FileNotFoundError(f"{path}: no such file in container {self.name}") from error
            raise
        return bytes(tar), stat


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"expected an absolute path in the container, found {path!r}")
    return path


@atexit.register
def _close_open_containers() -> None:
    with _lock:
        containers = list(_open_containers.values())
    for container in containers:
        if container._owner_pid != os.getpid():
            continue  # a forked child must not take its parent's containers away
        try:
            container.close()
        except ContainerError as error:
            LOGGER.warning("%s; the next start removes it", error)
