"""What runs on a node of a cluster: gradings at the engine of that machine, asked and answered in JSON.

Knows nothing of Ray, which carries it there (`ray_nodes`). Left out: what is graded where (`dispatch`).
"""

import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from srl_swe import errors
from srl_swe.errors import ContainerError, SrlSweError
from srl_swe.evaluation.results import harness_version
from srl_swe.types import Instance, Verdict

_INSTANCE: TypeAdapter[Instance] = TypeAdapter(Instance)
_VERDICT: TypeAdapter[Verdict] = TypeAdapter(Verdict)


class NodeGrader:
    """Grades at the engine that `connect_engine` finds on its machine. Its methods may run in many threads at once.

    Every answer is JSON: {"result": …}, or {"error": name of one of the project's errors, "message": …}.
    """

    def __init__(self) -> None:
        """Do nothing yet: what goes wrong is to be an answer."""
        self._place: Any = None
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


def instance_json(instance: Instance) -> bytes:
    """Return an instance as `NodeGrader.judge` takes it."""
    return json.dumps(asdict(instance)).encode()


def verdict_from(result: object) -> Verdict:
    """Return the verdict in a result of `NodeGrader.judge`."""
    return _VERDICT.validate_python(result)


def result_of(answer: bytes) -> Any:
    """Return the result in an answer.

    Raises:
        SrlSweError: the error that the answer names.
    """
    content = json.loads(answer)
    if "error" not in content:
        return content["result"]
    kind = getattr(errors, content["error"], None)
    if not (isinstance(kind, type) and issubclass(kind, SrlSweError)):
        kind = ContainerError
    raise kind(content["message"])


def _answer(work: Callable[[], object]) -> bytes:
    try:
        return json.dumps({"result": work()}).encode()
    except SrlSweError as error:
        return json.dumps({"error": type(error).__name__, "message": str(error)}).encode()
