"""The way out of a container without a network: an HTTP proxy on our side that serves what an allow-list names.

Inside, docker/relay listens on a local port and carries every connection here over the streams of one exec. What a
request asks for is checked here, where nothing of the container runs. A tunnel's bytes are not looked at: whoever
answers at an allowed host's address may serve other names too. Left out: how connections get here (`relay.py`), what
a request says (`proxy_requests.py`).
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Self

from srl_swe.closing import Closing
from srl_swe.environments.allow_list import AllowList, is_global
from srl_swe.environments.container import Container
from srl_swe.environments.proxy_requests import RefusalError, Request, in_brackets, parse_request
from srl_swe.environments.relay import IDLE_TIMEOUT_S, Channel, Connection
from srl_swe.errors import ContainerError, EngineTimeoutError, EngineUnavailableError

LOGGER = logging.getLogger(__name__)

_RELAY_PATH = "/usr/local/bin/relay"
_START = (
    "command -v python3 >/dev/null || { echo 'its image has no python3, which docker/relay needs' >&2; exit 127; }; "
    'exec python3 -I "$0" "$1"'
)
_CONNECT_TIMEOUT_S = 10.0
_REFUSAL_TIMEOUT_S = 10.0
_MAX_HEAD_BYTES = 1 << 16
_MAX_REFUSED = 100


class Proxy:
    """Serves connections as an HTTP proxy: one tunnel, or one request of plain HTTP, per connection."""

    def __init__(self, allow: AllowList) -> None:
        self._allow = allow
        self._lock = threading.Lock()
        self._refused: dict[str, None] = {}
        self.sent_bytes = 0
        self.received_bytes = 0

    @property
    def refused(self) -> tuple[str, ...]:
        """The first hosts that were asked for and not allowed, as "host:port"."""
        return tuple(self._refused)

    def serve(self, connection: Connection) -> None:
        """Carry one connection; raises OSError when it is broken off."""
        try:
            head, rest = _read_head(connection)
            request = parse_request(head)
            remote = self._connect(request)
        except RefusalError as refusal:
            _answer(connection, refusal)
            return
        with remote:
            if request.head is None:
                connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=self._carry_back, args=(connection, remote), daemon=True)
            back.start()
            try:
                self._carry_out(connection, remote, request, rest)
                connection.wait_for_end()
            finally:
                with contextlib.suppress(OSError):
                    remote.shutdown(socket.SHUT_RDWR)
                back.join()

    def _connect(self, request: Request) -> socket.socket:
        """Connect to an address of the host that was looked at; a second look-up might have another answer."""
        where = f"{in_brackets(request.host)}:{request.port}"
        rule = self._allow.find(request.host, request.port)
        if rule is None:
            raise self._refuse(where, f"{where} is not on the allow-list of this container: {self._allow}")
        try:
            found = socket.getaddrinfo(request.host, request.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise RefusalError(502, f"the name of {where} is not known: {error}") from error
        found = [entry for entry in found if rule.any_address or is_global(str(entry[4][0]))]
        if not found:
            raise self._refuse(where, f"{where} is allowed, but its address is not one of the public internet")
        deadline = time.monotonic() + _CONNECT_TIMEOUT_S
        reason: OSError = TimeoutError("timed out")
        for family, kind, protocol, _, address in found:
            remote = socket.socket(family, kind, protocol)
            try:
                remote.settimeout(max(deadline - time.monotonic(), 0.001))
                remote.connect(address)
                remote.settimeout(IDLE_TIMEOUT_S)
                remote.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return remote
            except OSError as error:
                remote.close()
                reason = error
        raise RefusalError(504 if isinstance(reason, TimeoutError) else 502, f"{where} does not answer: {reason}")

    def _refuse(self, where: str, message: str) -> RefusalError:
        with self._lock:
            if len(self._refused) < _MAX_REFUSED:
                self._refused[where] = None
        return RefusalError(403, message)

    def _carry_out(self, connection: Connection, remote: socket.socket, request: Request, data: bytes) -> None:
        """Carry what the program sends up to its end."""
        left = request.body_bytes
        self._send(remote, request.head or b"")
        data = data or connection.receive()
        while data:
            if request.head is not None:
                data, beyond = data[:left], data[left:]
                left -= len(data)
                if beyond.strip(b"\r\n"):
                    raise ConnectionAbortedError("a second request came on a connection that carries one")
            self._send(remote, data)
            data = connection.receive()
        with contextlib.suppress(OSError):
            remote.shutdown(socket.SHUT_WR)

    def _send(self, remote: socket.socket, data: bytes) -> None:
        remote.sendall(data)
        with self._lock:
            self.sent_bytes += len(data)

    def _carry_back(self, connection: Connection, remote: socket.socket) -> None:
        """Carry what the host sends up to its end."""
        try:
            while data := _receive(remote):
                with self._lock:
                    self.received_bytes += len(data)
                connection.send(data)
            connection.end()
        except OSError as error:
            LOGGER.debug("connection %d: %s", connection.number, error)
            connection.break_off()


class Egress(Closing):
    """Lets the programs of one container reach the hosts of an allow-list, and nothing else.

    Close it, or use it as a context manager, before its container. `Container.kill_processes` ends its relay.
    """

    def __init__(self, container: Container, allow: AllowList, *, port: int) -> None:
        """Take note only; `open` is the way to one that works."""
        self._container = container
        self._allow = allow
        self._port = port
        self._channel: Channel | None = None
        self._num_kills = 0
        self.proxy = Proxy(allow)
        """Counts bytes and refused hosts, over all relays."""

    @classmethod
    def open(cls, container: Container, allow: Sequence[str], *, port: int = 3128) -> Self:
        """Start the relay on a port of the container's loopback device.

        Entries of `allow` are "pypi.org" (ports 80 and 443), "*.example.org" (every name below it) or either with a
        port ("pypi.org:8080"). Only "localhost:PORT" and a literal address with a port reach what is not public.

        Raises:
            ConfigError: an entry is malformed.
            ContainerError: the relay does not start; the message says why.
        """
        egress = cls(container, AllowList(allow), port=port)
        egress._start()
        return egress

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that make programs of the container use it."""
        proxy = f"http://127.0.0.1:{self._port}"
        local = ",".join(host for host in ("localhost", "127.0.0.1", "::1") if host not in self._allow.hosts)
        lower = {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": local}
        return {**lower, **{name.upper(): value for name, value in lower.items()}}

    def is_alive(self) -> bool:
        """Tell whether the relay runs, as far as is known here."""
        return self._channel is not None and self._channel.is_alive() and self._num_kills == self._container.num_kills

    def reopen(self) -> str:
        """Start the relay anew; return why it cannot be done, else "".

        That no relay starts any more in a container that runs is the work of its commands.

        Raises:
            ContainerError: the engine or the container failed.
        """
        self.close()
        try:
            self._start()
        except (EngineTimeoutError, EngineUnavailableError):
            raise
        except ContainerError as error:
            self._container.require_running()
            return str(error)
        return ""

    def close(self) -> None:
        """Break all connections off and end the relay; idempotent."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _start(self) -> None:
        self._num_kills = self._container.num_kills
        self._container.write_file(_RELAY_PATH, (files("srl_swe") / "docker" / "relay").read_bytes(), mode=0o755)
        argv = ["/bin/sh", "-c", _START, _RELAY_PATH, str(self._port)]
        stream = self._container.open_exec(argv, stdin=True, workdir="/")
        try:
            self._channel = Channel(stream, self.proxy.serve)
        except ContainerError as error:
            self._container.require_running()
            raise ContainerError(f"container {self._container.name}: the relay does not start: {error}") from error


def _read_head(connection: Connection) -> tuple[bytes, bytes]:
    """Return the head of the first request, and what came after its empty line."""
    data = b""
    while b"\r\n\r\n" not in data:
        if len(data) > _MAX_HEAD_BYTES:
            raise RefusalError(431, f"the request head is longer than {_MAX_HEAD_BYTES} bytes")
        more = connection.receive()
        if not more:
            raise ConnectionAbortedError("it ended within the request head")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _answer(connection: Connection, refusal: RefusalError) -> None:
    """Say why a request is not carried out; its body is taken, so that its sender comes to read the answer."""
    LOGGER.debug("connection %d: %d %s", connection.number, refusal.status, refusal)
    body = f"{refusal}\n".encode()
    reason = str(refusal).partition(": ")[0]
    head = f"HTTP/1.1 {refusal.status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n"
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    connection.send(head.encode("ascii", errors="replace") + body)
    connection.end()
    deadline = time.monotonic() + _REFUSAL_TIMEOUT_S
    while time.monotonic() < deadline and connection.receive():
        pass


def _receive(remote: socket.socket) -> bytes:
    while True:
        try:
            return remote.recv(1 << 16)
        except TimeoutError:
            continue  # the thread of the other direction watches the time
