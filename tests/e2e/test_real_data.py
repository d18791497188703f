"""The program as a user runs it, on real trajectories, a real instance and a real model."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

import srl_swe  # noqa: F401 - registers the environment
from srl_swe.demo.model import ensure_model
from srl_swe.environments.connect import connect_engine
from srl_swe.environments.grading import grade
from srl_swe.environments.images import ensure_image
from srl_swe.environments.instances import instance_from_row, load_instances, read_rows
from srl_swe.environments.leases import LABEL, is_abandoned
from srl_swe.environments.limits import ContainerLimits
from srl_swe.environments.sessions import open_session
from tests.environments.leaked_gold import find_gold
from tests.environments.rows.published import publish, remove

INSTANCE = "marshmallow-code__webargs.dbde72fe.func_basic__24h8gxtv"


def srl(*words: object, timeout_s: float = 600) -> str:
    outcome = subprocess.run(
        [sys.executable, "-c", "from srl_swe.cli.main import main; main()", *map(str, words)],
        capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stdout[-3000:] + outcome.stderr[-3000:]
    return outcome.stdout


@pytest.fixture
def instances(shared_data: Path) -> Path:
    return shared_data / "pypi_swe" / "instances.jsonl"


@pytest.fixture
def no_containers_left() -> Iterator[None]:
    """The commands have ended when a test has, so whatever they left has a dead owner."""
    yield
    with connect_engine() as engine:
        left = [row.id for row in engine.list_containers(LABEL) if is_abandoned(row.labels, running=row.running)]
    assert not left


def test_every_row_of_three_formats_compiles_or_has_a_reason(shared_data: Path, tmp_path: Path) -> None:
    trajectories = shared_data / "trajectories"
    names = ("swe_gym_openhands_sampled.jsonl", "swe_smith.jsonl", "mini_swe_agent", "expert_pypi")
    words = ("data", "compile", *(trajectories / name for name in names), "--out", tmp_path / "steps")
    printed = srl(*words, "--allow-swe-bench-repos")
    assert "swe_gym_openhands_sampled" in printed
    manifest = json.loads((tmp_path / "steps" / "manifest.json").read_text("utf-8"))
    row_reasons = ("duplicate", "bad_field", "bad_json", "no_problem_statement", "no_instance_id", "no_steps")
    dropped = sum(manifest["drops"].get(source, {}).get(reason, 0) for source in manifest["trajectories"]
                  for reason in row_reasons)  # fmt: skip
    assert sum(manifest["trajectories"].values()) + dropped == 31 + 19 + 42 + 58
    assert manifest["trajectories"]["mini_swe_agent"] == 42 + 58

    srl(*words)
    manifest = json.loads((tmp_path / "steps" / "manifest.json").read_text("utf-8"))
    assert manifest["drops"]["mini_swe_agent"]["excluded_repo"] == 28

    shown = srl("data", "show", tmp_path / "steps", "--index", 3)
    assert "expert's" in shown
    assert "```bash" in shown


@pytest.mark.docker
@pytest.mark.usefixtures("no_containers_left")
def test_gold_resolves_and_is_not_graded_twice(instances: Path, tmp_path: Path) -> None:
    words = ("eval", "--gold", "--instances", instances, "--instance-ids", INSTANCE, "--output", tmp_path / "gold")
    assert "1/1" in srl(*words)
    (verdict,) = (tmp_path / "gold" / "results").rglob("*.json")
    graded = verdict.stat().st_mtime_ns
    assert "1/1" in srl(*words)
    assert verdict.stat().st_mtime_ns == graded
    report = json.loads((tmp_path / "gold" / "report.json").read_text("utf-8"))
    assert report["resolved_ids"] == [INSTANCE]


@pytest.mark.docker
@pytest.mark.usefixtures("no_containers_left")
def test_ten_lines_solve_a_real_instance(instances: Path) -> None:
    (instance,) = (row for row in load_instances(instances) if row.instance_id == INSTANCE)
    commands = [f"git apply <<'PATCH'\n{instance.gold_patch}PATCH", "git diff --stat", "submit"]

    env = gym.make("srl_swe/SWE-v0", instances=str(instances), instance_id=INSTANCE)
    observation, info = env.reset(seed=0)
    assert observation == instance.problem_statement
    done, reward = False, 0.0
    while not done:
        _, reward, terminated, truncated, info = env.step(commands.pop(0))
        done = terminated or truncated
    env.close()

    assert info["verdict"].status == "resolved"
    assert reward == 1.0


@pytest.mark.docker
@pytest.mark.usefixtures("no_containers_left")
def test_the_gold_patch_is_nowhere_in_an_agents_container(instances: Path) -> None:
    (instance,) = (row for row in load_instances(instances) if row.instance_id == INSTANCE)
    with connect_engine() as engine:
        session = open_session(engine, instance.environment, limits=ContainerLimits(), keep_prepared=False)
        try:
            number, places = find_gold(session, instance)
            assert number > 0 and places == []
            session.container.write_file("/tmp/gold.diff", instance.gold_patch.encode())
            assert session.shell.run("git apply /tmp/gold.diff", timeout_s=30).exit_code == 0
            assert find_gold(session, instance)[1], "the search finds it where it is"
        finally:
            session.close()


@pytest.mark.docker
@pytest.mark.usefixtures("no_containers_left")
def test_a_bug_is_judged_alike_as_a_row_of_swe_smith(instances: Path) -> None:
    pytest.importorskip("swebench", reason="grading needs the extra [eval]")
    row = next(row for _, row in read_rows(instances) if row["instance_id"] == INSTANCE)
    image = "srl-swe/test-smith-webargs:1"
    columns = ("instance_id", "FAIL_TO_PASS", "PASS_TO_PASS", "problem_statement")
    smith_row = {name: row[name] for name in columns} | {"image_name": image, "patch": row["bug_patch"], "repo": "x"}
    ours, smith = instance_from_row(row, where="ours"), instance_from_row(smith_row, where="SWE-smith's")
    with connect_engine() as engine:
        ensure_image(engine, ours.environment)
        try:
            publish(engine, str(ours.tests.restore_image), (image,), "", {})
            gold = grade(engine, smith, smith.gold_patch)
            assert (gold.status, gold.signs) == ("resolved", ()), gold.log
            required = {*smith.tests.fail_to_pass, *smith.tests.pass_to_pass}
            expected = grade(engine, ours, ours.gold_patch).test_status
            assert {test: gold.test_status[test] for test in required} == {test: expected[test] for test in required}
            tried = grade(engine, smith, "--- /dev/null\n+++ b/notes.txt\n@@ -0,0 +1 @@\n+tried\n")
            assert (tried.status, tried.reason) == ("unresolved", "tests"), tried.log
            session = open_session(engine, smith.environment, limits=ContainerLimits(), keep_prepared=False)
            try:
                number, places = find_gold(session, smith)
                assert number > 0 and places == []
            finally:
                session.close()
        finally:
            remove(engine, image)


@pytest.mark.docker
@pytest.mark.model
@pytest.mark.slow
@pytest.mark.usefixtures("no_containers_left")
def test_a_model_is_trained_and_acts(shared_data: Path, instances: Path, tmp_path: Path) -> None:
    steps, runs = tmp_path / "steps", tmp_path / "runs"
    srl("data", "compile", shared_data / "trajectories" / "expert_pypi", "--out", steps)
    small = ("--max-prompt-tokens", 1200, "--max-completion-tokens", 96, "--max-observation-chars", 200)
    train = ("train", "--data", steps, "--model", ensure_model(), "--output", runs, "--method", "sft", *small,
             "--num-iterations", 1, "--prompts-per-iteration", 2, "--validation-examples", 1,
             "--tokens-per-pack", 1400, "--cached-tokens", 4096)  # fmt: skip
    assert "held-out mean reward" in srl(*train)

    printed = srl("eval", "--model", runs / "last", "--instances", instances, "--instance-ids", INSTANCE,
                  "--output", tmp_path / "acted", "--max-steps", 2, "--max-malformed", 2,
                  "--max-completion-tokens", 32)  # fmt: skip
    assert "/1" in printed
    record = json.loads((tmp_path / "acted" / "trajectories" / f"{INSTANCE}.traj.json").read_text("utf-8"))
    # The model acts on prompts of the size that it was trained on, without being told again.
    assert record["info"]["config"]["agent"]["limits"]["max_observation_chars"] == 200
