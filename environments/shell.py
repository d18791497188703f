"""A persistent bash inside a container: what one command sets, the next one finds.

One attached exec carries everything, so a command costs no round trip to the engine. Left out:
what an agent gets to read of a result (`observations.py`).
"""

import logging
import secrets
import shlex
import time
from collections.abc import Mapping

from srl_swe.closing import Closing
from srl_swe.environments.container import Container
from srl_swe.environments.engine import STDERR, Exec
from srl_swe.environments.streams import OutputBuffer
from srl_swe.errors import ContainerError, EngineTimeoutError, EngineUnavailableError
from srl_swe.types import CommandResult

LOGGER = logging.getLogger(__name__)

DEFAULT_ENVIRONMENT: Mapping[str, str] = {
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "PAGER": "cat",
    "GIT_PAGER": "cat",
    "MANPAGER": "cat",
    "GIT_EDITOR": "true",
    "GIT_TERMINAL_PROMPT": "0",
    "PIP_PROGRESS_BAR": "off",
    "TQDM_DISABLE": "1",
}
"""Keeps programs from waiting for a person or drawing progress bars."""

# Interactive, since such a shell survives what ends a script (`${x?}`, `$((1/0))`) and its messages carry
# no line number that would grow with the history. What it sources is not interactive: commands run that
# way are spared the notices on jobs ("[1] 4711") and on a missing terminal.
_BASH = ("/bin/bash", "--noprofile", "--norc", "--noediting", "-i")
# The shell's own streams go to high descriptors, closed for every command: a command that closes or
# redirects its streams cannot cut the line.
_CONTROL_FD, _OUTPUT_FD, _SOURCE_FD = 250, 251, 249
_SETUP = (
    f"exec {_CONTROL_FD}>&2 {_OUTPUT_FD}>&1 >/dev/null 2>&1; set +o history +H; PS1= PS2=; "
    '__srl_status() { builtin return "$1"; }'
)
_START_TIMEOUT_S = 60.0
_INTERRUPT_GRACE_S = 1.0
_MAX_CONTROL_BYTES = 1 << 16


class Shell(Closing):
    """One persistent bash. Close it or its container; a shell serves one thread.

    A command that ends the shell, or that reaches its time limit, costs the shell's variables but not
    the episode: a fresh shell stands in the same directory and the result says so.
    """

    def __init__(
        self,
        container: Container,
        *,
        workdir: str,
        activate: str = "",
        environment: Mapping[str, str] = DEFAULT_ENVIRONMENT,
    ) -> None:
        """Start bash in `workdir` and run the shell text `activate` in it.

        Raises:
            ContainerError: bash does not start, `workdir` is missing, or `activate` fails.
        """
        self._container = container
        self._home = workdir
        self._activate = activate
        self._environment = dict(environment)
        self._exec: Exec | None = None
        self._pid = 0
        self._num_kills = 0
        self._early = b""
        self._exit_code = 0
        self.workdir = workdir
        """The current directory after the last command."""
        self._open()
        for command in (f"cd -- {shlex.quote(workdir)}", activate):
            result = self.run(command, timeout_s=_START_TIMEOUT_S)
            if result.exit_code != 0:
                self.close()
                raise ContainerError(
                    f"container {container.name}: {command!r} at the start of the shell ended with exit code "
                    f"{result.exit_code}: {result.output.strip()[-2000:]}"
                )

    def run(
        self, command: str, *, timeout_s: float, max_output_bytes: int = 64_000, separate_streams: bool = False
    ) -> CommandResult:
        """Run a command and return its output and exit code; stdin is empty.

        The output is stdout and stderr as they came, or with `separate_streams` stdout alone, and stderr is
        `CommandResult.errors`. A command is over when its foreground part is; what a background job prints later
        comes at the head of a later output. At the limit it gets SIGINT and, a moment later, every process of the
        container is ended. `exit_code` is None then, or when the shell ended and the engine cannot say how.

        Raises:
            ContainerError: the engine or the container failed.
        """
        started = time.monotonic()
        if "\0" in command:
            return CommandResult(
                output="bash: a command cannot contain a NUL character; nothing was run\n", exit_code=2, duration_s=0.0
            )
        replaced = self._exec is None or self._num_kills != self._container.num_kills
        if replaced and (reason := self._replace()):
            return CommandResult(output=reason, exit_code=127, duration_s=time.monotonic() - started)
        exchange = _Exchange(max_output_bytes)
        exchange.output.add(self._early)
        self._early = b""
        timed_out, exit_code = False, None
        if self._send(exchange, command, deadline=started + timeout_s, separate_streams=separate_streams):
            ended = self._receive(exchange, deadline=started + timeout_s)
            if not ended:
                timed_out = True
                self._interrupt(exchange)
        if exchange.workdir.startswith("/"):
            self.workdir = exchange.workdir
        if exchange.complete and not timed_out:
            exit_code = exchange.exit_code
            self._exit_code = exit_code or 0
            self._early = exchange.early
        else:
            exchange.flush()
            if not timed_out:
                self._container.require_running()
                assert self._exec is not None
                exit_code = self._exec.exit_code()
            self._replace()
            replaced = True
        ended_by, self._container.ended_by = self._container.ended_by, ""
        return CommandResult(
            output=exchange.output.text(),
            errors=exchange.errors.text() if separate_streams else "",
            exit_code=exit_code,
            duration_s=time.monotonic() - started,
            timed_out=timed_out,
            shell_replaced=replaced,
            omitted_bytes=exchange.output.omitted_bytes,
            ended_by=ended_by,
        )

    def go_to(self, directory: str) -> None:
        """Change the working directory.

        Raises:
            ContainerError: that cannot be done.
        """
        result = self.run(f"cd -- {_quote(directory)}", timeout_s=_START_TIMEOUT_S)
        if result.exit_code != 0:
            raise ContainerError(f"container {self._container.name}: cannot go to {directory}: {result.output[-500:]}")

    def close(self) -> None:
        """Leave the shell; idempotent. Bash ends when its input does, background jobs stay."""
        execution, self._exec = self._exec, None
        if execution is not None:
            execution.close()

    def _open(self) -> None:
        """Start bash and wait until it answers."""
        self._num_kills = self._container.num_kills
        self._exec = self._container.open_exec(_BASH, stdin=True, environment=self._environment, workdir="/")
        self._early, self._exit_code = b"", 0
        exchange = _Exchange(4096)
        deadline = time.monotonic() + _START_TIMEOUT_S
        report = (
            f"{_SETUP}\nbuiltin printf '%s 0 %s\\0' {exchange.mark} $$ >&{_CONTROL_FD}; "
            f"builtin printf %s {exchange.mark} >&{_OUTPUT_FD}\n"
        )
        if not self._write(report.encode(), deadline) or not self._receive(exchange, deadline) or not exchange.complete:
            exchange.flush()
            self.close()
            self._container.require_running()
            said = exchange.output.text() + exchange.errors.text()
            raise ContainerError(f"container {self._container.name}: bash does not start: {said.strip()[-2000:]}")
        self._pid = int(exchange.workdir)

    def _require_own_doing(self, error: ContainerError) -> None:
        """Pass an error over that the container's own commands may have caused, raise one of the infrastructure."""
        if isinstance(error, EngineTimeoutError | EngineUnavailableError):
            raise error
        self._container.require_running()
        LOGGER.debug("container %s: %s", self._container.name, error)

    def _replace(self) -> str:
        """Put a fresh shell into the directory of the old one; return why it cannot be done, else "".

        That no shell starts any more in a container that runs is the work of its commands (`rm -rf /bin`):
        an observation, not a failure of the infrastructure.
        """
        self.close()
        try:
            self._open()
        except ContainerError as error:
            self._require_own_doing(error)
            return f"no shell can be started any more: {error}\n"
        for directory in dict.fromkeys((self.workdir, self._home, "/")):
            if self._step(f"cd -- {_quote(directory)}"):
                self.workdir = directory
                break
        if self._activate and not self._step(self._activate):
            LOGGER.debug("container %s: activation failed in a replaced shell", self._container.name)
        return ""

    def _step(self, command: str) -> bool:
        """Run one of our own commands in a fresh shell; tell whether it ended with exit code 0."""
        exchange = _Exchange(4096)
        deadline = time.monotonic() + _START_TIMEOUT_S
        return (
            self._send(exchange, command, deadline=deadline)
            and self._receive(exchange, deadline)
            and exchange.exit_code == 0
        )

    def _send(self, exchange: "_Exchange", command: str, *, deadline: float, separate_streams: bool = False) -> bool:
        """Write a command and the report on it; False where bash no longer reads."""
        # `$?` is what the command before left. After `||` neither `set -e` nor a trap on ERR takes notice.
        status = f"__srl_status {self._exit_code} || " if self._exit_code else ""
        source = f'{status}builtin eval "$1" {_SOURCE_FD}<&-'
        errors_fd = _CONTROL_FD if separate_streams else 1
        # The report stands on a line of its own: an error that makes bash drop its line leaves it.
        script = (
            f"builtin source /dev/fd/{_SOURCE_FD} {_quote(command)} {_SOURCE_FD}<<<{shlex.quote(source)} </dev/null "
            f">&{_OUTPUT_FD} 2>&{errors_fd} {_CONTROL_FD}>&- {_OUTPUT_FD}>&-\n"
            f'builtin printf \'%s %s %s\\0\' {exchange.mark} "$?" "${{PWD-}}" >&{_CONTROL_FD}; '
            f"builtin printf %s {exchange.mark} >&{_OUTPUT_FD}\n"
        )
        return self._write(script.encode("utf-8", errors="surrogateescape"), deadline)

    def _write(self, data: bytes, deadline: float) -> bool:
        assert self._exec is not None
        try:
            self._exec.send(data, timeout_s=deadline - time.monotonic())
        except OSError:
            return False
        return True

    def _receive(self, exchange: "_Exchange", deadline: float) -> bool:
        """Collect output until the report is there or bash is gone; False where the time is over first."""
        assert self._exec is not None
        quiet_s = 0.05
        bash_ended = False
        while not exchange.complete:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            payloads = self._exec.receive(timeout_s=min(quiet_s, left_s))
            if payloads is None:
                return True
            for source, payload in payloads:
                exchange.add(source, payload)
            if payloads:
                quiet_s = 0.05
            elif bash_ended:
                return True
            else:
                # A background job may hold the streams open, so their end does not tell of bash's.
                bash_ended = quiet_s >= 0.1 and self._exec.exit_code() is not None
                quiet_s = 0.05 if bash_ended else min(2 * quiet_s, 1.0)
        return True

    def _interrupt(self, exchange: "_Exchange") -> None:
        """End a command at its limit: SIGINT to its process group, then SIGKILL to everything."""
        try:
            # A program may say something useful about where it was (pytest prints its failures).
            script = 'kill -INT -- "-$1"'
            self._container.execute(["/bin/bash", "--norc", "-c", script, "bash", str(self._pid)], timeout_s=5)
            self._receive(exchange, time.monotonic() + _INTERRUPT_GRACE_S)
        except ContainerError as error:
            self._require_own_doing(error)
        try:
            self._container.kill_processes()
        except ContainerError as error:
            self._require_own_doing(error)
        self._receive(exchange, time.monotonic() + 0.2)


class _Exchange:
    """What came back on one command: output up to the mark; errors, the mark and the report on the control stream."""

    def __init__(self, max_bytes: int) -> None:
        self.mark = secrets.token_hex(16)
        self.output = OutputBuffer(max_bytes)
        self.errors = OutputBuffer(max_bytes)
        self.exit_code: int | None = None
        self.workdir = ""
        self._output = _UpToMark(self.mark.encode(), self.output)
        self._control = _UpToMark(self.mark.encode() + b" ", self.errors)

    @property
    def complete(self) -> bool:
        return self._output.found and self.exit_code is not None

    @property
    def early(self) -> bytes:
        """What came behind the end of the output."""
        return self._output.rest

    def add(self, source: int, payload: bytes) -> None:
        if source != STDERR:
            self._output.add(payload)
            return
        self._control.add(payload)
        body, ended, _ = self._control.rest.partition(b"\0")
        if self._control.found and ended:
            exit_code, _, workdir = body.partition(b" ")
            self.exit_code = int(exit_code) if exit_code.isdigit() else 1
            self.workdir = workdir.decode("utf-8", errors="surrogateescape")

    def flush(self) -> None:
        """Give out what was held back for a mark that will not come."""
        self._output.flush()
        self._control.flush()


class _UpToMark:
    """A stream that a mark ends: what stands before it goes into a buffer, what follows is `rest`."""

    def __init__(self, mark: bytes, buffer: OutputBuffer) -> None:
        self.found = False
        self.rest = b""
        self._mark = mark
        self._buffer = buffer
        self._held = b""

    def add(self, payload: bytes) -> None:
        if self.found:
            self.rest = (self.rest + payload)[-_MAX_CONTROL_BYTES:]
            return
        data = self._held + payload
        end = data.find(self._mark)
        if end >= 0:
            self.found = True
            self._buffer.add(data[:end])
            self._held, self.rest = b"", data[end + len(self._mark) :]
        else:  # a mark may be cut in two
            safe = max(0, len(data) - len(self._mark) + 1)
            self._buffer.add(data[:safe])
            self._held = data[safe:]

    def flush(self) -> None:
        self._buffer.add(self._held + self.rest)
        self._held = self.rest = b""


def _quote(text: str) -> str:
    """Quote for bash; what UTF-8 cannot carry becomes the bytes that Python's decoding made it from, or U+FFFD."""
    data = text.encode("utf-8", errors="surrogatepass").decode("utf-8", errors="surrogateescape")
    return shlex.quote(data)
