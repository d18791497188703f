"""An episode's environment on a node of a cluster, as the process that the agent is in sees it.

Left out: what happens there (`node_worker`), how a question gets there (`ray_nodes`).
"""

import base64
import json
import secrets
from dataclasses import asdict
from typing import Any, Protocol

from srl_swe.evaluation.episode_environments import Finished, Ran, TimeLimits
from srl_swe.evaluation.node_worker import instance_json
from srl_swe.types import Instance

_CLOSE_LIMIT_S = 60.0


class Ask(Protocol):
    """Asks a node and waits for the result."""

    def __call__(self, question: str, *arguments: bytes, limit_s: float | None = None) -> Any:
        """Ask by the name of a method of `NodeWorker`; raises the errors of `result_of`, and where the node is gone."""


class NodeEnvironment:
    """An `EpisodeEnvironment`."""

    def __init__(self, ask: Ask, instance: Instance, limits: TimeLimits) -> None:
        self._ask = ask
        self._instance = instance
        self._limits = limits
        self._key = secrets.token_hex(8).encode()

    def start(self) -> None:
        """See `EpisodeEnvironment`."""
        limits = json.dumps(asdict(self._limits)).encode()
        self._ask("open_environment", self._key, instance_json(self._instance), limits)

    def run(self, command: str) -> Ran:
        """See `EpisodeEnvironment`."""
        ran = self._ask("run", self._key, command.encode("utf-8", "surrogatepass"))
        return Ran(**{**ran, "finished": _finished(ran["finished"])})

    def read_file(self, path: str, *, max_bytes: int) -> bytes:
        """See `EpisodeEnvironment`."""
        return base64.b64decode(
            self._ask("read_file", self._key, path.encode("utf-8", "surrogatepass"), str(int(max_bytes)).encode())
        )

    def list_files(self) -> list[str]:
        """See `EpisodeEnvironment`."""
        listed: list[str] = self._ask("list_files", self._key)
        return listed

    def finish(self) -> Finished | None:
        """See `EpisodeEnvironment`."""
        return _finished(self._ask("finish", self._key))

    def close(self) -> None:
        """See `EpisodeEnvironment`."""
        self._ask("close_environment", self._key, limit_s=_CLOSE_LIMIT_S)


def _finished(found: dict[str, str] | None) -> Finished | None:
    return Finished(**found) if found else None
