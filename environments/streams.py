"""Bytes of an attached exec: the engine's frames on a socket, and a buffer that keeps head and tail.

Left out: what the bytes mean (`container.py`, `shell.py`).
"""

import contextlib
import socket
import struct
from typing import Any

from srl_swe.environments.engine import STDERR, STDOUT
from srl_swe.errors import ContainerError

_RECEIVE_BYTES = 1 << 18
_HEADER = struct.Struct(">BxxxL")


class AttachedStream:
    """The two-way stream of one exec without a terminal: stdin as it is, stdout and stderr in frames.

    Frames as in https://docs.docker.com/reference/api/engine (attach): one byte for the stream, three
    zero bytes, the length as four bytes big-endian, the payload.
    """

    def __init__(self, attached: Any) -> None:
        self._attached = attached  # owns the HTTP response: the connection lives as long as it does
        self._socket: socket.socket = getattr(attached, "_sock", attached)
        self._early = self._read_with_the_answer()
        self._header = b""
        self._stream = STDOUT
        self._left = 0

    def send(self, data: bytes, *, timeout_s: float) -> None:
        """Write to stdin. Raises OSError (TimeoutError too) when the other side does not read."""
        self._socket.settimeout(max(timeout_s, 0.001))
        self._socket.sendall(data)

    def receive(self, *, timeout_s: float) -> list[tuple[int, bytes]] | None:
        """Return the payloads that arrived, at least one read's worth; None at the end of the stream.

        An empty list means that nothing came within `timeout_s`.
        """
        if self._early:
            early, self._early = self._early, b""
            return self._payloads(early)
        self._socket.settimeout(max(timeout_s, 0.001))
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except (TimeoutError, BlockingIOError):
            return []
        except OSError:  # a reset connection ends the stream as well; the caller asks the engine why
            return None
        return self._payloads(data) if data else None

    def close(self) -> None:
        """Close the connection; idempotent."""
        # Shut down first: the connection may go back to the HTTP client's pool, which looks whether it is alive.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        getattr(self._attached, "_response", self._attached).close()

    def _read_with_the_answer(self) -> bytes:
        """Return the bytes of the stream that came in one piece with the HTTP answer before it.

        The HTTP client keeps them in its buffer, where the socket knows nothing of them.
        """
        response = getattr(self._attached, "_response", None)
        if response is None:
            return b""
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):  # nothing there yet under TLS, or a reset that the next read meets as well
            early: bytes = response.raw._fp.fp.read1(_RECEIVE_BYTES)
            return early
        return b""

    def _payloads(self, data: bytes) -> list[tuple[int, bytes]]:
        payloads = []
        position = 0
        while position < len(data):
            if self._left:
                payload = data[position : position + self._left]
                payloads.append((self._stream, payload))
                self._left -= len(payload)
                position += len(payload)
                continue
            part = data[position : position + _HEADER.size - len(self._header)]
            self._header += part
            position += len(part)
            if len(self._header) == _HEADER.size:
                self._stream, self._left = _HEADER.unpack(self._header)
                if self._stream > STDERR or self._header[1:4] != b"\0\0\0":
                    raise ContainerError(f"the engine sent {self._header!r} where a stream frame was expected")
                self._header = b""
        return payloads


class OutputBuffer:
    """Keeps the first and the last bytes of an output of any length, in constant memory."""

    def __init__(self, max_bytes: int) -> None:
        self._max_head = max(max_bytes, 0) // 2
        self._max_tail = max(max_bytes, 0) - self._max_head
        self._head = bytearray()
        self._tail = bytearray()
        self.num_bytes = 0
        """Bytes seen, the left out ones included."""

    def add(self, data: bytes) -> None:
        """Append bytes."""
        self.num_bytes += len(data)
        room = self._max_head - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if len(data) > self._max_tail:
            data = data[len(data) - self._max_tail :]
        self._tail += data
        if len(self._tail) > 2 * self._max_tail:
            del self._tail[: len(self._tail) - self._max_tail]

    @property
    def omitted_bytes(self) -> int:
        """How many bytes were left out between head and tail."""
        return max(0, self.num_bytes - self._max_head - self._max_tail)

    def content(self) -> bytes:
        """Return what was kept; a line in the place of the gap says how many bytes were left out."""
        tail = self._tail[max(0, len(self._tail) - self._max_tail) :]
        if not self.omitted_bytes:
            return bytes(self._head + tail)
        return bytes(self._head) + f"\n[… {self.omitted_bytes} bytes left out …]\n".encode() + bytes(tail)

    def text(self) -> str:
        """Return `content` as text, invalid UTF-8 replaced by U+FFFD."""
        return self.content().decode("utf-8", errors="replace")
