"""Replays in real containers: recorded episodes come out again, doctored ones do not, and failures are told apart."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from srl_swe.cli.data.replay import ReplayCommandConfig
from srl_swe.cli.data.replay import replay as replay_command
from srl_swe.curation.replay import ReplayConfig, ReplayResult, Watch, replay_set
from srl_swe.curation.replay_outcomes import ReplayFile, TrajectoryOutcome, read_replay
from srl_swe.environments.engine import Engine
from srl_swe.environments.instances import load_instances
from srl_swe.environments.swe_env import SWEEnv
from srl_swe.environments.wrappers import RecordEpisode
from srl_swe.errors import ConfigError, DataError
from srl_swe.trajectories.formats import DropCounter, read_trajectories
from srl_swe.trajectories.steps import StepFilter, compile_trajectories
from srl_swe.trajectories.store import REPLAY, write_steps
from srl_swe.types import Step, Trajectory
from tests.evaluation.conftest import SCRIPT, TINY, own_containers

pytestmark = pytest.mark.docker

COMMANDS = (
    "ls -la; git log; date",
    "cd /tmp && export X=5 && mktemp; mktemp -d",
    "pwd; echo $X; python3 -c 'print(object())'; false",
    "seq 20000",
    "echo before; sleep 60",
    "exit 3",
    "cd /testbed; sed -i 's/a - b/a + b/' calc.py; git diff",
    "submit",
)
TIMEOUT_S = 4.0
FAST = ReplayConfig(command_timeout_s=TIMEOUT_S, grade=False)


@pytest.fixture(scope="module")
def recorded(tiny_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    """An episode of our own, as it is read back from its record."""
    folder = tmp_path_factory.mktemp("records")
    env = SWEEnv([TINY], engine=tiny_engine, num_warm=0, grade=False, command_timeout_s=TIMEOUT_S)
    recording = RecordEpisode(env, folder)
    recording.reset()
    for command in COMMANDS:
        recording.step(command)
    recording.close()
    (trajectory,) = read_trajectories([folder], drops=DropCounter())
    return trajectory


def make_set(folder: Path, trajectories: Iterable[Trajectory]) -> Path:
    compiled = compile_trajectories(trajectories, step_filter=StepFilter(), drops=DropCounter())
    write_steps(compiled, folder, header={})
    return folder


def short(trajectory_id: str, *actions: tuple[str, str], instance_id: str = TINY.instance_id) -> Trajectory:
    """A run of a scaffold in which each command has a new shell."""
    steps = tuple(Step(thought="", action=action, observation=text, exit_code=0) for action, text in actions)
    return Trajectory(
        trajectory_id=trajectory_id,
        instance_id=instance_id,
        problem_statement="p",
        steps=steps,
        patch="",
        source="mini_swe_agent",
        model="",
        resolved=None,
    )


def replayed(folder: Path, engine: Engine, config: ReplayConfig = FAST, **options: object) -> ReplayResult:
    instances = options.pop("instances", [TINY])
    result = replay_set(folder, instances, config, engine=engine, **options)  # type: ignore[arg-type]
    assert not own_containers(engine)
    return result


def only(result: ReplayResult) -> TrajectoryOutcome:
    (outcome,) = result.outcomes
    return outcome


def never(outcome: TrajectoryOutcome) -> None:
    raise AssertionError("this was replayed before")


def test_a_recorded_episode_is_reproduced(tiny_engine: Engine, recorded: Trajectory, tmp_path: Path) -> None:
    folder = make_set(tmp_path / "steps", [recorded])
    outcome = only(replayed(folder, tiny_engine))
    assert [(step.status, step.reason, step.difference) for step in outcome.steps] == [("reproduced", "", "")] * 7
    assert [step.exit_code for step in outcome.steps] == [0, 0, 1, 0, None, 3, 0]
    assert outcome.shell == "persistent", "our own records are told from mini-swe-agent's"
    assert outcome.patch is not None and outcome.patch.equal and not outcome.patch.difference
    assert outcome.verdict is None and not outcome.failure

    again = replayed(folder, tiny_engine, watch=Watch(finish=never))
    assert again.outcomes == (outcome,) and again.num_earlier == 1
    graded = replayed(folder, tiny_engine, replace(FAST, grade=True))
    assert only(graded).verdict == "resolved" and graded.num_earlier == 0
    assert only(replayed(folder, tiny_engine, watch=Watch(finish=never))).verdict == "resolved"
    other_shell = only(replayed(folder, tiny_engine, replace(FAST, shell="fresh")))
    assert [step.status for step in other_shell.steps] == ["reproduced"] * 2 + ["differs"] + ["reproduced"] * 4
    assert len((folder / REPLAY).read_text().splitlines()) == 3
    assert read_replay(folder) == {recorded.trajectory_id: other_shell}


def test_what_was_doctored_differs(tiny_engine: Engine, recorded: Trajectory, tmp_path: Path) -> None:
    steps = list(recorded.steps)
    steps[0] = replace(steps[0], observation=steps[0].observation.replace("calc.py", "calc.pi"))
    steps[2] = replace(steps[2], exit_code=2)
    steps[3] = replace(steps[3], observation="0\n" + steps[3].observation)
    steps[5] = replace(steps[5], exit_code=4)
    doctored = replace(recorded, steps=tuple(steps), patch=recorded.patch.replace("a + b", "b + a"))
    outcome = only(replayed(make_set(tmp_path / "steps", [doctored]), tiny_engine, replace(FAST, shell="persistent")))
    statuses = [step.status for step in outcome.steps]
    assert statuses == ["differs", "reproduced", "differs", "differs", "reproduced", "failed", "reproduced"]
    assert "calc.pi" in outcome.steps[0].difference and "calc.py" in outcome.steps[0].difference
    assert outcome.steps[2].reason == "exit code 2 was recorded, it is 1 now"
    assert outcome.steps[5].reason == "the shell died"
    assert outcome.patch is not None and not outcome.patch.equal
    assert "b + a" in outcome.patch.difference and "a + b" in outcome.patch.difference


def test_each_command_of_mini_swe_agent_has_a_new_shell(tiny_engine: Engine, tmp_path: Path) -> None:
    actions = (
        ("cd /tmp && X=1 && export Y=2 && pwd", "/tmp\n"),
        ("pwd; echo \"[$X$Y]\"; set -u; f() { echo 'it''s'; }; f", "/testbed\n[]\nits\n"),
        ("exit 0; echo no", ""),
        ("cat <<'EOF'\n$X \\\n'\nEOF", "$X \\\n'\n"),
        ("python3 -c 'import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: pass'; touch after; sleep 60", ""),
        ("ls; nosuch; true", "calc.py\n/bin/bash: line 1: nosuch: command not found\n"),
    )
    outcome = only(replayed(make_set(tmp_path / "steps", [short("mini", *actions)]), tiny_engine))
    assert outcome.shell == "fresh"
    assert [step.status for step in outcome.steps] == ["reproduced"] * 4 + ["failed", "reproduced"]
    assert outcome.steps[4].reason == "the time limit of 4 s was reached; the recorded command ended by itself"


def test_the_recorded_surroundings_can_be_given(tiny_engine: Engine, tmp_path: Path) -> None:
    steps = (("echo $A; pwd; echo /data/x", "1 2\n/work/tree\n/data/x\n"),)
    folder = make_set(tmp_path / "steps", [short("one", *steps), replace(short("two", *steps), source="openhands")])
    assert [outcome.num_steps("differs") for outcome in replayed(folder, tiny_engine).outcomes] == [1, 1]
    config = replace(FAST, variables=("A=1 2",), same_paths=("/work/tree=/testbed",))
    result = replayed(folder, tiny_engine, config)
    assert result.num_earlier == 0, "other settings, other outcomes"
    assert [(outcome.shell, outcome.num_steps("reproduced")) for outcome in result.outcomes] == [
        ("fresh", 1),
        ("persistent", 1),
    ]


def test_root_has_the_capabilities_that_are_given(tiny_engine: Engine, tmp_path: Path) -> None:
    folder = make_set(tmp_path / "steps", [short("one", ("chmod 0 calc.py; wc -l calc.py", "2 calc.py\n"))])
    assert only(replayed(folder, tiny_engine)).steps[0].exit_code == 1, "permission bits bind root in our environment"
    config = replace(FAST, capabilities=("DAC_OVERRIDE",))
    assert only(replayed(folder, tiny_engine, config)).num_steps("reproduced") == 1


def removing(engine: Engine, stage: str, *, times: int) -> Watch:
    """Remove every container when a stage is reached, as a failing machine would."""
    left = [times]

    def look(trajectory_id: str, reached: str) -> None:
        if reached == stage and left[0]:
            left[0] -= 1
            for container in own_containers(engine):
                engine.remove(container)

    return Watch(stage=look)


def test_a_killed_container_is_a_failure_and_no_difference(tiny_engine: Engine, tmp_path: Path) -> None:
    run = short("one", ("echo a", "a\n"), ("echo b", "b\n"))
    folder = make_set(tmp_path / "steps", [run])
    failed = only(replayed(folder, tiny_engine, watch=removing(tiny_engine, "step 2 of 2", times=99)))
    assert failed.failure.startswith("infrastructure: ContainerError: ") and not failed.is_final
    assert failed.steps == () and failed.patch is None

    result = replayed(folder, tiny_engine, watch=removing(tiny_engine, "step 2 of 2", times=1))
    assert result.num_earlier == 0, "a failure of the infrastructure is tried again"
    assert [step.status for step in only(result).steps] == ["reproduced"] * 2
    assert read_replay(folder)["one"] == only(result)


def test_an_image_that_cannot_be_had_is_a_failure(tiny_engine: Engine, tmp_path: Path) -> None:
    folder = make_set(tmp_path / "steps", [short("one", ("echo a", "a\n"))])
    nowhere = replace(TINY, environment=replace(TINY.environment, image="localhost:9/srl-swe-none:1"))
    outcome = only(replayed(folder, tiny_engine, instances=[nowhere]))
    assert outcome.failure.startswith("infrastructure: ImageError: ")
    assert only(replayed(folder, tiny_engine)).num_steps("reproduced") == 1


def test_an_interrupted_replay_goes_on(tiny_engine: Engine, tmp_path: Path) -> None:
    runs = [short("quick", ("echo a", "a\n")), short("slow", ("sleep 3; echo b", "b\n"))]
    folder = make_set(tmp_path / "steps", runs)

    def interrupt(outcome: TrajectoryOutcome) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replayed(folder, tiny_engine, watch=Watch(finish=interrupt))
    assert not own_containers(tiny_engine)
    assert list(read_replay(folder)) == ["quick"]
    with (folder / REPLAY).open("a") as file:
        file.write('{"schema_version": 1, "content_h')  # a kill in the middle of a line
    seen: list[str] = []
    result = replayed(folder, tiny_engine, watch=Watch(finish=lambda outcome: seen.append(outcome.trajectory_id)))
    assert seen == ["slow"] and result.num_earlier == 1
    assert [outcome.num_steps("reproduced") for outcome in result.outcomes] == [1, 1]


def test_outcomes_of_another_set_are_dropped(tiny_engine: Engine, tmp_path: Path) -> None:
    first = make_set(tmp_path / "first", [short("one", ("echo a", "a\n"))])
    replayed(first, tiny_engine)
    second = make_set(tmp_path / "second", [short("one", ("echo a", "b\n"))])
    (second / REPLAY).write_bytes((first / REPLAY).read_bytes())
    assert read_replay(second) == {}
    assert only(replayed(second, tiny_engine)).num_steps("differs") == 1
    assert len((second / REPLAY).read_text().splitlines()) == 1
    make_set(second, [short("one", ("echo a", "a\n"))])
    assert not (second / REPLAY).exists(), "compiling again takes the outcomes away"


def test_missing_instances_are_counted_unless_all_are(tiny_engine: Engine, tmp_path: Path) -> None:
    runs = [short("one", ("echo a", "a\n")), *(short(str(n), ("ls", ""), instance_id="b__b-1") for n in range(2))]
    folder = make_set(tmp_path / "steps", runs)
    result = replayed(folder, tiny_engine)
    assert dict(result.missing) == {"b__b-1": 2} and len(result.outcomes) == 1
    with pytest.raises(DataError, match=r"none of its 3 trajectories .* \(--instances\)"):
        replayed(folder, tiny_engine, instances=[replace(TINY, instance_id="c__c-1")])


def test_one_process_at_a_time(tiny_engine: Engine, tmp_path: Path) -> None:
    folder = make_set(tmp_path / "steps", [short("one", ("echo a", "a\n"))])
    with ReplayFile(folder).writing(), pytest.raises(ConfigError, match="another process"):
        replayed(folder, tiny_engine)


def test_the_command_prints_a_table_and_the_differences(
    tiny_engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    row = {
        "instance_id": TINY.instance_id,
        "repo": TINY.repo,
        "base_commit": "HEAD",
        "problem_statement": "p",
        "patch": TINY.gold_patch,
        "FAIL_TO_PASS": list(TINY.tests.fail_to_pass),
        "PASS_TO_PASS": list(TINY.tests.pass_to_pass),
        "image": TINY.environment.image,
        "eval_script": f"cd /testbed\n{SCRIPT}",
        "log_parser": TINY.tests.parser,
    }
    (tmp_path / "instances.jsonl").write_text(json.dumps(row))
    fix = "sed -i 's/a - b/a + b/' calc.py"
    runs = [replace(short("one", (fix, ""), ("echo a", "z\n")), patch=TINY.gold_patch), short("two", ("true", ""))]
    folder = make_set(tmp_path / "steps", [*runs, short("three", ("ls", ""), instance_id="b__b-1")])
    config = ReplayCommandConfig(steps=folder, instances=tmp_path / "instances.jsonl")
    assert replay_command(config) == 0
    shown = capsys.readouterr()
    cells = [cell.strip() for line in shown.out.splitlines() if "│ mini_swe_agent" in line for cell in line.split("│")]
    assert cells[1:-1] == ["mini_swe_agent", "2", "0", "3", "2 (66.7%)", "1", "0", "2 of 2", "1 of 2"]
    assert "one, step 1: differs: the observation differs" in shown.out and "    -z\n    +a\n" in shown.out
    assert "two: unresolved: empty patch" in shown.out
    assert "not in the file of instances: 1 instances of 1 trajectories: b__b-1 (1)" in shown.out
    assert "one: 1 of 2 steps reproduced, 1 differs, patch equal, resolved" in shown.err


@pytest.mark.slow
def test_a_real_expert_run_is_reproduced(tiny_engine: Engine, shared_data: Path, tmp_path: Path) -> None:
    instance_id = "marshmallow-code__apispec.8b421526.func_basic__hmt9c8x4"
    run = read_trajectories([shared_data / "trajectories" / "expert_pypi" / instance_id], drops=DropCounter())
    folder = make_set(tmp_path / "steps", run)
    instances = load_instances(shared_data / "pypi_swe" / "instances.jsonl")
    outcome = only(replayed(folder, tiny_engine, ReplayConfig(), instances=instances))
    assert outcome.num_steps("reproduced") == len(outcome.steps) == 8, outcome.steps
    assert outcome.patch is not None and outcome.patch.equal and outcome.verdict == "resolved"
