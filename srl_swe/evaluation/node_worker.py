"""What runs on a node of a cluster: gradings and episodes at the engine of that machine, asked and answered in JSON.

Knows nothing of Ray, which carries it there (`ray_nodes`). Left out: what is done where (`dispatch`, `acting_places`).
"""

import base64
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from srl_swe import errors
from srl_swe.errors import ContainerError, SrlSweError
from srl_swe.evaluation.episode_environments import EpisodeEnvironment, TimeLimits
from srl_swe.evaluation.results import harness_version
from srl_swe.types import Instance, Verdict

_INSTANCE: TypeAdapter[Instance] = TypeAdapter(Instance)
_VERDICT: TypeAdapter[Verdict] = TypeAdapter(Verdict)
_LOOK_S = 1.0
_OF_FILES = (FileNotFoundError, IsADirectoryError, ValueError)
"""What reading a file may raise by the agent's own doing."""


class NodeWorker:
    """Works at the engine that `connect_engine` finds on its machine. Its methods may run in many threads at once.

    Every answer is JSON: {"result": …}, or {"error": name of one of the project's errors, "message": …}.
    """

    def __init__(self, *, ends_with_parent: bool = False) -> None:
        """Do nothing yet: what goes wrong is to be an answer.

        With `ends_with_parent` this process ends when the one that started it has died: nobody would ask it any more,
        and what it has open would stay.
        """
        if ends_with_parent:
            threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
        self._place: Any = None
        self._environments: dict[bytes, EpisodeEnvironment] = {}
        self._aftermath: Any = None

    def open(self) -> bytes:
        """Connect to the engine, which removes what dead processes left there; say what is here."""

        def connect() -> Mapping[str, Any]:
            from srl_swe.environments.aftermath import Aftermath
            from srl_swe.environments.connect import connect_engine
            from srl_swe.evaluation.places import EnginePlace

            engine = connect_engine()
            self._place = EnginePlace(engine.name, engine, close_engine=True)
            # Who asked may be killed, and this process with it.
            self._aftermath = Aftermath()
            return {"engine": engine.name, "harness": harness_version(), "host": platform.node(), "pid": os.getpid()}

        return _answer(connect)

    def judge(self, instance: bytes, patch: bytes) -> bytes:
        """Grade a patch (UTF-8 with surrogates); the result is a verdict."""
        return _answer(
            lambda: asdict(
                self._place.judge(
                    _INSTANCE.validate_python(json.loads(instance)),
                    patch.decode("utf-8", "surrogatepass"),
                    lambda stage: None,
                )
            )
        )

    def open_environment(self, key: bytes, instance: bytes, limits: bytes) -> bytes:
        """Make an episode's environment, which `key` names from now on, and start its container."""

        def start() -> None:
            environment = self._place.open_environment(
                _INSTANCE.validate_python(json.loads(instance)), TimeLimits(**json.loads(limits))
            )
            self._environments[key] = environment
            environment.start()
            if self._environments.get(key) is not environment:
                # Closed meanwhile, as its start took too long.
                environment.close()
                raise ContainerError("the episode was closed before it had started")

        return _answer(start)

    def run(self, key: bytes, command: bytes) -> bytes:
        """Run a command (UTF-8 with surrogates) in an environment; the result is a `Ran`."""
        return _answer(lambda: asdict(self._of(key).run(command.decode("utf-8", "surrogatepass"))))

    def read_file(self, key: bytes, path: bytes, max_bytes: bytes) -> bytes:
        """Read a file (its path in UTF-8 with surrogates) in an environment; the result is its content in base64."""

        def read() -> str:
            content = self._of(key).read_file(path.decode("utf-8", "surrogatepass"), max_bytes=int(max_bytes))
            return base64.b64encode(content).decode()

        return _answer(read, expected=_OF_FILES)

    def list_files(self, key: bytes) -> bytes:
        """List the files of an environment's work tree."""
        return _answer(lambda: self._of(key).list_files())

    def finish(self, key: bytes) -> bytes:
        """End an environment's episode; the result is a `Finished`, or null."""

        def finish() -> Mapping[str, str] | None:
            finished = self._of(key).finish()
            return asdict(finished) if finished else None

        return _answer(finish)

    def close_environment(self, key: bytes) -> bytes:
        """Remove an environment's container; nothing happens where there is none of that name."""

        def close() -> None:
            environment = self._environments.pop(key, None)
            if environment is not None:
                environment.close()

        return _answer(close)

    def find_images(self, names: bytes) -> bytes:
        """Look for images by name; the result has the ids of those that are here."""
        return _answer(lambda: self._place.find_images(json.loads(names)))

    def check_alive(self) -> bytes:
        """Ask the engine whether it is there."""
        return _answer(lambda: self._place.check_alive())

    def stop(self) -> bytes:
        """Remove what runs, and start nothing more in this process."""

        def stop() -> None:
            from srl_swe.environments.container import open_containers

            open_containers.end_all()
            if self._aftermath is not None:
                self._aftermath.close()

        return _answer(stop)

    def _of(self, key: bytes) -> EpisodeEnvironment:
        try:
            return self._environments[key]
        except KeyError:
            raise ContainerError(f"there is no episode {key.decode()} here; it was closed") from None


def _end_with_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)  # the aftermath removes what is left


def instance_json(instance: Instance) -> bytes:
    """Return an instance as `NodeWorker.judge` takes it."""
    return json.dumps(asdict(instance)).encode()


def verdict_from(result: object) -> Verdict:
    """Return the verdict in a result of `NodeWorker.judge`."""
    return _VERDICT.validate_python(result)


def result_of(answer: bytes) -> Any:
    """Return the result in an answer.

    Raises:
        SrlSweError, FileNotFoundError, IsADirectoryError, ValueError: the error that the answer names.
    """
    content = json.loads(answer)
    if "error" not in content:
        return content["result"]
    for of_file in _OF_FILES:
        if content["error"] == of_file.__name__:
            raise of_file(content["message"])
    kind = getattr(errors, content["error"], None)
    if not (isinstance(kind, type) and issubclass(kind, SrlSweError)):
        kind = ContainerError
    raise kind(content["message"])


def _answer(work: Callable[[], object], *, expected: tuple[type[Exception], ...] = ()) -> bytes:
    carried: tuple[type[Exception], ...] = (SrlSweError, *expected)
    try:
        return json.dumps({"result": work()}).encode()
    except carried as error:
        return json.dumps({"error": type(error).__name__, "message": str(error)}).encode()
