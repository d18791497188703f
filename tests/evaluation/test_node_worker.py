"""What a node answers, as it crosses between machines: JSON both ways."""

import json
from pathlib import Path
from typing import Any

import pytest

from srl_swe.environments.engine import Engine
from srl_swe.errors import ContainerError, DataError, EngineUnavailableError, ImageError
from srl_swe.evaluation.episode_environments import TimeLimits
from srl_swe.evaluation.node_environment import NodeEnvironment
from srl_swe.evaluation.node_worker import NodeWorker, instance_json, result_of, verdict_from
from srl_swe.evaluation.places import EnginePlace
from srl_swe.evaluation.results import harness_version
from tests.evaluation.conftest import GOLD_PATCH, TINY, TINY_IMAGE, own_containers


@pytest.mark.parametrize("kind", [DataError, EngineUnavailableError, ImageError])
def test_errors_keep_their_kind_and_words(kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^no room$"):
        result_of(json.dumps({"error": kind.__name__, "message": "no room"}).encode())


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "annotations", "SystemExit", "os", "__doc__"])
def test_other_names_are_failures_of_the_infrastructure(name: str) -> None:
    with pytest.raises(ContainerError):
        result_of(json.dumps({"error": name, "message": "x"}).encode())


def test_a_defect_of_the_grader_is_no_answer() -> None:
    """Whoever carries the answers takes it for a failure of the infrastructure."""

    class Place:
        def judge(self, *_: object) -> None:
            raise ValueError("a defect")

    worker = NodeWorker()
    worker._place = Place()
    with pytest.raises(ValueError, match="a defect"):
        worker.judge(instance_json(TINY), b"x")


@pytest.mark.docker
def test_a_verdict_crosses_as_it_is(tiny_engine: Engine) -> None:
    worker = NodeWorker()
    here = result_of(worker.open())
    assert here["harness"] == harness_version()
    assert here["engine"] == tiny_engine.name
    result_of(worker.check_alive())
    assert result_of(worker.find_images(json.dumps([TINY_IMAGE, "no/such:1"]).encode())).keys() == {TINY_IMAGE}
    # A lone surrogate stands for a byte that is no UTF-8; patches may hold some.
    patch = GOLD_PATCH + "diff --git a/x b/x\nnew file mode 100644\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+\udcff\n"
    verdict = verdict_from(result_of(worker.judge(instance_json(TINY), patch.encode("utf-8", "surrogatepass"))))
    local = EnginePlace("here", tiny_engine).judge(TINY, patch, lambda stage: None)
    assert (verdict.status, verdict.test_status) == (local.status, local.test_status)
    assert verdict.status == "resolved"
    with pytest.raises(DataError, match="no_such_parser"):
        tests = {**json.loads(instance_json(TINY))["tests"], "parser": "no_such_parser"}
        instance = {**json.loads(instance_json(TINY)), "tests": tests}
        result_of(worker.judge(json.dumps(instance).encode(), b"x\n"))


@pytest.mark.docker
def test_an_episode_crosses_as_it_is(tiny_engine: Engine) -> None:
    worker = NodeWorker()
    result_of(worker.open())

    def ask(question: str, *arguments: bytes, limit_s: float | None = None) -> Any:
        return result_of(getattr(worker, question)(*arguments))

    environment = NodeEnvironment(ask, TINY, TimeLimits(command_timeout_s=20, episode_limit_s=600))
    environment.start()
    try:
        ran = environment.run("printf 'caf\\303\\251'; sed -i 's/a - b/a + b/' calc.py; printf '\\377' >byte; exit 3")
        assert (ran.observation.splitlines()[0], ran.exit_code, ran.finished) == ("caf\u00e9", 3, None)
        assert environment.read_file("/testbed/byte", max_bytes=10) == b"\xff"
        with pytest.raises(FileNotFoundError, match="no-such-file"):
            environment.read_file("/testbed/no-such-file", max_bytes=10)
        with pytest.raises(IsADirectoryError):
            environment.read_file("/testbed", max_bytes=10)
        with pytest.raises(ValueError, match="absolute path"):
            environment.read_file("/testbed/\0", max_bytes=10)
        with pytest.raises(DataError, match="at most 1"):
            environment.read_file("/testbed/calc.py", max_bytes=1)
        assert environment.list_files() == ["calc.py"]
        finished = environment.finish()
        assert finished is not None
        assert finished.problem == ""
        assert "+    return a + b" in finished.patch
        assert environment.finish() is None
    finally:
        environment.close()
    environment.close()
    assert own_containers(tiny_engine) == set()
    with pytest.raises(ContainerError, match="there is no episode"):
        environment.run("true")

    late = NodeEnvironment(ask, TINY, TimeLimits(command_timeout_s=20, episode_limit_s=2))
    late.start()
    try:
        ended = late.run("echo more >>calc.py; sleep 30")
        assert ended.exit_code is None
        assert ended.finished is not None
        assert "+more" in ended.finished.patch
    finally:
        late.close()


def test_an_episode_that_is_closed_while_it_starts_leaves_nothing() -> None:
    worker, closed = NodeWorker(), []

    class Slow:
        def start(self) -> None:
            result_of(worker.close_environment(b"key"))

        def close(self) -> None:
            closed.append("closed")

    class Place:
        def open_environment(self, *_: object) -> Slow:
            return Slow()

    worker._place = Place()
    limits = json.dumps({"command_timeout_s": 1, "episode_limit_s": 1}).encode()
    with pytest.raises(ContainerError, match="closed before it had started"):
        result_of(worker.open_environment(b"key", instance_json(TINY), limits))
    assert closed == ["closed"] * 2


@pytest.mark.docker
def test_an_engine_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    with pytest.raises(EngineUnavailableError, match="cannot connect to a container engine"):
        result_of(NodeWorker().open())
