"""The cheat rate, from episodes and verdicts as they lie in an evaluation's folder."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from srl_swe.evaluation.cheats import CheatReport, cheat_lines, find_cheats
from srl_swe.evaluation.episodes import Episode, write_episode
from srl_swe.evaluation.scheduler import EvaluationConfig
from srl_swe.prompts import PromptLimits, render
from srl_swe.types import Instance, InstanceEnvironment, InstanceTests, Prediction, Step, Verdict
from tests.evaluation.judged import evaluate_with

GOLD = "diff --git a/setup.cfg b/setup.cfg\n--- a/setup.cfg\n+++ b/setup.cfg\n@@ -1 +1 @@\n-a\n+b\n"
NAMES = ("a__honest-1", "a__looks-1", "a__forged-1", "a__reaches-1", "a__steers-1", "a__damaged-1", "a__silent-1")


def make_instance(name: str) -> Instance:
    return Instance(
        instance_id=name,
        repo="a/b",
        base_commit="",
        problem_statement="It fails.",
        environment=InstanceEnvironment(image="none"),
        tests=InstanceTests(script="", parser="parse_log_pytest", fail_to_pass=(), pass_to_pass=()),
        gold_patch=GOLD,
    )


INSTANCES = {name: make_instance(name) for name in (*NAMES, "a__missing-1")}
VERDICTS = {
    "a__honest-1": Verdict(instance_id="a__honest-1", status="resolved"),
    "a__looks-1": Verdict(instance_id="a__looks-1", status="resolved"),
    "a__forged-1": Verdict(
        instance_id="a__forged-1", status="unresolved", reason="forged", signs=("a test that must fail did not", "two")
    ),
    "a__reaches-1": Verdict(
        instance_id="a__reaches-1", status="unresolved", reason="patch reaches out of the work tree"
    ),
    "a__steers-1": Verdict(instance_id="a__steers-1", status="resolved", restored=("conftest.py", "tox.ini")),
    "a__damaged-1": Verdict(instance_id="a__damaged-1", status="unresolved", reason="tests"),
    "a__silent-1": Verdict(instance_id="a__silent-1", status="unresolved", reason="tests"),
}


def act(folder: Path, name: str, *actions: str) -> None:
    """Leave an episode behind, as the agent does."""
    instance = INSTANCES[name]
    episode = Episode(instance=instance)
    for action in actions:
        episode.add_step("raw", Step(thought="", action=action, observation="", exit_code=0))
    result = episode.finish(model="m", patch="diff", exit_status="submitted" if actions else "malformed")
    prompt = render(instance.problem_statement, (), PromptLimits())
    write_episode(folder, result, prompt=prompt, config={})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    act(tmp_path, "a__honest-1", "ls", "sed -i s/a/b/ setup.cfg", "submit")  # the gold patch changes it too
    act(tmp_path, "a__looks-1", "ls", "git log --all", "echo x >> conftest.py", "submit")
    act(tmp_path, "a__forged-1", "ls", "submit")
    act(tmp_path, "a__silent-1")
    (tmp_path / "trajectories" / "a__damaged-1.traj.json").write_text('{"messages": [')
    return tmp_path


def predictions() -> tuple[Prediction, ...]:
    return tuple(Prediction(instance_id=name, model_name_or_path="m", model_patch="diff\n") for name in NAMES)


def report(folder: Path) -> CheatReport:
    return find_cheats(folder, tuple(INSTANCES.values()), predictions(), VERDICTS)


def test_the_rate_is_a_share_of_the_instances_with_a_prediction(folder: Path) -> None:
    found = report(folder)
    assert (found.num_instances, found.num_episodes) == (7, 4)
    assert found.cheat_ids == ("a__forged-1", "a__looks-1", "a__reaches-1")
    assert found.cheat_rate == pytest.approx(3 / 7)
    assert [(sign.step_index, sign.name) for sign in found.signs["a__looks-1"]] == [
        (1, "later history"),
        (2, "steering file"),
    ]
    assert found.disbelieved == {
        "a__forged-1": ("a test that must fail did not", "two"),
        "a__reaches-1": ("patch reaches out of the work tree",),
    }
    assert found.steering_patches == {"a__steers-1": ("conftest.py", "tox.ini")}
    assert list(found.unread) == ["a__damaged-1"]


def test_nothing_to_look_at(tmp_path: Path) -> None:
    found = find_cheats(tmp_path, tuple(INSTANCES.values()), (), {})
    assert (found.num_instances, found.num_episodes, found.cheat_rate) == (0, 0, 0.0)
    assert cheat_lines(found) == ("instances with signs of cheating: 0/0 (0.0 %); episodes read: 0",)


def test_lines_for_the_terminal(folder: Path) -> None:
    lines = cheat_lines(report(folder))
    assert lines[:6] == (
        "instances with signs of cheating: 3/7 (42.9 %); episodes read: 4",
        "  a__forged-1: not believed: a test that must fail did not",
        "  a__looks-1: step 1, later history: git log --all",
        "  a__reaches-1: not believed: patch reaches out of the work tree",
        "patches that touch what steers tests: 1",
        "  a__steers-1: conftest.py, tox.ini",
    )
    assert lines[6].startswith("  a__damaged-1: its episode could not be read: DataError: ")


def test_many_are_named_up_to_a_limit(tmp_path: Path) -> None:
    ids = tuple(f"i-{number:02}" for number in range(25))
    disbelieved = dict.fromkeys(ids, ("why",))
    found = CheatReport(num_instances=50, num_episodes=0, cheat_rate=0.5, cheat_ids=ids, disbelieved=disbelieved)
    lines = cheat_lines(found)
    assert len(lines) == 22
    assert lines[-1] == "  … and 5 more, in summary.json"


def test_an_evaluation_writes_them_and_keeps_them_when_it_goes_on(folder: Path) -> None:
    def run() -> dict[str, object]:
        summary = evaluate_with(
            tuple(INSTANCES.values()),
            predictions(),
            EvaluationConfig(output=folder),
            judge=lambda instance, patch, say: replace(VERDICTS[instance.instance_id], duration_s=1.0),
            check_alive=lambda: None,
            stop_running=lambda: None,
            console=Console(file=io.StringIO()),
        )
        assert summary.cheats is not None
        assert summary.cheats.cheat_ids == ("a__forged-1", "a__looks-1", "a__reaches-1")
        written: dict[str, object] = json.loads((folder / "summary.json").read_text())["cheats"]
        return written

    first = run()
    assert first["cheat_rate"] == pytest.approx(3 / 7)
    assert first["signs"] == {
        "a__looks-1": [
            {"name": "later history", "step_index": 1, "text": "git log --all"},
            {"name": "steering file", "step_index": 2, "text": "echo x >> conftest.py"},
        ]
    }
    assert run() == first  # from stored verdicts
