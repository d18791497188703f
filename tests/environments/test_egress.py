"""The way out of a container: what is allowed gets through unchanged, nothing else gets anywhere."""

import contextlib
import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from srl_swe.environments import egress as egress_module
from srl_swe.environments.allow_list import AllowList, is_global
from srl_swe.environments.container import Container
from srl_swe.environments.egress import Egress, Proxy
from srl_swe.environments.engine import Engine
from srl_swe.environments.limits import ContainerLimits
from srl_swe.environments.relay import Channel
from srl_swe.errors import ConfigError, ContainerError
from tests.environments.local_relay import LocalRelay

IMAGE = "srl-swe/base:bookworm"
LARGE = 20_000_000


class Server:
    """A web server of this machine that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.goes_on = False
        """Keep the connection open even where `Connection: close` was asked for."""
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                server.asked.append((self.command, self.path, dict(self.headers), body))
                answer = bytes(LARGE) if self.path == "/large" else f"answer to {self.path}\n".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.close_connection &= not server.goes_on
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(answer)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        class Listener(http.server.ThreadingHTTPServer):
            request_queue_size = 256

        self.http = Listener(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def digesting() -> Iterator[int]:
    """A server's port: it counts what it gets up to the end, then sends the number, 20 MB, and its end."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client:
            num_bytes = 0
            while data := client.recv(1 << 16):
                num_bytes += len(data)
            client.sendall(f"{num_bytes}\n".encode() + bytes(LARGE))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


class Way:
    """A proxy behind a relay on this machine."""

    def __init__(self, *allow: str) -> None:
        self.relay = LocalRelay()
        self.proxy = Proxy(AllowList(allow))
        self.channel = Channel(self.relay, self.proxy.serve)

    def __enter__(self) -> "Way":
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def ask(self, request: str | bytes) -> bytes:
        """Send something and return all that comes back."""
        with self.relay.connect() as client:
            client.sendall(request.encode() if isinstance(request, str) else request)
            return client.makefile("rb").read()


def test_a_plain_request_gets_through_and_is_counted(server: Server) -> None:
    with Way(server.host) as way:
        answer = way.ask(f"POST http://{server.host}/x?y HTTP/1.1\r\nHost: other\r\nContent-Length: 3\r\n\r\nabc")
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\nanswer to /x?y\n")
        ((command, path, fields, body),) = server.asked
        assert (command, path, body) == ("POST", "/x?y", b"abc")
        assert fields == {"Host": server.host, "Connection": "close", "Content-Length": "3"}
        assert way.proxy.received_bytes == len(answer)
        assert way.proxy.sent_bytes > 80
        assert way.proxy.refused == ()


def test_what_is_not_allowed_is_refused_in_words(server: Server) -> None:
    with Way("pypi.org", "*.example.org") as way:
        for request in (f"GET http://{server.host}/ HTTP/1.1\r\n\r\n", f"CONNECT {server.host} HTTP/1.1\r\n\r\n"):
            answer = way.ask(request).decode()
            assert answer.startswith(f"HTTP/1.1 403 {server.host} is not on the allow-list of this container\r\n")
            assert answer.endswith(f"\r\n\r\n{server.host} is not on the allow-list of this container: "
                                   "pypi.org, *.example.org\n")  # fmt: skip
        assert way.proxy.refused == (server.host,)
        assert (way.proxy.sent_bytes, way.proxy.received_bytes, server.asked) == (0, 0, [])


def test_the_sender_of_a_large_refused_body_gets_the_answer() -> None:
    with Way() as way:
        head = f"POST http://evil.example/ HTTP/1.1\r\nContent-Length: {LARGE}\r\n\r\n"
        assert way.ask(head.encode() + bytes(LARGE)).startswith(b"HTTP/1.1 403 evil.example:80 ")


def test_a_tunnel_carries_bytes_both_ways_and_each_end(digesting: int) -> None:
    with Way(f"127.0.0.1:{digesting}") as way, way.relay.connect() as client:
        client.sendall(f"CONNECT 127.0.0.1:{digesting} HTTP/1.1\r\n\r\nearly".encode())
        answers = client.makefile("rb")
        assert answers.readline().startswith(b"HTTP/1.1 200 ") and answers.readline() == b"\r\n"
        client.sendall(bytes(LARGE - 5))
        client.shutdown(socket.SHUT_WR)
        assert answers.readline() == f"{LARGE}\n".encode()
        assert len(answers.read()) == LARGE
        assert way.proxy.sent_bytes == LARGE
        assert way.proxy.received_bytes == LARGE + len(f"{LARGE}\n")


def test_a_connection_carries_one_request(server: Server) -> None:
    first = f"GET http://{server.host}/first HTTP/1.1\r\nConnection: keep-alive\r\n\r\n"
    second = "GET /second HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    server.goes_on = True
    with Way(server.host) as way:
        way.ask(first + second)
        way.ask(first.replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n") + second)
        way.ask(first.replace("GET", "POST").replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n12345") + second)
        with way.relay.connect() as client:
            client.sendall(first.encode())
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
            client.sendall(second.encode())
            with contextlib.suppress(ConnectionError):
                while client.recv(1000):
                    pass
        assert {path for _, path, _, _ in server.asked} <= {"/first"}
        assert {fields["Host"] for _, _, fields, _ in server.asked} <= {server.host}


def test_a_private_address_behind_a_name_is_refused(server: Server) -> None:
    name = socket.gethostname().lower()
    if any(is_global(str(entry[4][0])) for entry in socket.getaddrinfo(name, server.port)):
        pytest.skip("the name of this machine leads to a public address")
    with Way(f"{name}:{server.port}") as way:
        answer = way.ask(f"CONNECT {name}:{server.port} HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 403 ") and b"not one of the public internet" in answer
        assert way.proxy.refused == (f"{name}:{server.port}",)
    assert server.asked == []


def test_the_address_that_was_looked_at_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers differently the second time (DNS rebinding) is asked once."""
    answers = ["192.0.2.1", "127.0.0.1"]
    connected = []

    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), port))]

    class Socket(socket.socket):
        def connect(self, address: object) -> None:
            connected.append(address)
            raise ConnectionRefusedError("as expected")

    with Way("evil.example") as way, way.relay.connect() as client:
        monkeypatch.setattr(egress_module, "is_global", lambda address: address == "192.0.2.1")
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(socket, "socket", Socket)
        client.sendall(b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 502 evil.example:443 does not answer")
        monkeypatch.undo()
    assert connected == [("192.0.2.1", 443)]
    assert answers == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00 junk\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: pypi.org\r\n\r\n", b"400"),
        (b"GET http://pypi.org/ HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, b"431"),
        (b"CONNECT no-such-host.invalid:443 HTTP/1.1\r\n\r\n", b"502"),
    ],
)
def test_what_cannot_be_carried_out_is_answered(request_: bytes, status: bytes) -> None:
    with Way("pypi.org", "no-such-host.invalid") as way:
        assert way.ask(request_).split()[1] == status


def test_a_server_that_is_not_there_is_no_refusal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with Way(f"127.0.0.1:{port}") as way:
        assert way.ask(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n").split()[1] == b"502"
        assert way.proxy.refused == ()


def test_two_hundred_connections_at_once_are_all_served(server: Server) -> None:
    request = f"GET http://{server.host}/ HTTP/1.1\r\n\r\n".encode()
    with Way(server.host) as way, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(way.relay.connect()) for _ in range(200)]
        for client in clients:
            client.sendall(request)
        for client in clients:
            assert client.makefile("rb").read().endswith(b"answer to /\n")
            client.close()
        assert way.channel.is_alive() and len(server.asked) == 200


def test_a_program_that_stops_reading_holds_up_no_other(server: Server) -> None:
    with Way(server.host) as way, way.relay.connect() as idle:
        idle.sendall(f"GET http://{server.host}/large HTTP/1.1\r\n\r\n".encode())
        time.sleep(0.2)
        started = time.monotonic()
        for _ in range(20):
            assert way.ask(f"GET http://{server.host}/ HTTP/1.1\r\n\r\n").endswith(b"answer to /\n")
        assert time.monotonic() - started < 5
        assert len(idle.makefile("rb").read()) > LARGE


# In a container.

FETCH = """
import sys, urllib.request
for url in sys.argv[1:]:
    try: print(urllib.request.urlopen(url, timeout=20).read().decode()[:100])
    except Exception as error: print(repr(error), getattr(error, "read", bytes)().decode())
"""


def fetch(container: Container, egress: Egress, *urls: str) -> str:
    return container.execute(["python3", "-c", FETCH, *urls], environment=egress.environment, timeout_s=60).output


@pytest.fixture
def egress(container: Container, server: Server) -> Iterator[Egress]:
    container.kill_processes()
    with Egress.open(container, [server.host, "pypi.invalid"]) as egress:
        yield egress


@pytest.mark.docker
def test_from_a_container_only_what_is_allowed_is_reached(container: Container, server: Server, egress: Egress) -> None:
    output = fetch(container, egress, f"http://{server.host}/x", "http://evil.example/", "https://evil.example/")
    assert "answer to /x" in output
    assert f"evil.example:80 is not on the allow-list of this container: {server.host}, pypi.invalid" in output
    assert "Tunnel connection failed: 403 evil.example:443 is not on the allow-list" in output
    assert egress.proxy.refused == ("evil.example:80", "evil.example:443")
    past = "import socket; socket.create_connection(('1.1.1.1', 80), 5)"
    assert "unreachable" in container.execute(["python3", "-c", past]).output
    assert container.execute(["ls", "/sys/class/net"]).output == "lo\n"


@pytest.mark.docker
def test_a_tunnel_from_a_container_carries_megabytes(container: Container, digesting: int) -> None:
    program = f"""
import socket
client = socket.create_connection(("127.0.0.1", 3128))
client.sendall(b"CONNECT 127.0.0.1:{digesting} HTTP/1.1\\r\\n\\r\\n")
answers = client.makefile("rb")
print(answers.readline(), answers.readline())
client.sendall(bytes({LARGE})); client.shutdown(socket.SHUT_WR)
print(answers.readline(), len(answers.read()))
"""
    container.kill_processes()
    with Egress.open(container, [f"127.0.0.1:{digesting}"]):
        output = container.execute(["python3", "-c", program], timeout_s=60).output
    assert output.splitlines()[1] == f"b'{LARGE}\\n' {LARGE}"


@pytest.mark.docker
def test_junk_on_the_port_harms_nobody(container: Container, server: Server, egress: Egress) -> None:
    flood = "head -c 3000000 /dev/urandom >/dev/tcp/127.0.0.1/3128"
    container.execute(["bash", "-c", f"for i in $(seq 30); do ({flood}) & done; wait"], timeout_s=60)
    assert egress.is_alive()
    assert "answer to /" in fetch(container, egress, f"http://{server.host}/")


RELAY_PID = "$(pgrep -f 'relay 3128' | head -1)"


@pytest.mark.docker
def test_junk_on_the_relays_output_ends_the_channel(container: Container, server: Server, egress: Egress) -> None:
    attack = f"head -c 100000 /dev/zero | tr '\\0' '\\177' >/proc/{RELAY_PID}/fd/1"
    output = container.execute(["bash", "-c", attack]).output
    if "Permission denied" in output:  # an engine that keeps its execs apart
        assert egress.is_alive()
        return
    deadline = time.monotonic() + 10
    while egress.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not egress.is_alive()
    assert egress.reopen() == ""
    assert "answer to /" in fetch(container, egress, f"http://{server.host}/")


@pytest.mark.docker
def test_who_takes_the_relays_place_gets_no_further(container: Container, egress: Egress) -> None:
    """Its pipes can be taken over by a process of the same user; what goes through them is still checked here."""
    program = """
import os, signal, struct, sys, time
pid = int(sys.argv[1])
output, input = os.open(f"/proc/{pid}/fd/1", os.O_WRONLY), os.open(f"/proc/{pid}/fd/0", os.O_RDONLY)
os.kill(pid, signal.SIGKILL)
request = b"CONNECT evil.example:443 HTTP/1.1\\r\\n\\r\\n"
os.write(output, struct.pack(">II", 7 | 1 << 31, 1 << 18) + struct.pack(">II", 7, len(request)) + request)
time.sleep(0.5)
print(os.read(input, 1000))
"""
    output = container.execute(["bash", "-c", f'python3 -c "$1" {RELAY_PID}', "bash", program], timeout_s=20).output
    assert "HTTP/1.1 403 evil.example:443" in output or "PermissionError" in output, output
    assert egress.proxy.sent_bytes == 0


@pytest.mark.docker
def test_the_end_of_all_processes_ends_it_and_it_can_be_opened_again(
    container: Container, server: Server, egress: Egress
) -> None:
    assert egress.is_alive()
    fetch(container, egress, "http://evil.example/")
    container.kill_processes()
    assert not egress.is_alive()
    assert egress.reopen() == "" and egress.is_alive()
    assert "answer to /" in fetch(container, egress, f"http://{server.host}/")
    assert egress.reopen() == ""  # also while it runs
    assert "answer to /" in fetch(container, egress, f"http://{server.host}/")
    assert egress.proxy.refused == ("evil.example:80",)
    egress.close()
    egress.close()
    assert not egress.is_alive()
    assert container.execute(["pgrep", "-f", "relay 3128"]).output == ""


@pytest.mark.docker
def test_closing_leaves_no_threads_and_no_descriptors(container: Container, server: Server) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = []
    for _ in range(2):
        before.append(descriptors())
        with Egress.open(container, [server.host]) as egress:
            fetch(container, egress, f"http://{server.host}/")
        deadline = time.monotonic() + 5
        while any(thread.name.startswith("srl-swe-relay") for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert descriptors() <= before[1] + 1


@pytest.mark.docker
def test_the_shells_variables(container: Container, egress: Egress) -> None:
    assert egress.environment == {
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:3128"),
        **dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,::1"),  # 127.0.0.1 is on the list
    }


@pytest.mark.docker
def test_without_python_it_says_so_and_a_malformed_list_starts_nothing(engine: Engine) -> None:
    limits = ContainerLimits(memory_bytes=128 << 20, max_processes=64)
    with Container.start(engine, IMAGE, limits=limits) as container:
        with pytest.raises(ConfigError, match=r"'http://x'"):
            Egress.open(container, ["http://x"])
        with Egress.open(container, []) as egress:
            container.execute(["bash", "-c", "rm -f /usr/bin/python3* /usr/local/bin/python3*"])
            container.kill_processes()
            assert "no python3" in egress.reopen()
            assert not egress.is_alive()
        with pytest.raises(ContainerError, match="no python3"):
            Egress.open(container, [])
        container.close()
        with pytest.raises(ContainerError, match="closed"):
            egress.reopen()
