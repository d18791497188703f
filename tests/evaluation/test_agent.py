"""Episodes in real containers, played by written completions: every way an episode can end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srl_swe.environments.engine import Engine
from srl_swe.environments.leases import LABEL
from srl_swe.errors import ConfigError, SamplerError
from srl_swe.evaluation.agent import Agent
from srl_swe.evaluation.agent_config import AgentConfig, AgentOutcome
from srl_swe.evaluation.predictions import read_predictions
from srl_swe.evaluation.scheduler import EvaluationConfig, evaluate
from srl_swe.prompts import render, write
from srl_swe.types import Instance
from tests.evaluation.conftest import own_containers
from tests.evaluation.scripted import FIX, MAX_CONTEXT, SUBMIT, ScriptedSampler, encode, told_apart

pytestmark = pytest.mark.docker


def act(
    sampler: ScriptedSampler,
    instances: tuple[Instance, ...],
    output: Path,
    *,
    max_context: int = MAX_CONTEXT,
    **options: object,
) -> AgentOutcome:
    config = AgentConfig(**{"max_completion_tokens": 100, "command_timeout_s": 20.0, **options})  # type: ignore[arg-type]
    return Agent(sampler, encode, max_context=max_context, model_name="scripted", config=config).run(instances, output)


def test_episodes_act_side_by_side_and_their_patches_resolve(tmp_path: Path, tiny_engine: Engine) -> None:
    instances = told_apart(3)
    look = write("What is there?", "cat calc.py")
    scripts = {instance.instance_id: [look] * number + [FIX, SUBMIT] for number, instance in enumerate(instances)}
    sampler = ScriptedSampler(scripts)
    outcome = act(sampler, instances, tmp_path)
    prompts = [prompt for batch in sampler.prompts for prompt in batch]
    assert len(prompts) == 2 + 3 + 4
    assert any(instances[2].instance_id in prompt and "return a - b" in prompt for prompt in prompts)
    assert {result.exit_status for result in outcome.episodes} == {"submitted"}
    by_id = {result.trajectory.instance_id: result for result in outcome.episodes}
    steps = by_id[instances[2].instance_id].trajectory.steps
    assert [step.action for step in steps][-2:] == ["sed -i 's/a - b/a + b/' calc.py", "submit"]
    assert steps[0].exit_code == 0
    assert own_containers(tiny_engine) == set()
    summary = evaluate(instances, outcome.predictions, EvaluationConfig(output=tmp_path), engine=tiny_engine)
    assert summary.num_resolved == 3
    assert read_predictions(tmp_path / "predictions.jsonl") == outcome.predictions


def test_a_slow_command_holds_no_other_episode(tmp_path: Path, tiny_engine: Engine) -> None:
    slow, quick = (instance.instance_id for instance in told_apart(2))
    scripts = {slow: [write("I wait.", "sleep 15"), SUBMIT], quick: [write("I look.", "ls")] * 5 + [SUBMIT]}
    sampler = ScriptedSampler(scripts)
    outcome = act(sampler, told_apart(2), tmp_path)
    asked = [quick if quick in prompt else slow for batch in sampler.prompts for prompt in batch]
    assert sorted(asked) == sorted([slow] * 2 + [quick] * 6)
    assert asked[-1] == slow
    assert [result.trajectory.instance_id for result in outcome.episodes] == [quick, slow]


def test_every_end(tmp_path: Path, tiny_engine: Engine) -> None:
    instances = told_apart(3)
    malformed, steps, context = (instance.instance_id for instance in instances)
    scripts = {
        malformed: ["no form", FIX, "<think></think>", "no form", "no form"],
        steps: [FIX, write("Again.", "false")],
        context: [FIX, write("Much.", "seq 9000")],
    }
    sampler = ScriptedSampler(scripts)
    outcome = act(
        sampler,
        instances,
        tmp_path,
        max_steps=3,
        max_malformed=3,
        max_context=3000,
    )
    by_id = {result.trajectory.instance_id: result for result in outcome.episodes}
    ends = {name: result.exit_status for name, result in by_id.items()}
    assert ends == {malformed: "malformed", steps: "step_limit", context: "context"}
    # What stands in the work tree at a limit is the prediction.
    assert all("+    return a + b" in result.trajectory.patch for result in outcome.episodes)
    assert by_id[malformed].num_malformed == 4
    assert [step.exit_code for step in by_id[steps].trajectory.steps] == [0, 1, 1]
    answered = [text for batch in sampler.prompts for text in batch if text.count(malformed)]
    assert "Your answer was malformed: Expected a <think>" in answered[1]
    assert "The <think> block is empty" in answered[3]
    assert own_containers(tiny_engine) == set()
    document = json.loads((tmp_path / "trajectories" / f"{malformed}.traj.json").read_text())
    assert document["info"]["srl_swe"]["exit_status"] == "malformed"


def test_the_time_limit_ends_a_command_and_keeps_the_patch(tmp_path: Path, tiny_engine: Engine) -> None:
    instances = told_apart(1)
    sampler = ScriptedSampler({instances[0].instance_id: [FIX, write("Slow.", "sleep 3600")]})
    started = time.monotonic()
    outcome = act(sampler, instances, tmp_path, episode_limit_s=4.0)
    assert time.monotonic() - started < 20
    (result,) = outcome.episodes
    assert result.exit_status == "time_limit"
    assert result.trajectory.steps[-1].exit_code is None
    assert "+    return a + b" in result.trajectory.patch


def test_a_call_that_could_exceed_the_token_limit_is_not_made(tmp_path: Path, tiny_engine: Engine) -> None:
    instances = told_apart(1)
    first = len(encode(render(instances[0].problem_statement, ())))
    sampler = ScriptedSampler({instances[0].instance_id: [FIX, SUBMIT]})
    # Room for the first call with its longest answer, and not for a second one like it.
    outcome = act(sampler, instances, tmp_path, max_episode_tokens=2 * first + 100)
    (result,) = outcome.episodes
    assert (result.exit_status, len(sampler.prompts)) == ("token_limit", 1)
    assert result.num_prompt_tokens == first
    assert "+    return a + b" in result.trajectory.patch


def test_a_lost_container_begins_the_episode_again(tmp_path: Path, tiny_engine: Engine) -> None:
    instances = told_apart(1)
    name = instances[0].instance_id

    def remove_containers(batch: int) -> None:
        if batch == 1:
            for container in own_containers(tiny_engine):
                tiny_engine.remove(container)

    sampler = ScriptedSampler({name: [FIX, FIX, FIX, SUBMIT]}, before_batch=remove_containers)
    outcome = act(sampler, instances, tmp_path)
    assert outcome.invalid == {}
    assert [result.exit_status for result in outcome.episodes] == ["submitted"]
    assert len(outcome.episodes[0].trajectory.steps) == 2
    assert "+    return a + b" in outcome.predictions[0].model_patch


def test_containers_that_always_die_make_it_invalid_not_empty(tmp_path: Path, tiny_engine: Engine) -> None:
    instances = told_apart(1)

    def remove_containers(batch: int) -> None:
        for container in own_containers(tiny_engine):
            tiny_engine.remove(container)

    sampler = ScriptedSampler({instances[0].instance_id: [FIX]}, before_batch=remove_containers)
    outcome = act(sampler, instances, tmp_path, infrastructure_attempts=2)
    assert len(sampler.prompts) == 2
    assert outcome.predictions == ()
    assert list(outcome.invalid) == [instances[0].instance_id]
    assert not (tmp_path / "predictions.jsonl").exists()
    summary = evaluate(
        instances,
        outcome.predictions,
        EvaluationConfig(output=tmp_path),
        engine=tiny_engine,
        invalid_episodes=outcome.invalid,
    )
    assert (summary.num_invalid, summary.num_unresolved, summary.num_not_predicted) == (1, 0, 0)


def test_a_sampler_that_fails_keeps_what_is_finished_and_leaves_no_container(
    tmp_path: Path, tiny_engine: Engine
) -> None:
    instances = told_apart(2)
    quick, late = (instance.instance_id for instance in instances)

    def fail(batch: int) -> None:
        if (tmp_path / "predictions.jsonl").exists():
            raise SamplerError("out of memory")

    look = write("I look.", "sleep 0.2")
    with pytest.raises(SamplerError, match="out of memory"):
        act(ScriptedSampler({quick: [SUBMIT], late: [look]}, before_batch=fail), instances, tmp_path)
    assert own_containers(tiny_engine) == set()
    assert [prediction.instance_id for prediction in read_predictions(tmp_path / "predictions.jsonl")] == [quick]
    sampler = ScriptedSampler({late: [FIX, SUBMIT]})
    outcome = act(sampler, instances, tmp_path)
    assert [prediction.instance_id for prediction in outcome.predictions] == [quick, late]
    assert len(sampler.prompts) == 2
    with pytest.raises(ConfigError, match="holds predictions of scripted, not of another"):
        Agent(sampler, encode, max_context=9000, model_name="another", config=AgentConfig()).run(instances, tmp_path)


RUN = """\
import sys, time
from pathlib import Path
from srl_swe.evaluation.agent import Agent
from srl_swe.evaluation.agent_config import AgentConfig
from srl_swe.prompts import render, write
from tests.evaluation.scripted import FIX, MAX_CONTEXT, SUBMIT, ScriptedSampler, encode, told_apart

instances = told_apart(4)
pause = write("I wait.", "sleep 1")
sampler = ScriptedSampler({instance.instance_id: [FIX, pause, SUBMIT] for instance in instances})
config = AgentConfig(max_completion_tokens=100, max_parallel=1)
agent = Agent(sampler, encode, max_context=MAX_CONTEXT, model_name="s", config=config)
outcome = agent.run(instances, Path(sys.argv[1]))
print("predicted", len(outcome.predictions), "episodes", len(outcome.episodes))
"""


def test_kill_9_and_run_again(tmp_path: Path, tiny_engine: Engine) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    predictions = tmp_path / "predictions.jsonl"
    with subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True) as first:
        deadline = time.monotonic() + 90
        while not (predictions.exists() and predictions.read_bytes().count(b"\n") >= 1):
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.kill()
    with predictions.open("a") as file:
        file.write('{"instance_id": "tiny__calc-3", "model_na')  # as a kill in the middle of a write leaves it
    kept = predictions.read_text().count("\n")
    assert 1 <= kept < 4
    second = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert second.returncode == 0, second.stderr
    assert f"predicted 4 episodes {4 - kept}" in second.stdout
    assert len(read_predictions(predictions)) == 4
    owners = [container.labels["srl_swe.pid"] for container in tiny_engine.list_containers(LABEL)]
    assert str(first.pid) not in owners


def test_ctrl_c_leaves_no_container(tmp_path: Path, tiny_engine: Engine) -> None:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    with subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 90
        while not (tmp_path / "predictions.jsonl").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "predictions; run the same command again to go on" in err
    assert str(process.pid) not in [container.labels["srl_swe.pid"] for container in tiny_engine.list_containers(LABEL)]


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_steps", 0), ("max_malformed", 0), ("temperature", -1.0), ("command_timeout_s", 0.0), ("max_parallel", 0)],
)
def test_config_ranges(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        AgentConfig(**{field: value})  # type: ignore[arg-type]


def test_no_room_for_a_prompt(tmp_path: Path) -> None:
    agent = Agent(ScriptedSampler({}), encode, max_context=1024, model_name="m", config=AgentConfig())
    with pytest.raises(ConfigError, match="leaves no room for a prompt"):
        agent.run((), tmp_path)


@pytest.mark.model
@pytest.mark.slow
def test_a_real_model_acts(tmp_path: Path, tiny_engine: Engine) -> None:
    import torch

    from srl_swe.demo.model import model_dir
    from srl_swe.training.policy import Policy
    from srl_swe.training.transformers_sampler import TransformersSampler

    if not (model_dir() / "config.json").is_file():
        pytest.skip(f"SmolLM2-135M-Instruct is not in {model_dir()}")
    policy = Policy.from_pretrained(str(model_dir()), compute_dtype=torch.bfloat16)
    sampler = TransformersSampler(policy, cached_tokens=32_768, concurrent_rollouts=8)
    instances = told_apart(2)
    config = AgentConfig(max_completion_tokens=64, max_steps=2, max_malformed=2)
    agent = Agent(sampler, policy.encode_prompt, max_context=policy.max_context, model_name="smollm2", config=config)
    outcome = agent.run(instances, tmp_path)
    assert len(outcome.predictions) == 2
    assert all(result.num_completion_tokens > 0 for result in outcome.episodes)
    assert own_containers(tiny_engine) == set()
