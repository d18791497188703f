"""Episodes of agents that go on by themselves, in real containers: endpoints, edits, and classes of every kind."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srl_swe.cli.eval import run as run_eval
from srl_swe.cli.eval.evaluate import EvalConfig
from srl_swe.environments.engine import Engine
from srl_swe.errors import ConfigError, EndpointRefusedError
from srl_swe.evaluation.acting import ActingEnvironment
from srl_swe.evaluation.agent_config import AgentConfig, AgentOutcome
from srl_swe.evaluation.independent import IndependentEpisodes
from srl_swe.evaluation.record import read_record
from srl_swe.evaluation.spending import SpendingAccount
from srl_swe.prompts import write
from srl_swe.types import Instance
from tests.evaluation.chat_server import Reply, chat_server, instance_of, says
from tests.evaluation.conftest import own_containers, tiny_instances, write_rows
from tests.evaluation.scripted import FIX, SUBMIT, told_apart

pytestmark = pytest.mark.docker

FIX_COMMAND = "sed -i 's/a - b/a + b/' calc.py"
EDIT = """\
<think>
The sign is wrong.
</think>
### calc.py
<<<<<<< SEARCH
    return a - b
=======
    return a + b
>>>>>>> REPLACE
"""


def play(
    act: Callable[[ActingEnvironment], object], instances: tuple[Instance, ...], output: Path, **options: Any
) -> AgentOutcome:
    class Acts:
        def act(self, environment: ActingEnvironment) -> Any:
            return act(environment)

    config = AgentConfig(**{"command_timeout_s": 20.0, "max_parallel": 3, **options})
    episodes = IndependentEpisodes(Acts, model_name="class", config=config, account=SpendingAccount())
    return episodes.run(instances, output)


def endings(output: Path) -> dict[str, str]:
    found = {}
    for path in (output / "trajectories").iterdir():
        record = json.loads(path.read_text())
        found[record["instance_id"]] = record["info"]["srl_swe"]["exit_status"]
    return found


def test_an_endpoint_acts_and_what_fails_there_is_invalid(
    tmp_path: Path, tiny_engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """One resolves after a busy answer, one writes nonsense, one is stopped by its steps, one's calls always fail."""
    rows = write_rows(tmp_path / "rows.jsonl", told_apart(4))
    solved, malformed, steps, failing = (f"tiny__calc-{number}" for number in range(4))
    script = {solved: [FIX, SUBMIT], malformed: ["nonsense"] * 3, steps: [write("I look.", "ls")] * 9}
    seen: dict[str, list[str]] = {solved: [], malformed: [], steps: []}
    is_broken = True

    def reply(body: dict[str, Any], number: int) -> Reply:
        name = instance_of(body)
        if name == failing and is_broken:
            # An endpoint that has never answered would end the evaluation: wait until one answer has been read.
            deadline = time.monotonic() + 30
            while len(seen[solved]) < 3 and time.monotonic() < deadline:
                time.sleep(0.05)
            return Reply(content=b"broken", status=500, headers={"Retry-After": "0"})
        if name == failing:
            return says(SUBMIT)
        if name == solved and not seen[name]:
            seen[name].append("busy")
            return Reply(content=b"busy", status=429, headers={"Retry-After": "0"})
        seen[name].append(body["messages"][1]["content"])
        return says(script[name].pop(0), usage=(1000, 100))

    with chat_server(reply) as server:
        asked = ["--instances", str(rows), "--endpoint", server.url, "--model", "served", "--output"]
        asked += [str(tmp_path / "out"), "--max-steps", "2", "--price-in", "1", "--price-out", "2"]
        asked += ["--request-attempts", "2"]
        assert run_eval(asked) == 1
        found = {each.instance_id: (each.outcome, each.reason) for each in read_record(tmp_path / "out").instances}
        assert found[solved] == ("resolved", "")
        assert found[malformed] == found[steps] == ("unresolved", "empty patch")
        assert found[failing][0] == "invalid"
        assert "EndpointError" in found[failing][1]
        assert "HTTP 500: broken" in found[failing][1]
        assert endings(tmp_path / "out") == {solved: "submitted", malformed: "malformed", steps: "step_limit"}
        assert "Your answer was malformed" in seen[malformed][1]
        assert FIX_COMMAND in seen[solved][2]
        # Seven answers of 1000 and 100 tokens: 7 * (1000 * 1 + 100 * 2) / 10^6.
        shown = capsys.readouterr().out
        assert "used in all runs: 7000 prompt and 700 completion tokens, cost 0.0084" in shown
        record = json.loads((tmp_path / "out" / "trajectories" / f"{solved}.traj.json").read_text())
        assert record["info"]["model_stats"] == {
            "instance_cost": pytest.approx(0.0024), "api_calls": 2, "prompt_tokens": 2000, "completion_tokens": 200
        }  # fmt: skip
        # The same command goes on where it stopped: only what was invalid is played.
        is_broken = False
        calls = len(server.asked)
        assert run_eval(asked) == 0
        assert [instance_of(body) for body in server.asked[calls:]] == [failing]
    assert own_containers(tiny_engine) == set()


def test_money_ends_an_evaluation_and_more_goes_on(
    tmp_path: Path, tiny_engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", told_apart(3))
    with chat_server(lambda body, number: says(SUBMIT, usage=(1, 10))) as server:
        asked = ["--instances", str(rows), "--endpoint", server.url, "--model", "served", "--output"]
        asked += [str(tmp_path / "out"), "--price-out", "1000000", "--max-completion-tokens", "50"]
        asked += ["--max-parallel", "1"]
        assert run_eval([*asked, "--max-cost", "65"]) == 1
        # Each may cost 50 and costs 10: two calls fit into 65, a third does not.
        outcomes = [each.outcome for each in read_record(tmp_path / "out").instances]
        assert sorted(outcomes) == ["not predicted", "unresolved", "unresolved"]
        assert "1 instances have no prediction: 20.0000 of the 65.0" in capsys.readouterr().out
        assert len(server.asked) == 2
        assert run_eval([*asked, "--max-cost", "80"]) == 0
        assert len(server.asked) == 3
        assert [each.outcome for each in read_record(tmp_path / "out").instances] == ["unresolved"] * 3


def test_samples_of_a_model_have_seeds_of_their_own(
    tmp_path: Path, tiny_engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The seeds of the first sample repair, those of the second do not."""
    rows = write_rows(tmp_path / "rows.jsonl", told_apart(1))

    def reply(body: dict[str, Any], number: int) -> Reply:
        repairs = body["seed"] < 1000 and FIX_COMMAND not in body["messages"][1]["content"]
        return says(FIX if repairs else SUBMIT)

    with chat_server(reply) as server:
        asked = ["--instances", str(rows), "--endpoint", server.url, "--model", "served", "--seed", "7"]
        asked += ["--samples", "2", "--temperature", "0.5", "--output", str(tmp_path / "out")]
        assert run_eval(asked) == 0
        assert [(body["seed"], body["temperature"]) for body in server.asked] == [(7, 0.5), (8, 0.5), (1_000_007, 0.5)]
    shown = capsys.readouterr().out
    assert "pass@1: 50.0 %" in shown
    assert "pass@2: 100.0 %" in shown


def test_a_refusing_endpoint_stops_at_once(tmp_path: Path, tiny_engine: Engine) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", told_apart(2))
    with chat_server(lambda body, number: Reply(content=b"who?", status=401)) as server:
        asked = ["--instances", str(rows), "--endpoint", server.url, "--model", "served"]
        with pytest.raises(EndpointRefusedError, match="HTTP 401: who"):
            run_eval([*asked, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "predictions.jsonl").exists()
    assert own_containers(tiny_engine) == set()


def test_single_shot_edits_from_the_command_line(tmp_path: Path, tiny_engine: Engine) -> None:
    """One edit is right, one is not found, one answer is malformed."""
    rows = write_rows(tmp_path / "rows.jsonl", told_apart(3))
    right, not_found, malformed = (f"tiny__calc-{number}" for number in range(3))
    answers = {right: EDIT, not_found: EDIT.replace("a - b", "a  -  b"), malformed: "I would change the sign."}

    def oracle(body: dict[str, Any], number: int) -> Reply:
        assert "<file path='calc.py'>\ndef add(a, b):\n    return a - b\n</file>" in body["messages"][1]["content"]
        return says(answers[instance_of(body)])

    out = tmp_path / "oracle-edit"
    with chat_server(oracle) as server:
        asked = ["--instances", str(rows), "--endpoint", server.url, "--model", "served", "--scaffold"]
        assert run_eval([*asked, "oracle-edit", "--output", str(out)]) == 0
        assert len(server.asked) == 3
    found = {each.instance_id: (each.outcome, each.reason) for each in read_record(out).instances}
    assert found == {
        right: ("resolved", ""),
        not_found: ("unresolved", "patch does not apply"),
        malformed: ("unresolved", "empty patch"),
    }
    assert endings(out)[malformed] == "malformed"
    record = json.loads((out / "trajectories" / f"{right}.traj.json").read_text())
    actions = [each["extra"]["actions"][0]["command"] for each in record["messages"] if each["role"] == "assistant"]
    assert actions[-1].startswith("git apply <<'PATCH'\ndiff --git a/calc.py b/calc.py\n")
    assert own_containers(tiny_engine) == set()


def test_agentless_shows_the_tree_and_takes_only_its_files(tmp_path: Path, tiny_engine: Engine) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", told_apart(2))
    right, lost = (f"tiny__calc-{number}" for number in range(2))

    def reply(body: dict[str, Any], number: int) -> Reply:
        shown = body["messages"][1]["content"]
        if "<files>" not in shown:
            assert instance_of(body) == right
            return says(EDIT)
        assert shown.endswith("<files>\ncalc.py\n</files>")
        return says(f"<think>\nI guess.\n</think>\n```\n{'calc.py' if instance_of(body) == right else 'other.py'}\n```")

    out = tmp_path / "agentless"
    with chat_server(reply) as server:
        asked = ["--instances", str(rows), "--endpoint", server.url, "--model", "served", "--scaffold", "agentless"]
        assert run_eval([*asked, "--output", str(out)]) == 0
        assert len(server.asked) == 3
    assert [each.outcome for each in read_record(out).instances] == ["resolved", "unresolved"]
    assert endings(out) == {right: "submitted", lost: "malformed"}


def test_waiting_for_an_endpoint_is_not_the_agents_time(tmp_path: Path, tiny_engine: Engine) -> None:
    """It answers once and is busy from then on, longer than the episode may take."""
    (instance,) = told_apart(1)
    rows = write_rows(tmp_path / "rows.jsonl", (instance,))
    busy = Reply(content=b"busy", status=503, headers={"Retry-After": "1"})
    with chat_server(lambda body, number: busy if number else says(FIX)) as server:
        words = ["--instances", str(rows), "--endpoint", server.url, "--model", "m", "--output", str(tmp_path / "out")]
        limits = ["--episode-limit-s", "4", "--request-attempts", "60", "--infrastructure-attempts", "1"]
        assert run_eval([*words, *limits]) == 1
    (outcome,) = read_record(tmp_path / "out").instances
    assert (outcome.outcome, "HTTP 503: busy" in outcome.reason) == ("invalid", True)
    assert not (tmp_path / "out" / "predictions.jsonl").exists()
    assert own_containers(tiny_engine) == set()


def test_a_start_that_takes_too_long_is_invalid_and_leaves_nothing(tmp_path: Path, tiny_engine: Engine) -> None:
    instances = tiny_instances(1)
    outcome = play(lambda environment: None, instances, tmp_path, start_limit_s=0.001, infrastructure_attempts=1)
    assert "did not start within 0.001 s" in outcome.invalid[instances[0].instance_id]
    deadline = time.monotonic() + 30
    time.sleep(1)  # the container that was on its way
    while own_containers(tiny_engine):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_every_kind_of_class(tmp_path: Path, tiny_engine: Engine) -> None:
    instances = told_apart(7)
    fixes, returns, raises, hides, loops, wrong, submits = (instance.instance_id for instance in instances)

    def act(environment: ActingEnvironment) -> object:
        name = environment.instance_id
        assert environment.problem_statement == name
        assert environment.read_file("calc.py").startswith(b"def add")
        assert environment.list_files() == ["calc.py"]
        if name == returns:
            return "not a diff"
        if name == wrong:
            return 3
        assert environment.run(FIX_COMMAND).exit_code == 0
        if name == raises:
            raise RuntimeError("my own fault")
        if name == loops:
            while True:
                environment.run("true")
        if name == hides:
            while True:
                try:
                    environment.run("exit 3")
                except Exception:  # noqa: BLE001 - an agent that does not notice its end
                    time.sleep(0.01)
        if name == submits:
            environment.run(" submit ")
        return None

    started = time.monotonic()
    outcome = play(act, instances, tmp_path, max_steps=5, episode_limit_s=5.0, max_parallel=7)
    assert outcome.invalid == {}
    assert time.monotonic() - started < 40
    assert endings(tmp_path) == {
        fixes: "submitted", returns: "submitted", raises: "agent_error", hides: "time_limit", loops: "step_limit",
        wrong: "agent_error", submits: "submitted",
    }  # fmt: skip
    patches = {each.instance_id: each.model_patch for each in outcome.predictions}
    assert patches.pop(returns) == "not a diff\n"
    assert patches.pop(wrong) == ""
    assert all("+    return a + b" in patch for patch in patches.values())
    errors = {result.trajectory.instance_id: result.error for result in outcome.episodes if result.error}
    assert errors[raises] == "RuntimeError: my own fault"
    assert "returned int; expected a patch" in errors[wrong]
    assert own_containers(tiny_engine) == set()


def test_a_lost_container_is_never_the_agents_failure(tmp_path: Path, tiny_engine: Engine) -> None:
    """An agent that hides the failure plays again; one whose container is always lost has no prediction."""
    instances = told_apart(2)
    once, always = (instance.instance_id for instance in instances)
    attempts: list[str] = []

    def act(environment: ActingEnvironment) -> object:
        name = environment.instance_id
        attempts.append(name)
        if name == always or attempts.count(name) == 1:
            for container in own_containers(tiny_engine):
                tiny_engine.remove(container)
        try:
            environment.run(FIX_COMMAND)
        except Exception:  # noqa: BLE001 - as agents do
            return "a patch of nothing"
        return None

    outcome = play(act, instances, tmp_path, infrastructure_attempts=2, max_parallel=1)
    assert attempts.count(always) == 2
    assert [(each.instance_id, "+    return a + b" in each.model_patch) for each in outcome.predictions] == [
        (once, True)
    ]
    assert list(outcome.invalid) == [always]


MODULE = """\
class Fixes:
    def act(self, environment):
        environment.run("sed -i 's/a - b/a + b/' calc.py")

class Needs:
    def __init__(self, what):
        pass
    def act(self, environment):
        pass

class Idle:
    pass
"""


def test_a_class_from_the_command_line(tmp_path: Path, tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agents_of_a_test.py").write_text(MODULE)
    rows = write_rows(tmp_path / "rows.jsonl", tiny_instances(1))
    asked = ["--instances", str(rows), "--output", str(tmp_path / "out"), "--agent"]
    assert run_eval([*asked, "agents_of_a_test:Fixes", "--samples", "2"]) == 0
    rates = json.loads((tmp_path / "out" / "samples.json").read_text())["pass_at_k"]
    assert rates == {"1": 1.0, "2": 1.0}
    for name, why in (
        ("agents_of_a_test", "expected module:Class"),
        ("no_such_module:Agent", "cannot be imported: ModuleNotFoundError"),
        ("agents_of_a_test:None", "cannot be imported: AttributeError"),
        ("agents_of_a_test:Needs", "cannot be made without arguments"),
        ("agents_of_a_test:Idle", r"a method act\(environment\)"),
    ):
        with pytest.raises(ConfigError, match=why):
            run_eval([*asked, name])


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"endpoint": "http://x"}, "exactly one of --model"),
        ({"gold": True, "endpoint": "http://x"}, "give the model's name there"),
        ({"gold": True, "scaffold": "agentless"}, "asks a model"),
        ({"model": "m", "samples": 2}, "are all the same: give a --temperature"),
        ({"model": "m", "endpoint": "http://x", "sampler": "vllm"}, "an endpoint samples by itself"),
        ({"model": "m", "agent_class": "a:B"}, "exactly one of"),
        ({"model": "m", "num_files": 0}, "num_files"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        EvalConfig(instances=Path("x.jsonl"), **options)
