"""A chat endpoint over real HTTP that answers what a test says."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the server does with one call."""

    content: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    """Before each of its bytes where `drip` is on, else before all of them."""
    drip: bool = False


def says(text: str | None, *, usage: tuple[int, int] | None = (100, 10), finish: str = "stop", **more: Any) -> Reply:
    """A chat completion."""
    answer: dict[str, Any] = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text, **more}, "finish_reason": finish}],
    }
    if usage is not None:
        answer["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Reply(content=json.dumps(answer).encode())


@dataclass
class ChatServer:
    """A running server and what it was asked."""

    url: str
    asked: list[dict[str, Any]]
    """Bodies of the calls, with the header Authorization beside them."""


@contextmanager
def chat_server(reply: Callable[[dict[str, Any], int], Reply]) -> Iterator[ChatServer]:
    """Serve on a free port; `reply` gets the body and the call's number from 0."""
    asked: list[dict[str, Any]] = []
    lock = threading.Lock()
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(asked)
                asked.append({**body, "path": self.path, "authorization": self.headers.get("Authorization")})
            answer = reply(body, number)
            if answer.wait_s and not answer.drip:
                over.wait(answer.wait_s)
            try:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                for byte in answer.content if answer.drip else ():
                    time.sleep(answer.wait_s)
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                if not answer.drip:
                    self.wfile.write(answer.content)
            except OSError:
                pass

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield ChatServer(url=f"http://127.0.0.1:{server.server_address[1]}/v1", asked=asked)
    finally:
        over.set()
        server.shutdown()
        server.server_close()


def instance_of(body: dict[str, Any]) -> str:
    """The problem statement in the prompt of a call."""
    text: str = body["messages"][1]["content"]
    return text.split("<issue>\n")[1].split("\n</issue>")[0]
