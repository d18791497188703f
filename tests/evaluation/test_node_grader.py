"""What a node answers, as it crosses between machines: JSON both ways."""

import json
from pathlib import Path

import pytest

from srl_swe.environments.engine import Engine
from srl_swe.errors import ContainerError, DataError, EngineUnavailableError, ImageError
from srl_swe.evaluation.node_grader import NodeGrader, instance_json, result_of, verdict_from
from srl_swe.evaluation.places import EnginePlace
from srl_swe.evaluation.results import harness_version
from tests.evaluation.conftest import GOLD_PATCH, TINY, TINY_IMAGE


@pytest.mark.parametrize("kind", [DataError, EngineUnavailableError, ImageError])
def test_errors_keep_their_kind_and_words(kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^no room$"):
        result_of(json.dumps({"error": kind.__name__, "message": "no room"}).encode())


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "annotations", "SystemExit", "os", "__doc__"])
def test_other_names_are_failures_of_the_infrastructure(name: str) -> None:
    with pytest.raises(ContainerError):
        result_of(json.dumps({"error": name, "message": "x"}).encode())


@pytest.mark.docker
def test_a_verdict_crosses_as_it_is(tiny_engine: Engine) -> None:
    grader = NodeGrader()
    here = result_of(grader.open())
    assert here["harness"] == harness_version()
    assert here["engine"] == tiny_engine.name
    result_of(grader.check_alive())
    assert result_of(grader.find_images(json.dumps([TINY_IMAGE, "no/such:1"]).encode())).keys() == {TINY_IMAGE}
    # A lone surrogate stands for a byte that is no UTF-8; patches may hold some.
    patch = GOLD_PATCH + "diff --git a/x b/x\nnew file mode 100644\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+\udcff\n"
    verdict = verdict_from(result_of(grader.judge(instance_json(TINY), patch.encode("utf-8", "surrogatepass"))))
    local = EnginePlace("here", tiny_engine).judge(TINY, patch, lambda stage: None)
    assert (verdict.status, verdict.test_status) == (local.status, local.test_status)
    assert verdict.status == "resolved"
    with pytest.raises(DataError, match="no_such_parser"):
        tests = {**json.loads(instance_json(TINY))["tests"], "parser": "no_such_parser"}
        instance = {**json.loads(instance_json(TINY)), "tests": tests}
        result_of(grader.judge(json.dumps(instance).encode(), b"x\n"))


@pytest.mark.docker
def test_an_engine_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    with pytest.raises(EngineUnavailableError, match="cannot connect to a container engine"):
        result_of(NodeGrader().open())
