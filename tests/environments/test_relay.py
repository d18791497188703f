"""The channel to a relay, and what a hostile relay can do to it."""

import contextlib
import queue
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srl_swe.environments import relay
from srl_swe.environments.engine import STDERR, STDOUT
from srl_swe.environments.relay import MAX_CONNECTIONS, Channel, Connection
from srl_swe.errors import ContainerError
from tests.environments.local_relay import LocalRelay

GRANT = 1 << 31
WINDOW = 1 << 18


def frame(number: int, data: bytes = b"") -> bytes:
    return struct.pack(">II", number, len(data)) + data


def grant(number: int, num_bytes: int = WINDOW) -> bytes:
    return struct.pack(">II", number | GRANT, num_bytes)


class HostileRelay:
    """A `Stream` whose other end is the test."""

    def __init__(self, said: bytes = b"listens") -> None:
        self.output: queue.Queue[tuple[int, bytes] | None] = queue.Queue()
        self.output.put((STDERR, said))
        self.taken = bytearray()
        self.stalls = False

    def send(self, data: bytes, *, timeout_s: float) -> None:
        if self.stalls:
            raise TimeoutError
        self.taken += data

    def receive(self, *, timeout_s: float) -> list[tuple[int, bytes]] | None:
        try:
            payload = self.output.get(timeout=min(timeout_s, 0.05))
        except queue.Empty:
            return []
        return payload if payload is None else [payload]

    def close(self) -> None:
        pass

    def say(self, data: bytes) -> None:
        self.output.put((STDOUT, data))


def echo(connection: Connection) -> None:
    while data := connection.receive():
        connection.send(data)
    connection.end()


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def connection_threads() -> int:
    return sum(thread.name.startswith("srl-swe-relay-") for thread in threading.enumerate())


@contextlib.contextmanager
def channel_to(stream: relay.Stream, serve: Callable[[Connection], None] = echo) -> Iterator[Channel]:
    channel = Channel(stream, serve)
    try:
        yield channel
    finally:
        channel.close()
        wait_until(lambda: connection_threads() == 0)


def test_bytes_go_both_ways_and_ends_are_passed_on() -> None:
    stream = LocalRelay()
    with channel_to(stream) as channel:
        with stream.connect() as one, stream.connect() as other:
            one.sendall(b"one")
            other.sendall(b"other")
            one.shutdown(socket.SHUT_WR)
            assert one.makefile("rb").read() == b"one"
            assert other.recv(100) == b"other"
        assert channel.is_alive()
    assert not channel.is_alive()
    assert stream.process.returncode == 0


def test_our_end_comes_first_and_the_program_still_sends() -> None:
    got: queue.Queue[bytes] = queue.Queue()

    def serve(connection: Connection) -> None:
        connection.send(b"bye")
        connection.end()
        while data := connection.receive():
            got.put(data)

    stream = LocalRelay()
    with channel_to(stream, serve), stream.connect() as client:
        assert client.makefile("rb").read() == b"bye"
        client.sendall(b"still here")
        assert got.get(timeout=5) == b"still here"


def test_a_program_that_never_reads_holds_up_no_other_and_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "IDLE_TIMEOUT_S", 1.0)

    def serve(connection: Connection) -> None:
        connection.send(bytes(50_000_000) if connection.receive() == b"flood" else b"answer")
        connection.end()
        connection.receive()

    stream = LocalRelay()
    with channel_to(stream, serve) as channel, stream.connect() as idle:
        idle.sendall(b"flood")
        time.sleep(0.3)
        for _ in range(20):
            with stream.connect() as client:
                client.sendall(b"x")
                assert client.recv(100) == b"answer"
        wait_until(lambda: connection_threads() == 0)
        assert channel.is_alive()


def test_a_server_that_never_reads_holds_up_no_other_and_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "IDLE_TIMEOUT_S", 1.0)

    def serve(connection: Connection) -> None:
        if connection.receive() == b"x":
            connection.send(b"answer")
            connection.end()
            connection.receive()
        else:
            connection.wait_for_end()

    stream = LocalRelay()
    with channel_to(stream, serve) as channel, stream.connect() as flooding:
        flooding.settimeout(0.3)
        with pytest.raises(TimeoutError):
            flooding.sendall(bytes(50_000_000))
        with stream.connect() as client:
            client.sendall(b"x")
            assert client.recv(100) == b"answer"
        flooding.settimeout(10)
        with pytest.raises(ConnectionError):
            flooding.sendall(bytes(50_000_000))
        assert channel.is_alive()


def test_silent_connections_lose_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "IDLE_TIMEOUT_S", 1.0)
    stream = LocalRelay()
    with channel_to(stream), contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(stream.connect())
        client = stack.enter_context(stream.connect())
        client.sendall(b"late")
        assert client.recv(100) == b"late"


def test_broken_connections_are_broken_on_the_other_side() -> None:
    failed = threading.Event()

    def serve(connection: Connection) -> None:
        if connection.receive() == b"fail":
            raise ConnectionResetError("by the server")
        try:
            for _ in range(1000):
                connection.send(bytes(1 << 16))
        except ConnectionResetError:
            failed.set()
            raise

    stream = LocalRelay()
    with channel_to(stream, serve) as channel:
        with stream.connect() as client:
            client.sendall(b"fail")
            assert client.recv(100) == b""
        with stream.connect() as client:
            client.sendall(b"flood")
            client.recv(100)
        assert failed.wait(10)
        assert channel.is_alive()


def test_the_end_of_the_relay_is_noticed() -> None:
    stream = LocalRelay()
    with channel_to(stream) as channel, stream.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        stream.process.kill()
        wait_until(lambda: not channel.is_alive())
        wait_until(lambda: connection_threads() == 0)
        with pytest.raises(OSError):
            channel.send(1, b"x")
        channel.close()


def test_the_relay_ends_with_its_input() -> None:
    stream = LocalRelay()
    with channel_to(stream), stream.connect():
        assert stream.process.stdin
        stream.process.stdin.close()
        assert stream.process.wait(timeout=10) == 0


def test_a_relay_that_does_not_end_cannot_hold_up_the_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_STREAM_TIMEOUT_S", 3.0)
    stream = LocalRelay()
    channel = Channel(stream, echo)
    try:
        stream.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        channel.close()
        assert time.monotonic() - started < 2.9
    finally:
        stream.process.kill()
    channel.close()


def test_a_port_that_is_taken_is_an_error_with_the_relays_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stream = LocalRelay(server.getsockname()[1])
        with pytest.raises(ContainerError, match="Address already in use"):
            Channel(stream, echo)


def test_a_relay_that_ends_at_once_is_an_error() -> None:
    stream = HostileRelay(b"sh: no such thing\n")
    stream.output.put(None)
    with pytest.raises(ContainerError, match="no such thing"):
        Channel(stream, echo)


@pytest.mark.parametrize(
    "said",
    [
        frame(1, b"x")[:4] + b"\xff\xff\xff\x00",  # a length of 4 GB
        grant(1) + frame(1, bytes(1 << 15)) * 9,  # more than was granted
        grant(1) + frame(1) + frame(1, b"x"),  # bytes after the end
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_malformed_frames_close_the_channel(said: bytes) -> None:
    stream = HostileRelay()
    with channel_to(stream, lambda connection: connection.wait_for_end()) as channel:
        stream.say(said[:3])
        stream.say(said[3:])
        wait_until(lambda: not channel.is_alive())


def test_unknown_numbers_are_ignored() -> None:
    stream = HostileRelay()
    with channel_to(stream) as channel:
        stream.say(grant(0) + frame(0, b"x") + frame(7, b"x") + frame(7) + grant(5) + grant(3) + frame(3, b"x"))
        stream.say(frame(5, b"echoed") + frame(5) + frame(5))
        wait_until(lambda: connection_threads() == 0 and channel._last_number == 5)
        assert channel.is_alive() and not channel._connections


def test_too_many_connections_are_broken_off() -> None:
    stream = HostileRelay()
    with channel_to(stream) as channel:
        stream.say(b"".join(grant(number) for number in range(1, MAX_CONNECTIONS + 2)))
        wait_until(lambda: frame(MAX_CONNECTIONS + 1) * 2 in stream.taken)
        assert connection_threads() == MAX_CONNECTIONS
        stream.say(frame(1))
        wait_until(lambda: connection_threads() == MAX_CONNECTIONS - 1)
        stream.say(grant(1000) + frame(1000, b"served"))
        wait_until(lambda: frame(1000, b"served") in stream.taken)
        assert channel.is_alive()


def test_a_relay_that_takes_nothing_is_given_up() -> None:
    stream = HostileRelay()
    with channel_to(stream) as channel:
        stream.stalls = True
        stream.say(grant(1))
        wait_until(lambda: not channel.is_alive())


PIECES = st.one_of(
    st.binary(max_size=20),
    st.builds(grant, st.integers(0, 5), st.sampled_from([0, 1, WINDOW, (1 << 32) - 1])),
    st.builds(frame, st.integers(0, 5), st.binary(max_size=20)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, max_size=15), st.integers(1, 40))
def test_whatever_comes_the_channel_ends_with_its_stream(pieces: list[bytes], cut: int) -> None:
    stream = HostileRelay()
    said = b"".join(pieces)
    for start in range(0, len(said), cut):
        stream.say(said[start : start + cut])
    stream.output.put(None)
    with channel_to(stream) as channel:
        wait_until(lambda: not channel.is_alive())
