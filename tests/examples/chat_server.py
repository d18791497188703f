"""A chat endpoint that answers with what a script says."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(kw_only=True, slots=True)
class ChatServer:
    answers: list[str | int]
    """Contents of completions, or status codes of failures, in order; the last is repeated."""
    base_url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@contextmanager
def chat_server(answers: Sequence[str | int]) -> Iterator[ChatServer]:
    """Serve /v1/chat/completions on a free port of this machine."""
    server = ChatServer(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = server.answers[min(len(server.requests), len(server.answers) - 1)]
            server.requests.append(json.loads(body))
            server.keys.append(self.headers["Authorization"])
            status = answer if isinstance(answer, int) else 200
            if self.path != "/v1/chat/completions":
                status = 404
            message = {"role": "assistant", "content": answer}
            reply = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            payload = json.dumps(reply if status == 200 else {"error": {"message": "not now"}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        server.base_url = f"http://127.0.0.1:{listener.server_port}/v1"
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
