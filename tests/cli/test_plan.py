"""`srl-swe plan` as a user meets it, on a small set made here."""

import json
from pathlib import Path
from typing import Any

import pytest

from srl_swe.cli import plan
from srl_swe.curation.iteration_size import CHARS_PER_TOKEN
from srl_swe.errors import ConfigError, DataError, ModelError
from srl_swe.prompts import PromptLimits, render
from srl_swe.training.plan_model import PUBLISHED
from srl_swe.trajectories.store import read_steps, write_steps
from srl_swe.types import CompiledTrajectory, Step, Trajectory


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set") / "steps"
    shown = [
        Step(thought=f"now {name}", action=f"cat {name}.py", observation=f"def {name}():\n    pass\n" * 40, exit_code=0)
        for name in ("parse", "render", "write", "read")
    ]
    made = []
    for number in range(5):
        trajectory = Trajectory(
            trajectory_id=f"t{number}", instance_id=f"i{number}", problem_statement=f"Issue {number} is open. " * 30,
            steps=tuple(shown), patch="", source="made here", model="", resolved=None,
        )  # fmt: skip
        made.append(CompiledTrajectory(trajectory=trajectory, targets=(0, 1, 2, 3)))
    write_steps(made, folder, header={})
    return folder


def planned(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    assert plan.run([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_record_adds_up(steps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = planned(capsys, "--model", "Qwen/Qwen2.5-Coder-7B-Instruct", "--data", str(steps), "--gpus", "8xH100")
    assert made["model"]["parameters"] == 7_615_616_512
    assert made["fits"]
    memory = made["memory"]
    for phase, total in memory["phases"].items():
        assert total == sum(term["num_bytes"] for term in memory["terms"] if phase in term["phases"])
    assert memory["peak_bytes"] == max(memory["phases"].values()) <= made["devices"]["usable_bytes"]
    assert made["time"]["run_hours"] == pytest.approx(30 * made["time"]["epoch_hours"])
    assert "accelerate launch --use_fsdp" in made["command"]


def test_lengths_are_those_of_the_real_prompts(steps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = planned(capsys, "--model", "smollm2-135m", "--data", str(steps), "--gpus", "cpu", "--history", "1")
    prompts = [render(s.problem_statement, s.history, PromptLimits(history=1)) for s in read_steps(steps, "train")]
    chars = [len("\n\n".join(message["content"] for message in prompt)) for prompt in prompts]
    workload = made["workload"]
    assert workload["num_prompts"] == workload["num_steps"] == len(prompts)
    assert workload["prompt_tokens"] == pytest.approx(sum(chars) / CHARS_PER_TOKEN, rel=0.01)
    assert workload["row_tokens"] > workload["tree_tokens"]
    assert "--history 1" in made["command"]


def test_the_tables_say_what_is_assumed(steps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.run(["--model", "qwen2.5-0.5b", "--data", str(steps), "--gpus", "1xRTX4090"]) == 0
    shown = capsys.readouterr().out
    for part in ("494,032,768 parameters", "is assumed", "characters / 3.2", "logits", "proposed:", "srl-swe train"):
        assert part in shown


def test_nothing_fits_is_exit_code_1_and_says_why(steps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.run(["--model", "qwen2.5-32b", "--data", str(steps), "--gpus", "8xH100"]) == 1
    shown = capsys.readouterr().out
    assert "NOTHING FITS" in shown
    assert "loads the whole model in float32" in shown


def test_a_config_file_is_enough(steps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(PUBLISHED["llama-3.2-1b"])))
    words = ("--data", str(steps), "--gpus", "1x80GB")
    by_file = planned(capsys, "--model", str(tmp_path / "config.json"), *words)
    by_name = planned(capsys, "--model", "meta-llama/Llama-3.2-1B-Instruct", *words)
    assert by_file["memory"] == by_name["memory"]


def test_wrong_input_is_refused_with_what_to_do(steps: Path, tmp_path: Path) -> None:
    data = ["--data", str(steps)]
    with pytest.raises(ModelError, match="built in"):
        plan.run(["--model", "nobody/nothing", *data, "--gpus", "cpu"])
    with pytest.raises(ConfigError, match="not known; known are H200"):
        plan.run(["--model", "qwen2.5-0.5b", *data, "--gpus", "8xT800"])
    with pytest.raises(ConfigError, match="tokens_per_pack must be at least"):
        plan.run(["--model", "qwen2.5-0.5b", *data, "--gpus", "cpu", "--tokens-per-pack", "100"])
    with pytest.raises(ConfigError, match="must be below the context"):
        plan.run(["--model", "smollm2-135m", *data, "--gpus", "cpu", "--max-completion-tokens", "8192"])
    with pytest.raises(DataError):
        plan.run(["--model", "qwen2.5-0.5b", "--data", str(tmp_path), "--gpus", "cpu"])
    with pytest.raises(DataError, match="raise --max-prompt-tokens"):
        plan.run(["--model", "qwen2.5-0.5b", *data, "--gpus", "cpu", "--max-prompt-tokens", "10"])
