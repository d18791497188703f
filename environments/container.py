"""One container: its start with limits, commands, files, and its certain end.

Left out: the engine (`engine.py`), the persistent shell (`shell.py`), images (`images.py`), ownership
(`leases.py`), the watch over what is written to disk (`disk_watch.py`).
"""

import contextlib
import io
import logging
import posixpath
import re
import secrets
import tarfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Self

from srl_swe.closing import Closing
from srl_swe.environments.disk_watch import DiskWatch
from srl_swe.environments.engine import HOSTNAME, STDERR, ContainerSpec, Engine, Exec
from srl_swe.environments.leases import lease_label, owner_labels, ownerless_labels
from srl_swe.environments.limits import ContainerLimits
from srl_swe.environments.open_things import OpenThings
from srl_swe.environments.streams import OutputBuffer
from srl_swe.errors import ContainerError, DataError, EngineTimeoutError, EngineUnavailableError
from srl_swe.types import CommandResult

LOGGER = logging.getLogger(__name__)

# PID 1 waits on a pipe that it alone holds. It never forks, so a fork bomb cannot end it; bash reaps
# orphans while it waits (not with a time limit to `read`); the kernel keeps signals from inside the container away
# from it. An init process with a child would end with that child at the first `kill -9 -1`, the container with it.
_INIT = (
    # Podman copies the host's /etc/hosts, and leaves / at 0555, which binds root without capabilities.
    f"{{ printf '127.0.0.1\\tlocalhost {HOSTNAME}\\n::1\\tlocalhost\\n' >/etc/hosts; chmod u+w /; }} 2>/dev/null; "
    "exec 3<> <(:); while :; do read -r -N 1 -u 3 _; done"
)
_DEFAULT_LIMITS = ContainerLimits()
_MAX_ARCHIVE_BYTES = 1 << 30
_LATE_OUTPUT_S = 2.0
"""How long output is waited for after its program ended."""
_MISSING_PROGRAM = re.compile(r"no such file|not found|permission denied|exec format error", re.IGNORECASE)

_disk_watch = DiskWatch()


class Container(Closing):
    """One running container without rights: no network, no capabilities, nothing of the host.

    The image needs bash. Close it, or use it as a context manager; a normal exit of the process closes
    what is still open, and the next process removes what a killed one left.
    """

    def __init__(self, engine: Engine, name: str, *, workdir: str, limits: ContainerLimits) -> None:
        self.engine = engine
        self.name = name
        """Also its id for the engine."""
        self.workdir = workdir
        self.limits = limits
        self.num_kills = 0
        """How often its processes were ended; a shell opened before the last time is dead."""
        self.ended_by = ""
        """Why its processes were ended from outside since this was last emptied; "" = they were not."""
        self._starting = threading.Lock()
        """Held while the engine starts it: until then it cannot be removed for certain."""
        self._closed = False
        self._doomed = False
        """Closed by its user while the engine failed; removed as soon as it answers again."""

    @classmethod
    def start(
        cls,
        engine: Engine,
        image: str,
        *,
        workdir: str = "/",
        limits: ContainerLimits = _DEFAULT_LIMITS,
        name_hint: str = "",
        capabilities: Sequence[str] = (),
    ) -> Self:
        """Start a container of an image that the engine has.

        `name_hint` becomes part of the container's name, for people who look at `docker ps`. `capabilities` are
        for our own work on an image in which nothing hostile has run.

        Raises:
            ImageError: the engine does not have the image.
            ContainerError: it could not be created or started.
        """
        for doomed in (other for other in open_containers.all() if other._doomed):
            with contextlib.suppress(ContainerError):
                doomed.close()
        hint = re.sub(r"[^a-zA-Z0-9_.-]+", "-", name_hint).strip("-.")[:60]
        name = "-".join(part for part in ("srl-swe", hint, secrets.token_hex(6)) if part)
        spec = ContainerSpec(
            image=image,
            name=name,
            labels={**owner_labels(), **lease_label(limits.lifetime_s)},
            limits=limits,
            init=("/bin/bash", "--norc", "--noprofile", "-c", _INIT),
            workdir=workdir,
            capabilities=tuple(capabilities),
        )
        container = cls(engine, name, workdir=workdir, limits=limits)
        # Known before it exists: an interrupt in the middle of the call must not lose it.
        open_containers.add(container)
        try:
            with container._starting:
                engine.start(spec)
        except ContainerError:
            with contextlib.suppress(ContainerError):
                container.close()
            raise
        except BaseException:
            # The engine may go on with what was interrupted here, so the end of the process looks once more.
            with contextlib.suppress(ContainerError):
                engine.remove(name)
            raise
        container._require_open()  # the end of the process may have closed it meanwhile
        _disk_watch.add(container)
        return container

    def execute(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 60,
        max_output_bytes: int = 1 << 20,
        environment: Mapping[str, str] | None = None,
        workdir: str | None = None,
        user: str | None = None,
        side: OutputBuffer | None = None,
    ) -> CommandResult:
        """Run a program beside the shell, stdin empty, and return its merged output and exit code.

        At the time limit every process of the container is ended (so that nothing the program started
        survives); an open Shell notices and comes back at its next command. What the program leaves
        running in the background before the limit is left alone. `user` None means the one of the limits. `side`
        takes in what is written to file descriptor 9, as it comes: nothing in the container can take it back.

        Raises:
            ContainerError: the program could not be started, or the container died.
        """
        started = time.monotonic()
        output, timed_out = OutputBuffer(max_output_bytes), False
        # The mark on stderr proves that the program started: without it, text of the engine's own
        # (for example that it could not fork) would pass for output.
        mark = secrets.token_hex(16).encode()
        script = f'printf %s "$1" >&2; shift; exec "$@" {"9>&2 " if side is not None else ""}2>&1'
        execution = self.open_exec(
            ["/bin/sh", "-c", script, "sh", mark.decode(), *argv], environment=environment, workdir=workdir, user=user
        )
        errors, ended = bytearray(), False
        until, quiet_s = started + timeout_s, 0.02
        try:
            while (left_s := until - time.monotonic()) > 0:
                payloads = execution.receive(timeout_s=min(quiet_s, left_s))
                if payloads is None:
                    break
                for source, payload in payloads:
                    if source != STDERR:
                        output.add(payload)
                    else:
                        room = max(0, (4096 if side is None else len(mark)) - len(errors))
                        errors += payload[:room]
                        if side is not None:
                            side.add(payload[room:])
                quiet_s = 0.02 if payloads else min(2 * quiet_s, 1.0)
                if quiet_s >= 0.1 and not ended and execution.exit_code() is not None:
                    # Something in the background may hold its output open; a busy engine delivers late.
                    ended, until = True, min(until, time.monotonic() + _LATE_OUTPUT_S)
            else:
                timed_out = not ended
        finally:
            execution.close()
        if timed_out:
            self.kill_processes()
        exit_code = None if timed_out else self._await_exit_code(execution)
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
        self.write_files({path: data}, mode=mode)

    def write_files(self, files: Mapping[str, bytes], *, mode: int = 0o644) -> None:
        """Write files at absolute paths in one go, missing folders included, owned by root."""
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            for path, data in files.items():
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
            tar, link = self._get_archive(target, max_bytes=max_bytes + (1 << 20))
            with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
                entry = archive.next()
                if entry is None:
                    raise FileNotFoundError(f"{path}: no such file in container {self.name}")
                if entry.issym():
                    target = posixpath.normpath(posixpath.join(posixpath.dirname(target), link))
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
        self._require_open()
        self.engine.put_archive(self.name, _absolute(folder), tar)

    def commit(
        self,
        image: str,
        *,
        labels: Mapping[str, str],
        environment: Mapping[str, str] | None = None,
        workdir: str | None = None,
    ) -> None:
        """Keep the files as an image that inherits no owner; processes are paused meanwhile.

        `environment` and `workdir` are what the image's containers start with; None keeps those of this one's image.
        """
        self._require_open()
        labels = {**ownerless_labels(), **labels}
        self.engine.commit(self.name, image, labels=labels, environment=environment, workdir=workdir)

    def rewind(self) -> bool:
        """End every process and bring every file back to the image's; False where the engine cannot do so quickly."""
        self._require_open()
        rewound = self.engine.rewind(self.name)
        if rewound:
            self.num_kills += 1
            self.ended_by = ""
            _disk_watch.add(self)
        return rewound

    def kill_processes(self, *, because: str = "") -> None:
        """End every process except init, however it was started; files stay.

        Works under a fork bomb: where no exec gets through, the engine ends the container and starts it again.
        `because` is what `ended_by` says afterwards.

        Raises:
            ContainerError: the container did not come back.
        """
        self.num_kills += 1
        self.ended_by = because
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
        self.engine.restart(self.name)
        self.require_running()

    def is_running(self) -> bool:
        """Ask the engine whether the container still runs."""
        return not self._closed and self.engine.state(self.name).running

    def require_running(self) -> None:
        """Raise ContainerError, saying why if the engine knows, unless the container runs."""
        self._require_open()
        state = self.engine.state(self.name)
        if not state.running:
            why = "out of memory" if state.out_of_memory else f"exit code {state.exit_code}"
            raise ContainerError(f"container {self.name} no longer runs ({state.status}, {why})")

    def unwatch_disk(self) -> None:
        """Stop looking at how much is written: for our own work, after the last command of an agent."""
        _disk_watch.discard(self)

    def close(self) -> None:
        """End and remove the container; idempotent.

        Raises:
            ContainerError: the engine failed; it is removed as soon as the engine answers again.
        """
        with self._starting:
            if self._closed:
                return
            _disk_watch.discard(self)
            try:
                self.engine.remove(self.name)
            except ContainerError:
                self._doomed = True
                raise
            self._closed = True
            open_containers.discard(self)

    def open_exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bool = False,
        environment: Mapping[str, str] | None = None,
        workdir: str | None = None,
        user: str | None = None,
    ) -> Exec:
        """Start a program whose streams the caller reads and closes; `user` None means the one of the limits."""
        self._require_open()
        return self.engine.exec(
            self.name,
            argv,
            user=user or self.limits.user,
            stdin=stdin,
            environment=environment,
            workdir=workdir or self.workdir,
        )

    def _require_open(self) -> None:
        if self._closed:
            raise ContainerError(f"container {self.name} is closed")

    def _await_exit_code(self, execution: Exec) -> int:
        """Return the exit code of an exec whose stream ended; the engine learns of it a moment later."""
        deadline = time.monotonic() + 10
        while (exit_code := execution.exit_code()) is None:
            if time.monotonic() > deadline:
                raise ContainerError(f"container {self.name}: a command closed its streams, but still runs")
            time.sleep(0.002)
        return exit_code

    def _kill_all(self, shell: str) -> tuple[bool, str]:
        """Send SIGKILL to everything except init and the sender; tell whether that worked, and what was said."""
        # One system call reaches all processes at once, so none can fork its way out.
        said = OutputBuffer(2000)
        try:
            execution = self.open_exec([shell, "-c", "kill -9 -1; exit 67"], workdir="/")
        except (EngineTimeoutError, EngineUnavailableError):
            raise
        except ContainerError as error:
            self.require_running()
            return False, str(error)
        deadline = time.monotonic() + 10
        try:
            while (exit_code := execution.exit_code()) is None and time.monotonic() < deadline:
                for _, payload in execution.receive(timeout_s=0.01) or []:
                    said.add(payload)
            for _, payload in execution.receive(timeout_s=0.01) or []:
                said.add(payload)
        finally:
            execution.close()
        return exit_code == 67, said.text().strip()

    def _get_archive(self, path: str, *, max_bytes: int) -> tuple[bytes, str]:
        """Return the tar of a path and where a link points, refused past `max_bytes`."""
        self._require_open()
        chunks, link = self.engine.get_archive(self.name, path)
        tar = bytearray()
        for chunk in chunks:
            tar += chunk
            if len(tar) > max_bytes:
                raise DataError(f"{path} in container {self.name} is larger than {max_bytes} bytes")
        return bytes(tar), link


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"expected an absolute path in the container, found {path!r}")
    return path


open_containers = OpenThings(Container.close)
