"""Our end of docker/relay: the connections that programs of a container open, carried over one exec's streams.

Everything that comes is hostile input: the relay shares the container with whatever runs there. A connection may
send only what it was granted, so one that stands still holds up no other, and memory is bounded. Left out: what the
connections carry (`egress.py`).
"""

import contextlib
import logging
import struct
import threading
import time
from collections.abc import Callable
from typing import Protocol

from srl_swe.environments.engine import STDOUT
from srl_swe.errors import ContainerError, DataError

LOGGER = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
IDLE_TIMEOUT_S = 300.0
"""A connection is broken off when nothing came or went for so long."""
_CLOSING_TIMEOUT_S = 15.0
"""The same once our side has ended and everything is delivered: most programs then close theirs."""
_START_TIMEOUT_S = 60.0
_CLOSE_TIMEOUT_S = 2.0
_STREAM_TIMEOUT_S = 30.0
"""One for both directions, since they share their socket's; a relay that takes nothing for so long is dead."""

# The frames are described in docker/relay.
_HEADER = struct.Struct(">II")
_GRANT = 1 << 31
_MAX_FRAME_BYTES = 1 << 15
_WINDOW_BYTES = 1 << 18
_MAX_SAID_CHARS = 2000


class Stream(Protocol):
    """What a channel needs of an `Exec`: one thread sends while another receives."""

    def send(self, data: bytes, *, timeout_s: float) -> None: ...
    def receive(self, *, timeout_s: float) -> list[tuple[int, bytes]] | None: ...
    def close(self) -> None: ...


class Channel:
    """All connections of one relay. Each is served on a thread of its own, at most `MAX_CONNECTIONS` at once."""

    def __init__(self, stream: Stream, serve: Callable[["Connection"], None]) -> None:
        """Wait until the relay listens, then serve.

        Raises:
            ContainerError: it does not; the message is what the relay said.
        """
        self._stream = stream
        self._serve = serve
        self._connections: dict[int, Connection] = {}
        self._last_number = 0
        self._input = bytearray()
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._sending = threading.Lock()
        self._closed = threading.Event()
        self._await_listening()
        self._thread = threading.Thread(target=self._receive, name="srl-swe-relay", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Tell whether the relay was there when it was last heard of."""
        return not self._closed.is_set()

    def close(self) -> None:
        """Break all connections off and let the relay end; idempotent.

        The stream is closed by the thread that reads it. Where a relay does not end when told to, that takes until
        the end of its container, or half a minute.
        """
        self._give_up()
        if self._sending.acquire(timeout=_CLOSE_TIMEOUT_S):
            with contextlib.suppress(OSError):
                self._stream.send(_HEADER.pack(_GRANT, 0), timeout_s=_CLOSE_TIMEOUT_S)
            self._sending.release()
        self._thread.join(timeout=_CLOSE_TIMEOUT_S)

    def send(self, number: int, data: bytes) -> None:
        """Send a frame; raises OSError where the relay is gone or takes nothing."""
        self._send(_HEADER.pack(number, len(data)) + data)

    def grant(self, number: int, num_bytes: int) -> None:
        """Let a connection send more."""
        self._send(_HEADER.pack(number | _GRANT, num_bytes))

    def _send(self, frame: bytes) -> None:
        with self._sending:
            if self._closed.is_set():
                raise ConnectionAbortedError("the relay is gone")
            try:
                self._stream.send(frame, timeout_s=_STREAM_TIMEOUT_S)
            except OSError:
                # A part of the frame may be out: nothing can follow it.
                self._give_up()
                raise

    def _give_up(self) -> None:
        self._closed.set()
        for connection in list(self._connections.values()):
            connection.break_off()

    def _await_listening(self) -> None:
        said = b""
        deadline = time.monotonic() + _START_TIMEOUT_S
        try:
            while b"listens" not in said:
                left_s = deadline - time.monotonic()
                payloads = self._stream.receive(timeout_s=left_s) if left_s > 0 else None
                if payloads is None:
                    said += b" " + self._input
                    raise ContainerError(said.decode(errors="replace").strip()[:_MAX_SAID_CHARS] or "it says nothing")
                for source, payload in payloads:
                    if source == STDOUT:
                        self._input += payload[: _MAX_FRAME_BYTES - len(self._input)]
                    else:
                        said = (said + payload)[-_MAX_SAID_CHARS:]
        except BaseException:
            self._stream.close()
            raise

    def _receive(self) -> None:
        try:
            self._take(b"")
            while not self._closed.is_set():
                payloads = self._stream.receive(timeout_s=_STREAM_TIMEOUT_S)
                if payloads is None:
                    break
                for source, payload in payloads:
                    if source == STDOUT:
                        self._take(payload)
        except (OSError, RuntimeError, DataError) as error:  # ContainerError too, and no room for a thread
            LOGGER.debug("a relay is given up: %s", error)
        finally:
            self._give_up()
            with self._sending:
                self._stream.close()

    def _take(self, payload: bytes) -> None:
        self._input += payload
        position = 0
        while len(self._input) - position >= _HEADER.size:
            number, length = _HEADER.unpack_from(self._input, position)
            if number & _GRANT:
                self._granted(number & ~_GRANT, length)
                position += _HEADER.size
                continue
            if length > _MAX_FRAME_BYTES:
                raise DataError(f"a frame of {length} bytes; at most {_MAX_FRAME_BYTES} were expected")
            end = position + _HEADER.size + length
            if len(self._input) < end:
                break
            # Numbers without a connection are late frames of one that is over.
            if connection := self._connections.get(number):
                connection.take(bytes(self._input[position + _HEADER.size : end]))
            position = end
        del self._input[:position]

    def _granted(self, number: int, num_bytes: int) -> None:
        if connection := self._connections.get(number):
            connection.granted(num_bytes)
        elif number > self._last_number:
            self._last_number = number
            # The relay may count one as over a moment before its thread here ends.
            if not self._slots.acquire(timeout=1):
                self.send(number, b"")
                self.send(number, b"")
                return
            connection = self._connections[number] = Connection(self, number, credit=num_bytes)
            threading.Thread(target=self._run, args=(connection,), name=f"srl-swe-relay-{number}", daemon=True).start()

    def _run(self, connection: "Connection") -> None:
        try:
            connection.open()
            self._serve(connection)
        except OSError as error:
            LOGGER.debug("connection %d of a relay: %s", connection.number, error)
        finally:
            del self._connections[connection.number]
            self._slots.release()
            with contextlib.suppress(OSError):
                connection.close()


class Connection:
    """One connection of a program in the container; what is called here blocks, like a blocking socket.

    Its methods raise OSError once it is broken off, TimeoutError when it was idle for too long.
    """

    def __init__(self, channel: Channel, number: int, *, credit: int) -> None:
        self.number = number
        self._channel = channel
        self._changed = threading.Condition()
        self._inbox = bytearray()
        self._credit = self._window = credit
        self._granted = 0
        self._num_ends = 0
        self._other_ended = False
        self._broken = False
        self._active = time.monotonic()

    def open(self) -> None:
        """Let the program send."""
        self._grant(_WINDOW_BYTES)

    def receive(self, max_bytes: int = 1 << 16) -> bytes:
        """Return the next bytes, b"" at the end of what the program sends."""
        with self._changed:
            self._wait(lambda: bool(self._inbox) or self._other_ended)
            data = bytes(self._inbox[:max_bytes])
            del self._inbox[:max_bytes]
        if data:
            self._grant(len(data))
        return data

    def send(self, data: bytes) -> None:
        """Send everything, as fast as the program takes it."""
        position = 0
        while position < len(data):
            with self._changed:
                self._wait(lambda: self._credit > 0)
                part = data[position : position + min(self._credit, _MAX_FRAME_BYTES)]
                self._credit -= len(part)
                self._active = time.monotonic()
            self._channel.send(self.number, part)
            position += len(part)

    def end(self) -> None:
        """Tell the program that nothing more comes; what it still sends can be received."""
        with self._changed:
            self._num_ends += 1
            self._changed.notify_all()
        self._channel.send(self.number, b"")

    def wait_for_end(self) -> None:
        """Return when `end` was called."""
        with self._changed:
            self._wait(lambda: self._num_ends > 0)

    def break_off(self) -> None:
        """Make every call on this connection fail, the waiting ones too."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()

    def close(self) -> None:
        """Tell the relay that the connection is over, unless both sides have ended."""
        with self._changed:
            self._broken = True
            num_missing = 0 if self._num_ends and self._other_ended else 2 - self._num_ends
        for _ in range(num_missing):
            self._channel.send(self.number, b"")

    def take(self, data: bytes) -> None:
        """Take what the relay delivers, b"" for an end; raises DataError where more comes than was granted."""
        with self._changed:
            if len(data) > self._granted or (data and self._other_ended):
                raise DataError(f"connection {self.number} sends {len(data)} bytes, granted were {self._granted}")
            self._granted -= len(data)
            self._inbox += data
            self._broken |= self._other_ended
            self._other_ended |= not data
            self._active = time.monotonic()
            self._changed.notify_all()

    def granted(self, num_bytes: int) -> None:
        """Take note that the program may be sent more."""
        with self._changed:
            self._credit += num_bytes
            self._active = time.monotonic()
            self._changed.notify_all()

    def _grant(self, num_bytes: int) -> None:
        with self._changed:
            self._granted += num_bytes
            self._active = time.monotonic()
        self._channel.grant(self.number, num_bytes)

    def _wait(self, ready: Callable[[], bool]) -> None:
        while not self._broken and not ready():
            delivered = self._num_ends > 0 and self._credit >= self._window
            limit_s = _CLOSING_TIMEOUT_S if delivered else IDLE_TIMEOUT_S
            left_s = self._active + limit_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"nothing came or went for {limit_s:.0f} s")
            self._changed.wait(left_s)
        if self._broken:
            raise ConnectionResetError("broken off")
