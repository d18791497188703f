"""A relay between a local port and an engine's socket, which is cut to let the engine go away."""

import contextlib
import socket
import threading
import time


class Relay:
    """Carries bytes between a local port and the engine's socket until it is cut.

    What the engine says is held back for `held_s`, so that it arrives in larger pieces, as it does on a busy machine.
    """

    def __init__(self, target: str, *, port: int = 0, held_s: float = 0) -> None:
        self._target = target
        self._held_s = held_s
        self._listener = socket.create_server(("127.0.0.1", port))
        self._sockets: list[socket.socket] = [self._listener]
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._target)
                self._sockets += [near, far]
                for source, sink, held_s in ((near, far, 0.0), (far, near, self._held_s)):
                    threading.Thread(target=self._carry, args=(source, sink, held_s), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket, held_s: float) -> None:
        with contextlib.suppress(OSError):
            while source.recv(1, socket.MSG_PEEK):
                time.sleep(held_s)
                sink.sendall(source.recv(1 << 16))
            sink.shutdown(socket.SHUT_WR)
