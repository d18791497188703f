"""The nodes of a Ray cluster as places, each with the engine of its machine.

Ray starts one `NodeWorker` per node and carries questions and answers, which are JSON. Left out: the work on a node
(`node_worker`), which node does what (`dispatch`, `acting_places`), starting a cluster of several machines (Ray's own
commands).
"""

import json
import logging
import os
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from srl_swe.closing import Closing
from srl_swe.errors import (
    ConfigError,
    ContainerError,
    EngineTimeoutError,
    EngineUnavailableError,
    MissingExtraError,
    SrlSweError,
)
from srl_swe.evaluation.episode_environments import EpisodeEnvironment, TimeLimits
from srl_swe.evaluation.node_environment import NodeEnvironment
from srl_swe.evaluation.node_worker import NodeWorker, instance_json, result_of, verdict_from
from srl_swe.evaluation.places import LatelyTried, Place
from srl_swe.evaluation.results import harness_version
from srl_swe.types import Instance, Verdict

_LOOPBACK = "127.0.0.1"
_CONNECT_LIMIT_S = 15.0
_OPEN_LIMIT_S = 180.0
_ANSWER_LIMIT_S = 60.0
_STOP_LIMIT_S = 12.0
_TICK_S = 1.0
_MAX_SAID_CHARS = 2000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RayConfig:
    """Which nodes take part."""

    address: str | None = None
    """Of a running cluster, HOST:PORT or "auto"; None starts one on this machine alone."""
    resource: str | None = None
    """Only nodes that have this custom resource take part; None = all."""
    max_parallel: int = 2
    """Gradings at once on each node, and episodes."""


class RayNodes(Closing):
    """A connection to a cluster. One per process at a time."""

    def __init__(self, config: RayConfig) -> None:
        """Connect, or start Ray here: bound to the loopback interface, without its dashboard.

        Raises:
            MissingExtraError: ray is not installed.
            EngineUnavailableError: no cluster answers.
            ConfigError: the address is not one of a cluster's.
        """
        self._ray = _import_ray(local=config.address is None)
        self._config = config
        self._tried = LatelyTried()
        options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
        if config.address is None:
            options |= {"address": "local", "include_dashboard": False, "num_cpus": 1}
        elif "://" in config.address:
            raise ConfigError(
                f"the address of the cluster is {config.address!r}; expected HOST:PORT or auto. Ray's client "
                "(ray://) is not supported: run this on a machine of the cluster"
            )
        else:
            options["address"] = config.address
        try:
            _require_listener(config.address)
            self._ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError, AssertionError) as error:
            raise EngineUnavailableError(
                f"no Ray cluster answers at {config.address or 'this machine'}: {str(error)[:_MAX_SAID_CHARS]}. Start "
                "it with `ray start --head`, and `ray start --address=HOST:PORT` on this machine as well, by the same "
                "Ray and Python and with the same token (RAY_AUTH_MODE=token where there is one)"
            ) from error
        if config.address is None and any(node["NodeManagerAddress"] != _LOOPBACK for node in self._nodes()):
            self._ray.shutdown()
            raise ConfigError("Ray was imported before this, and would listen beyond this machine: give --ray-address")

    def open_places(self, not_wanted: Collection[str] = ()) -> list[Place]:
        """Begin on the nodes that are alive and not named in `not_wanted`; those that fail are tried again later.

        Raises:
            ContainerError: the cluster does not answer.
        """
        begun = []
        for node in self._nodes():
            name = f"{node['NodeManagerHostname']} (node {node['NodeID'][:8]})"
            if name not in not_wanted and self._tried.take(name):
                begun.append(_RayNode(self._ray, name, self._start(node["NodeID"])))
        opened: list[Place] = []
        until = time.monotonic() + _OPEN_LIMIT_S
        # All are asked before the first answer is waited for: each starts a process.
        questions = [(place, place.ask("open")) for place in begun]
        for place, question in questions:
            try:
                found = place.answer(question, until=until)
                if found["harness"] != harness_version():
                    raise EngineUnavailableError(
                        f"has {found['harness']}, expected {harness_version()} as here: install the same versions there"
                    )
            except SrlSweError as error:  # how a node is set up is its own, wrong names of engines too
                logger.warning("%s does not take part: %s", place.name, error)
                place.close()
            else:
                opened.append(place)
        return opened

    def close(self) -> None:
        """Disconnect; a cluster that was started here ends."""
        self._ray.shutdown()

    def _nodes(self) -> list[Mapping[str, Any]]:
        try:
            nodes = self._ray.nodes()
        except self._ray.exceptions.RayError as error:
            raise EngineUnavailableError(f"the Ray cluster does not answer: {error}") from error
        wanted = self._config.resource
        return [node for node in nodes if node["Alive"] and (wanted is None or node["Resources"].get(wanted, 0) > 0)]

    def _start(self, node_id: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options: dict[str, Any] = {
            # What is done there uses the engine, not Ray's processors.
            "num_cpus": 0,
            # Beside gradings and episodes there are questions, and what was left behind at its limit.
            "max_concurrency": 3 * self._config.max_parallel + 8,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
        }
        return self._ray.remote(NodeWorker).options(**options).remote(ends_with_parent=True)


class _RayNode:
    """A `Place`: the worker of one node."""

    def __init__(self, ray: ModuleType, name: str, actor: Any) -> None:
        self.name = name
        self._ray = ray
        self._actor = actor
        self._closed = False

    def ordered(self, instances: Sequence[Instance]) -> Sequence[Instance]:
        return instances

    def admit(self, instance: Instance) -> bool:
        return True

    def judge(self, instance: Instance, patch: str, say: Any) -> Verdict:
        say("tests")
        question = self.ask("judge", instance_json(instance), patch.encode("utf-8", "surrogatepass"))
        # Without a limit of its own: the caller's ends by closing the place, or leaves this behind.
        return verdict_from(self.answer(question, until=None))

    def open_environment(self, instance: Instance, limits: TimeLimits) -> EpisodeEnvironment:
        return NodeEnvironment(self._ask_and_wait, instance, limits)

    def find_images(self, names: Sequence[str]) -> Mapping[str, str]:
        found: dict[str, str] = self._quickly("find_images", json.dumps(list(names)).encode())
        return found

    def check_alive(self) -> None:
        self._quickly("check_alive")

    def stop_running(self) -> None:
        self.answer(self.ask("stop"), until=time.monotonic() + _STOP_LIMIT_S)

    def close(self) -> None:
        if self._closed:
            return
        try:
            # Ray ends the process as it is: what runs has to be removed before.
            self.stop_running()
        except ContainerError as error:
            logger.info("%s could not be told to stop: %s", self.name, error)
        self._closed = True
        self._ray.kill(self._actor)

    def ask(self, question: str, *arguments: bytes) -> Any:
        """Send a question; return what `answer` waits for."""
        if self._closed:
            raise EngineUnavailableError(f"{self.name} was taken out")
        try:
            return getattr(self._actor, question).remote(*arguments)
        except self._ray.exceptions.RayError as error:
            raise self._gone(error) from error

    def answer(self, question: Any, *, until: float | None) -> Any:
        """Wait for the result, at most until a moment of the monotonic clock, or until the place is closed.

        Raises:
            SrlSweError: the error that the node answered with.
            EngineTimeoutError: there was no answer in time.
            EngineUnavailableError: the node, or the process there, is gone.
        """
        try:
            while not self._ray.wait([question], timeout=_TICK_S)[0]:
                if self._closed:
                    raise EngineUnavailableError(f"{self.name} was taken out")
                if until is not None and time.monotonic() > until:
                    raise EngineTimeoutError(f"{self.name} did not answer in time")
            return result_of(self._ray.get(question))
        except self._ray.exceptions.RayError as error:
            raise self._gone(error) from error

    def _ask_and_wait(self, question: str, *arguments: bytes, limit_s: float | None = None) -> Any:
        until = None if limit_s is None else time.monotonic() + limit_s
        return self.answer(self.ask(question, *arguments), until=until)

    def _quickly(self, question: str, *arguments: bytes) -> Any:
        return self._ask_and_wait(question, *arguments, limit_s=_ANSWER_LIMIT_S)

    def _gone(self, error: Exception) -> ContainerError:
        said = " ".join(str(error)[:_MAX_SAID_CHARS].split())
        if isinstance(error, self._ray.exceptions.RayTaskError):
            return ContainerError(f"{self.name}: the worker failed: {said}")
        return EngineUnavailableError(f"{self.name} is gone: {said}")


def _require_listener(address: str | None) -> None:
    """Raise OSError where nothing listens at HOST:PORT; Ray itself takes minutes to say so."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_LIMIT_S).close()


def _import_ray(*, local: bool) -> ModuleType:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # A question that comes after the end would start another Ray.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    if local:
        # Read at the import: Ray then uses the loopback interface alone, as it does by itself on macOS.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # As is Ray's default, which it would tell about; others on this machine get nothing from it.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("--executor ray needs Ray: pip install 'srl-swe[fleet]'") from error
    module: ModuleType = ray
    return module
